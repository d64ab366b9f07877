"""Sweeps: one function of hyperparameters, evaluated for a whole table of them on all devices."""

import contextlib
import csv
import math
import re
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
from cs231n_optax._files import remove_unfinished, replacing
from cs231n_optax.training import _display
from cs231n_optax.training._sweep_files import OtherSweepError as OtherSweepError  # also public
from cs231n_optax.training._sweep_files import fingerprint, from_first_process, resumed, save
from cs231n_optax.training._sweep_table import (
    Hparams,
    Table,
    empty_table,
    fill,
    finished_rows,
    num_rows,
    one_row,
    parse_grid,
)

Run = Callable[[dict[str, jax.Array]], Any]

BATCH_SIZES = (1, 4, 16, 64, 256)  # per device, tried in this order where none is given


class SweepResult(NamedTuple):
    """What `sweep` returns: a table with one row per configuration.

    Attributes:
      hparams: the hyperparameters by name, NumPy arrays (rows,).
      outputs: the tree that ``run`` returned, with NumPy arrays (rows, ...).
    """

    hparams: Hparams
    outputs: Any

    def __repr__(self) -> str:
        return _display.sweep_text(self)


class SweepProgress(NamedTuple):
    """The argument of the callback of `sweep`, once at the start and after each batch.

    Attributes:
      num_finished: the number of finished rows, those of an earlier, interrupted sweep included.
      result: the table of the finished rows.
    """

    num_finished: int
    result: SweepResult


class Settings(NamedTuple):
    """How the rows of a table are computed.

    Attributes:
      run: a function of one row, that returns arrays.
      mesh: the devices.
      batch_size: rows that a device takes at once; None: the fastest of `BATCH_SIZES`.
    """

    run: Run
    mesh: Mesh
    batch_size: int | None


class Program(NamedTuple):
    """A program compiled for a batch of rows, and its times.

    Attributes:
      run: ``run(rows) -> outputs``, for the numbers of at most ``num_rows`` rows.
      num_rows: rows per call, on all devices together.
      compile_seconds: the time of its compilation.
      seconds_per_row: the time of its first call, per row; infinite before that.
    """

    run: Callable[[np.ndarray], Any]
    num_rows: int
    compile_seconds: float
    seconds_per_row: float = math.inf


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

    The function is compiled once for a batch of rows, of which each device of the mesh takes
    ``batch_size`` under one `jax.vmap`. Nothing is exchanged between devices or rows, and a row
    that diverges does not affect the others. With `fit` inside, its numbers are NaN, and
    ``state.nonfinite_step``, if ``run`` returns it, tells the step.

    The same ``batch_size`` on the same number of devices gives the same bits. A row agrees with
    ``run`` of that row alone to rounding.

    Args:
      run: ``run(hparams) -> tree of arrays``, a function that JAX can trace, of a dictionary with
        a scalar for each name: typically a `fit`, with numeric hyperparameters of any method and
        schedule. Whatever it closes over, such as the data, becomes a constant of the program, on
        every device.
      grid: ``{name: values}`` for every combination of the values, those of the last name
        varying fastest. Or a list of rows, ``[{name: value, ...}, ...]``, which may also be
        scikit-learn's ``ParameterSampler`` for a random search. Real numbers: floats become
        arrays of the default float dtype, and integers stay integers.
      batch_size: rows that a device takes at once, >= 1. None: time increasing batch sizes (1, 4,
        16, 64, 256) and keep the fastest per row. A larger one is not always faster: on CPU,
        convolutions with one kernel per row are slower than one after the other.
      mesh: devices, all of whose axes are used; None: all devices. With several processes, each
        must make the same call.
      path: a folder, made if need be, to which each finished batch is saved, whole or not at all.
        The same sweep started again, after Ctrl-C or kill -9 at any moment, continues from there;
        a finished one only reads. A sweep is the same if its table and the program of ``run``,
        with its data, are: on any machine, but with one version of JAX. Each file has a checksum:
        one that is broken is removed with a warning, and its rows are computed again. The folder
        is locked, where the file system can do so.
      callback: called with `SweepProgress` before the first batch and after each.

    Returns:
      `SweepResult` ``(hparams, outputs)``, on every process.

    Raises:
      ValueError: if the grid is empty or ragged or would take more than 4 GiB, a value is not a
        scalar, ``batch_size`` < 1, or (an `OtherSweepError`) the folder holds another sweep.
      BlockingIOError: if a sweep to the same ``path`` is running.
      TypeError: if an argument is not of its type, a name is not a string, a value not a real
        number, or ``run`` does not return arrays of numbers.

    Example:
      >>> import cs231n_optax, jax, jax.numpy as jnp
      >>> def loss(x, batch): return jnp.sum(batch * x**2)
      >>> def run(hparams):
      ...     tx = cs231n_optax.momentum(hparams["learning_rate"], hparams["rho"])
      ...     return cs231n_optax.fit(loss, jnp.ones(2), tx, jnp.array([[1., 9.]]), steps=30).params
      >>> grid = {"learning_rate": [0.01, 0.1], "rho": [0.0, 0.5, 0.9]}
      >>> result = cs231n_optax.sweep(run, grid, batch_size=6)
      >>> result.outputs.shape
      (6, 2)
      >>> best = cs231n_optax.best_row(result, lambda params: abs(params).max(axis=1))
      >>> print({name: round(float(x[best]), 2) for name, x in result.hparams.items()})
      {'learning_rate': 0.1, 'rho': 0.5}

    Source:
      Lecture 7-1-1, for the loss against the learning rate; J. Bergstra and Y. Bengio, "Random
      search for hyper-parameter optimization", JMLR 2012.
    """
    _checks.function("run", run)
    if callback is not None:
        _checks.function("callback", callback)
    mesh = Mesh(np.array(jax.devices()), ("rows",)) if mesh is None else mesh
    _checks.instance("mesh", mesh, Mesh, "a jax.sharding.Mesh")
    hparams = parse_grid(grid)
    if batch_size is not None:
        batch_size = _checks.static_int("batch_size", batch_size, at_least=1)
        batch_size = min(batch_size, math.ceil(num_rows(hparams) / mesh.size))

    jitted = jax.jit(lambda hparams: _checks.arrays("output", run(hparams)))
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.disable_jit(False))  # for the programs that are compiled ahead
        output = jax.eval_shape(jitted, one_row(hparams))
        _checks.sweep_output(output)
        table = empty_table(hparams, output)
        folder, expected = None, ""
        if path is not None:
            folder, expected = Path(path), fingerprint(jitted, hparams)
            table = stack.enter_context(resumed(folder, expected, table))

        _report(callback, table)
        for rows in _run_unfinished(Settings(jitted, mesh, batch_size), table):
            if folder is not None:
                save(folder, expected, table, rows)
            _report(callback, table)
    return SweepResult(*finished_rows(table))


def _report(callback: Callable[[SweepProgress], Any] | None, table: Table) -> None:
    if callback is not None:
        result = SweepResult(*finished_rows(table))
        callback(SweepProgress(int(table.finished.sum()), result))


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
      ValueError: if no value is finite, or the metric is not one number per row.
      TypeError: if an argument is not of its type, or the metric not of real numbers.

    Example:
      >>> import cs231n_optax
      >>> grid = {"x": [0.0, 1.5, 3.0]}
      >>> result = cs231n_optax.sweep(lambda h: (h["x"] - 2) ** 2, grid, batch_size=3)
      >>> cs231n_optax.best_row(result, lambda out: out)
      1
    """
    _checks.instance("result", result, SweepResult, "a SweepResult")
    largest = _checks.static_bool("largest", largest)
    values = _checks.function("metric", metric)(result.outputs)
    values = _checks.sweep_metric(values, num_rows(result.hparams))
    ranked = np.where(np.isfinite(values), values, -np.inf if largest else np.inf)
    return int(ranked.argmax() if largest else ranked.argmin())


def write_csv(result: SweepResult, path: str | Path) -> None:
    """Write the table of a sweep as a CSV file, whole or not at all.

    Each row holds the hyperparameters of a configuration, then those outputs that are one number
    per row, named by their place in the tree; a single array is called ``output``.

    Args:
      result: of `sweep`.
      path: of the file.

    Raises:
      OSError: if the file can't be written; an older file then stays as it was.
      TypeError: if ``result`` is not a `SweepResult`.

    Example:
      >>> import cs231n_optax, pathlib, tempfile
      >>> grid = {"x": [0.5, 3.0]}
      >>> result = cs231n_optax.sweep(lambda h: {"y": h["x"] ** 2}, grid, batch_size=2)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     cs231n_optax.write_csv(result, pathlib.Path(folder, "sweep.csv"))
      ...     print(pathlib.Path(folder, "sweep.csv").read_text(), end="")
      x,y
      0.5,0.25
      3.0,9.0
    """
    _checks.instance("result", result, SweepResult, "a SweepResult")
    columns = dict(result.hparams)
    for key, values in jax.tree.leaves_with_path(result.outputs):
        if values.ndim == 1:
            name = jax.tree_util.keystr(key, simple=True, separator=".") or "output"
            columns[f"output.{name}" if name in columns else name] = values
    path = Path(path)
    remove_unfinished(path.parent, re.escape(path.name))
    with replacing(path, "w") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(columns)
        rows.writerows(zip(*columns.values(), strict=True))


# The computation.


def _run_unfinished(settings: Settings, table: Table) -> Iterator[np.ndarray]:
    """Fill the unfinished rows batch by batch, and yield the rows of each finished batch."""
    pending = np.flatnonzero(~table.finished)
    fastest: Any = None

    # Time increasing batch sizes, until one is slower per row than the one before it. Each of
    # them computes its share of the rows, so no work is lost.
    for size in BATCH_SIZES if settings.batch_size is None else (settings.batch_size,):
        if not _is_worth_compiling(size * settings.mesh.size, pending.size, fastest):
            break
        program = _compile(settings, table.hparams, size)
        rows, pending = np.split(pending, [program.num_rows])
        program = program._replace(seconds_per_row=_fill_rows(program, table, rows))
        yield rows
        if fastest is not None and program.seconds_per_row > fastest.seconds_per_row:
            break
        fastest = program

    # The fastest one computes the rest.
    while pending.size:
        rows, pending = np.split(pending, [fastest.num_rows])
        _fill_rows(fastest, table, rows)
        yield rows


def _is_worth_compiling(num_rows: int, num_pending: int, fastest: Program | None) -> bool:
    """Whether the pending rows fill 3 calls and take twice as long as a compilation."""
    if fastest is None:
        return num_pending > 0
    seconds = num_pending * fastest.seconds_per_row
    return num_pending >= 3 * num_rows and seconds >= 2 * fastest.compile_seconds


def _fill_rows(program: Program, table: Table, rows: np.ndarray) -> float:
    """Run a program for some rows; the seconds that it takes per row of a whole batch."""
    began = time.perf_counter()
    fill(table, rows, program.run(rows))
    return from_first_process(time.perf_counter() - began) / program.num_rows


def _compile(settings: Settings, hparams: Hparams, batch_size: int) -> Program:
    """Compile a batch. Under shard_map no device's loop waits for that of another."""
    mesh = settings.mesh
    spec = PartitionSpec(mesh.axis_names)
    sharding, num_rows = NamedSharding(mesh, spec), mesh.size * batch_size

    def on_device(hparams: dict[str, jax.Array]) -> Any:
        if batch_size > 1:
            return jax.vmap(settings.run)(hparams)
        output = settings.run({name: column[0] for name, column in hparams.items()})
        return jax.tree.map(lambda out: jnp.asarray(out)[None], output)

    on_mesh = jax.shard_map(on_device, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    avals = {
        name: jax.ShapeDtypeStruct((num_rows,), column.dtype, sharding=sharding)
        for name, column in hparams.items()
    }
    began = time.perf_counter()
    compiled = jax.jit(on_mesh).lower(avals).compile()
    compile_seconds = from_first_process(time.perf_counter() - began)

    def run(rows: np.ndarray) -> Any:
        # The last batch is filled up with copies of its last row.
        filled = np.pad(rows, (0, num_rows - rows.size), mode="edge")
        columns = {name: _to_devices(column[filled], sharding) for name, column in hparams.items()}
        return jax.tree.map(lambda out: out[: rows.size], _from_devices(compiled(columns)))

    return Program(run, num_rows, compile_seconds)


# With several processes each one has the whole table.


def _to_devices(column: np.ndarray, sharding: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(column.shape, sharding, lambda index: column[index])


def _from_devices(outputs: Any) -> Any:
    if jax.process_count() == 1:
        return jax.device_get(outputs)
    return multihost_utils.process_allgather(outputs, tiled=True)
