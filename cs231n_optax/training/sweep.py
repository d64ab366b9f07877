"""Sweeps: one function of hyperparameters, for a whole table of them, on every device there is."""

import csv
import hashlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cs231n_optax import _checks
from cs231n_optax._files import UNREADABLE, replacing

Run = Callable[[dict[str, jax.Array]], Any]
Table = dict[str, np.ndarray]

LANE_BATCHES = (1, 4, 16, 64, 256)  # what may be tried where the clock decides


class OtherSweepError(ValueError):
    """A folder holds the results of another sweep."""


class SweepResult(NamedTuple):
    """What `sweep` returns: a table, a row a configuration.

    Attributes:
      hparams: the hyperparameters by name, NumPy arrays (rows,).
      outputs: what ``run`` returned, the tree of it, with NumPy arrays (rows, ...).
    """

    hparams: Table
    outputs: Any


class SweepProgress(NamedTuple):
    """What a callback of `sweep` hears after each batch, and once at the start.

    Attributes:
      num_finished: how many rows are, those of an earlier, interrupted sweep included.
      result: the table so far, of the finished rows alone.
    """

    num_finished: int
    result: SweepResult


def sweep(
    run: Run,
    grid: Mapping[str, Any] | Iterable[Mapping[str, Any]],
    *,
    batch_size: int | None = None,
    mesh: Mesh | None = None,
    path: str | Path | None = None,
    callback: Callable[[SweepProgress], Any] | None = None,
) -> SweepResult:
    """Evaluate a function at every row of a table of hyperparameters.

    The function is compiled once, for a batch of rows: each device of the mesh takes
    ``batch_size`` of them under one `jax.vmap`, all devices at once, batch after batch. Nothing is
    exchanged between devices or rows: a row that diverges costs the others nothing. With `fit`
    inside, its numbers are NaN, and ``state.nonfinite_step``, if ``run`` returns it, says when.

    Run again with the same ``batch_size`` on as many devices, it gives the same bits; a row agrees
    with ``run`` of that row alone to rounding.

    Args:
      run: ``run(hparams) -> tree of arrays``, any function that JAX can trace, of a dictionary
        with a scalar for each name: typically a `fit`, with any numeric hyperparameters of any
        method and of its decay. What it closes over, such as the data, becomes a constant of the
        program, on every device.
      grid: ``{name: values}`` for every combination of the values, those of the last name
        varying fastest. Or the rows one by one, ``[{name: value, ...}, ...]``: an explicit list,
        or scikit-learn's ``ParameterSampler`` for a random search. Numbers; floats become arrays
        of the default float dtype, so that seeds and counts stay integers.
      batch_size: rows that a device takes at once. None leaves it to the clock: 1 row, then 4,
        16, 64 and 256, as long as that is faster a row and what is left is worth a compilation.
        More is not always faster: on CPU convolutions with a kernel for each row are slower
        than one after the other.
      mesh: devices, all of whose axes are used; None takes all that JAX sees, those of other
        processes too, which then must make the same call.
      path: a folder, made if need be, to which each finished batch is saved, whole or not at all.
        The same sweep started again, after Ctrl-C or kill -9 at any moment, goes on from there.
        A finished one only reads. What is the same is decided by the table and the compiled
        program of ``run``, with its data: so not the name of the machine, but the version of JAX.
      callback: called with `SweepProgress` before the first batch and after each.

    Returns:
      `SweepResult` ``(hparams, outputs)``, on every process.

    Raises:
      ValueError: if the grid is empty or ragged, or its table would take more than 4 GiB, with the
        bytes; if a value is no scalar, ``batch_size`` < 1; or, an `OtherSweepError`, if the folder
        holds the results of another sweep.
      TypeError: if a name is no string or a value no number, ``run`` returns what is not an array
        of numbers, ``run`` or ``callback`` is no function, or ``mesh`` no mesh.

    Example:
      >>> import cs231n_optax, jax, jax.numpy as jnp
      >>> def loss(x, batch): return jnp.sum(batch * x**2)
      >>> def run(hparams):
      ...     tx = cs231n_optax.momentum(hparams["learning_rate"], hparams["rho"])
      ...     return cs231n_optax.fit(loss, jnp.ones(2), tx, jnp.array([[1., 9.]]), steps=30).params
      >>> result = cs231n_optax.sweep(run, {"learning_rate": [0.01, 0.1], "rho": [0.0, 0.5, 0.9]})
      >>> result.outputs.shape
      (6, 2)
      >>> best = cs231n_optax.best_row(result, lambda params: abs(params).max(axis=1))
      >>> print({name: round(float(x[best]), 2) for name, x in result.hparams.items()})
      {'learning_rate': 0.1, 'rho': 0.5}

    Source:
      Lecture 7-1-1 for what it shows first, a loss against the learning rate; J. Bergstra and Y.
      Bengio, "Random search for hyper-parameter optimization", JMLR 2012.
    """
    _checks.function("run", run)
    if callback is not None:
        _checks.function("callback", callback)
    mesh = Mesh(np.array(jax.devices()), ("lanes",)) if mesh is None else mesh
    if not isinstance(mesh, Mesh):
        raise TypeError(f"mesh must be a jax.sharding.Mesh, got {mesh!r}")
    hparams = _table(grid)
    if batch_size is not None:
        batch_size = _checks.static_int("batch_size", batch_size, at_least=1)
        batch_size = min(batch_size, math.ceil(_num_rows(hparams) / mesh.size))
    jitted = jax.jit(lambda hparams: _checks.arrays("output", run(hparams)))
    sheet = _blank(hparams, jax.eval_shape(jitted, _one_row(hparams)))
    fingerprint = "" if path is None else _fingerprint(jitted, hparams)
    if path is not None:
        sheet = _resumed(Path(path), fingerprint, sheet)

    def report() -> None:
        if callback is not None:
            callback(SweepProgress(int(sheet.finished.sum()), _finished(sheet)))

    report()
    for rows in _run_the_rest(jitted, sheet, mesh, batch_size):
        if path is not None and jax.process_index() == 0:
            _save(Path(path), fingerprint, sheet, rows)
        report()
    return _finished(sheet)


def best_row(result: SweepResult, metric: Callable[[Any], Any], *, largest: bool = False) -> int:
    """The row with the smallest finite value of a metric.

    Args:
      result: of `sweep`.
      metric: from ``result.outputs`` to an array (rows,), such as ``lambda out: out["loss"]``.
      largest: whether the largest value is the best, as of an accuracy.

    Returns:
      The number of the row, the first of several. NaN and infinity, of runs that diverged, are
      never the best.

    Raises:
      ValueError: if there is no finite value, or the metric is not one number a row.
      TypeError: if the metric is not real numbers, or an argument of another type.

    Example:
      >>> import cs231n_optax
      >>> result = cs231n_optax.sweep(lambda h: (h["x"] - 2) ** 2, {"x": [0.0, 1.5, 3.0]})
      >>> cs231n_optax.best_row(result, lambda out: out)
      1
    """
    _check_result(result)
    largest = _checks.static_bool("largest", largest)
    values = np.asarray(_checks.function("metric", metric)(result.outputs))
    _checks.real_dtype("the metric", values)
    values = values.astype(float)
    num_rows = _num_rows(result.hparams)
    if values.shape != (num_rows,):
        raise ValueError(f"metric must give an array of shape ({num_rows},), got {values.shape}")
    finite = np.isfinite(values)
    if not finite.any():
        raise ValueError(f"none of the {num_rows} values of the metric is finite")
    worst = -np.inf if largest else np.inf
    ranked = np.where(finite, values, worst)
    return int(ranked.argmax() if largest else ranked.argmin())


def write_csv(result: SweepResult, path: str | Path) -> None:
    """Write a sweep's table as a CSV file, whole or not at all.

    Args:
      result: of `sweep`.
      path: of the file. A row a configuration: its hyperparameters, then those outputs that are
        one number a row, named by their place in the tree; a single array is called ``output``.

    Returns:
      None.

    Raises:
      OSError: if it can't be written; then an older file there is as it was.
      TypeError: if ``result`` is no `SweepResult`.

    Example:
      >>> import cs231n_optax, pathlib, tempfile
      >>> result = cs231n_optax.sweep(lambda h: {"y": h["x"] ** 2}, {"x": [0.5, 3.0]})
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     cs231n_optax.write_csv(result, pathlib.Path(folder, "sweep.csv"))
      ...     print(pathlib.Path(folder, "sweep.csv").read_text(), end="")
      x,y
      0.5,0.25
      3.0,9.0
    """
    _check_result(result)
    columns = dict(result.hparams)
    for key, values in jax.tree.leaves_with_path(result.outputs):
        if values.ndim == 1:
            name = jax.tree_util.keystr(key, simple=True, separator=".") or "output"
            columns[f"output.{name}" if name in columns else name] = values
    with replacing(Path(path), "w") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(columns)
        rows.writerows(zip(*columns.values(), strict=True))


def _check_result(result: Any) -> None:
    if not isinstance(result, SweepResult):
        raise TypeError(f"result must be a SweepResult, got {result!r}")


# The table.


class _Sheet(NamedTuple):
    """The table as it fills: NumPy arrays, written in place."""

    hparams: Table
    outputs: Any
    finished: np.ndarray


def _blank(hparams: Table, output: Any) -> _Sheet:
    for key, leaf in jax.tree.leaves_with_path(output):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            where = jax.tree_util.keystr(key)
            raise TypeError(f"run must return arrays of numbers, but output{where} is {leaf.dtype}")
    num_rows = _num_rows(hparams)
    columns = jax.tree.map(lambda leaf: np.zeros((num_rows, *leaf.shape), leaf.dtype), output)
    return _Sheet(hparams, columns, np.zeros(num_rows, bool))


def _num_rows(hparams: Table) -> int:
    return len(next(iter(hparams.values())))


def _fill(sheet: _Sheet, rows: np.ndarray, outputs: Any) -> None:
    for column, values in zip(
        jax.tree.leaves(sheet.outputs), jax.tree.leaves(outputs), strict=True
    ):
        column[rows] = values
    sheet.finished[rows] = True


def _finished(sheet: _Sheet) -> SweepResult:
    done = sheet.finished
    hparams = {name: column[done] for name, column in sheet.hparams.items()}
    return SweepResult(hparams, jax.tree.map(lambda column: column[done], sheet.outputs))


def _one_row(hparams: Table) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct((), column.dtype) for name, column in hparams.items()}


def _table(grid: Any) -> Table:
    """The hyperparameters, a column each."""
    if isinstance(grid, Mapping):
        axes = {name: _column(name, values) for name, values in grid.items()}
        if not axes or not all(len(axis) for axis in axes.values()):
            raise ValueError(f"grid must have at least one value for each name, got {grid!r}")
        size = math.prod(len(axis) for axis in axes.values())
        num_bytes = size * sum(axis.itemsize for axis in axes.values())
        _checks.fits_in_memory(f"grid has {size:,} rows", num_bytes, "take some of them at random")
        mesh = np.meshgrid(*axes.values(), indexing="ij")
        return {name: column.reshape(-1) for name, column in zip(axes, mesh, strict=True)}
    if isinstance(grid, str) or not isinstance(grid, Iterable):
        raise TypeError(f"grid must be {{name: values}} or a list of {{name: value}}, got {grid!r}")
    rows = list(grid)
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise TypeError(f"row {i} of grid must be {{name: value}}, got {row!r}")
        if row.keys() != rows[0].keys():
            raise ValueError(f"row {i} of grid names {sorted(row)}, the first {sorted(rows[0])}")
    if not rows or not rows[0]:
        raise ValueError("grid must have at least one row with at least one name")
    return {name: _column(name, [row[name] for row in rows]) for name in rows[0]}


def _column(name: str, values: Any) -> np.ndarray:
    """Numbers (n,) in the dtypes that JAX gives them."""
    if not isinstance(name, str):
        raise TypeError(f"grid must name its values by strings, got {name!r}")
    try:
        column = np.asarray(values if hasattr(values, "shape") else list(values))
    except (TypeError, ValueError):  # no list, or a ragged one
        column = np.zeros((0, 0))
    if column.ndim != 1:
        raise ValueError(f"the values of {name!r} must be a list of scalars, got {values!r}")
    if column.size and column.dtype.kind not in "biuf":
        raise TypeError(f"the values of {name!r} must be real numbers, got {values!r}")
    with np.errstate(over="ignore"):
        narrow = column.astype(jax.dtypes.canonicalize_dtype(column.dtype))
    exact = narrow == column if column.dtype.kind in "biu" else np.isfinite(narrow)
    if not (exact | ~np.isfinite(column)).all():
        raise ValueError(f"the values of {name!r} must fit {narrow.dtype}, got {values!r}")
    return narrow


# The computation.


def _run_the_rest(
    run: Run, sheet: _Sheet, mesh: Mesh, batch_size: int | None
) -> Iterator[np.ndarray]:
    """Fill the rows that are not finished, and yield those of each batch.

    Without a batch size each that is tried does its share of the rows, so that no work is lost,
    and one that is slower a row than the one before it is the last to be tried.
    """
    sizes = LANE_BATCHES if batch_size is None else (batch_size,)
    pending = np.flatnonzero(~sheet.finished)
    best: Any = None
    fastest = math.inf

    def run_some(batch: Any) -> tuple[np.ndarray, float]:
        nonlocal pending
        rows, pending = pending[: batch.num_rows], pending[batch.num_rows :]
        began = time.perf_counter()
        _fill(sheet, rows, batch.run(rows))
        return rows, _agreed(time.perf_counter() - began) / batch.num_rows

    for size in sizes:
        few = pending.size < (1 if best is None else 3 * mesh.size * size)
        if few or (best is not None and pending.size * fastest < 2 * best.compile_seconds):
            break
        batch = _compile(run, sheet.hparams, mesh, size)
        rows, seconds_a_row = run_some(batch)
        yield rows
        if seconds_a_row > fastest:
            break
        best, fastest = batch, seconds_a_row
    while pending.size:
        yield run_some(best)[0]


class _Batch(NamedTuple):
    """A compiled program: ``run(rows) -> outputs`` of so many rows or fewer."""

    num_rows: int
    compile_seconds: float
    run: Callable[[np.ndarray], Any]


def _compile(run: Run, hparams: Table, mesh: Mesh, batch_size: int) -> _Batch:
    """Each device its rows; shard_map, so that no loop of one waits for another's."""
    spec = PartitionSpec(mesh.axis_names)
    sharding, num_rows = NamedSharding(mesh, spec), mesh.size * batch_size

    def of_device(hparams: dict[str, jax.Array]) -> Any:
        if batch_size > 1:
            return jax.vmap(run)(hparams)
        alone = run({name: column[0] for name, column in hparams.items()})
        return jax.tree.map(lambda out: jnp.asarray(out)[None], alone)

    of_all = jax.shard_map(of_device, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    avals = {
        name: jax.ShapeDtypeStruct((num_rows,), column.dtype, sharding=sharding)
        for name, column in hparams.items()
    }
    began = time.perf_counter()
    program = jax.jit(of_all).lower(avals).compile()
    compile_seconds = _agreed(time.perf_counter() - began)

    def of_rows(rows: np.ndarray) -> Any:
        filled = np.pad(rows, (0, num_rows - rows.size), mode="edge")
        columns = {name: _placed(column[filled], sharding) for name, column in hparams.items()}
        return jax.tree.map(lambda out: out[: rows.size], _fetched(program(columns)))

    return _Batch(num_rows, compile_seconds, of_rows)


# Several processes: each sees all of the table, and the first one reads and writes the files.


def _placed(column: np.ndarray, sharding: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(column.shape, sharding, lambda index: column[index])


def _fetched(outputs: Any) -> Any:
    if jax.process_count() == 1:
        return jax.device_get(outputs)
    return multihost_utils.process_allgather(outputs, tiled=True)


def _agreed(tree: Any) -> Any:
    """What the first process has."""
    return tree if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(tree)


# Files.


def _fingerprint(run: Any, hparams: Table) -> str:
    """Of the table and of the program with all its constants."""
    digest = hashlib.sha256(run.lower(_one_row(hparams)).as_text().encode())
    for name, column in hparams.items():
        digest.update(f"{name} {column.dtype} {column.shape}".encode())
        digest.update(column.tobytes())
    return digest.hexdigest()


def _resumed(folder: Path, fingerprint: str, sheet: _Sheet) -> _Sheet:
    """The table with what the folder holds, as the first process sees it."""
    error = None
    if jax.process_index() == 0:
        try:
            _load(folder, fingerprint, sheet)
        except (ValueError, OSError) as problem:
            error = problem
    if _agreed(np.bool_(error is not None)):
        raise error or ValueError(f"the first process can't go on from {folder}")
    leaves, structure = jax.tree.flatten(sheet.outputs)
    leaves, finished = jax.tree.map(np.array, _agreed((leaves, sheet.finished)))
    return _Sheet(sheet.hparams, jax.tree.unflatten(structure, leaves), finished)


def _load(folder: Path, fingerprint: str, sheet: _Sheet) -> None:
    """Fill the rows that the folder holds; a file that is broken counts as missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for left_over in folder.glob(".rows-*.tmp"):
        left_over.unlink()
    for file in sorted(folder.glob("rows-*.npz")):
        try:
            with open(file, "rb") as opened, np.load(opened, allow_pickle=False) as archive:
                arrays = dict(archive)
        except UNREADABLE:
            continue
        if str(arrays.pop("fingerprint", "")) != fingerprint:
            raise OtherSweepError(
                f"{file} belongs to another sweep: another table, another program or data, or "
                "another version of JAX; give another path, or remove it"
            )
        rows, leaves = arrays.pop("rows"), jax.tree.leaves(sheet.outputs)
        columns = [arrays[f"output{i}"].view(leaf.dtype) for i, leaf in enumerate(leaves)]
        _fill(sheet, rows, columns)


def _save(folder: Path, fingerprint: str, sheet: _Sheet, rows: np.ndarray) -> None:
    """A file of its own for each batch; bfloat16 and its like as the bytes that they are."""
    columns = [column[rows] for column in jax.tree.leaves(sheet.outputs)]
    arrays = {f"output{i}": column for i, column in enumerate(columns)}
    with replacing(folder / f"rows-{rows[0]:06d}.npz", "wb") as file:
        np.savez(file, fingerprint=fingerprint, rows=rows, **arrays)
