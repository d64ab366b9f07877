"""The table of a sweep: hyperparameters from a grid, outputs as they are computed."""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from cs231n_optax import _checks

Hparams = dict[str, np.ndarray]


class Table(NamedTuple):
    """One row per configuration: NumPy arrays, written in place.

    Attributes:
      hparams: the hyperparameters by name, (rows,).
      outputs: the tree of the outputs, (rows, ...).
      finished: bool (rows,), whether the outputs of a row are there.
    """

    hparams: Hparams
    outputs: Any
    finished: np.ndarray


def empty_table(hparams: Hparams, output: Any) -> Table:
    """A table with no row finished; ``output`` has the shapes and dtypes of one row."""
    rows = num_rows(hparams)
    columns = jax.tree.map(lambda leaf: np.zeros((rows, *leaf.shape), leaf.dtype), output)
    return Table(hparams, columns, np.zeros(rows, bool))


def num_rows(hparams: Hparams) -> int:
    """The number of configurations."""
    return len(next(iter(hparams.values())))


def fill(table: Table, rows: np.ndarray, outputs: Any) -> None:
    """Write the outputs of some rows."""
    columns = zip(jax.tree.leaves(table.outputs), jax.tree.leaves(outputs), strict=True)
    for column, values in columns:
        column[rows] = values
    table.finished[rows] = True


def finished_rows(table: Table) -> tuple[Hparams, Any]:
    """The hyperparameters and outputs of the finished rows alone."""
    done = table.finished
    hparams = {name: column[done] for name, column in table.hparams.items()}  # in the grid's order
    return hparams, jax.tree.map(lambda column: column[done], table.outputs)


def one_row(hparams: Hparams) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes and dtypes of one configuration."""
    return {name: jax.ShapeDtypeStruct((), column.dtype) for name, column in hparams.items()}


def parse_grid(grid: Any) -> Hparams:
    """The hyperparameters, one column per name."""
    if isinstance(grid, Mapping):
        return _every_combination(grid)
    if isinstance(grid, str) or not isinstance(grid, Iterable):
        raise TypeError(f"grid must be {{name: values}} or a list of {{name: value}}, got {grid!r}")
    return _listed_rows(list(grid))


def _every_combination(grid: Mapping[str, Any]) -> Hparams:
    axes = {name: _column(name, values) for name, values in grid.items()}
    if not axes or not all(len(axis) for axis in axes.values()):
        raise ValueError(f"grid must have at least one value for each name, got {grid!r}")
    size = math.prod(len(axis) for axis in axes.values())
    num_bytes = size * sum(axis.itemsize for axis in axes.values())
    _checks.fits_in_memory(f"grid has {size:,} rows", num_bytes, "take some of them at random")
    columns = np.meshgrid(*axes.values(), indexing="ij")
    return {name: column.reshape(-1) for name, column in zip(axes, columns, strict=True)}


def _listed_rows(rows: list[Any]) -> Hparams:
    for i, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise TypeError(f"row {i} of grid must be {{name: value}}, got {row!r}")
        if row.keys() != rows[0].keys():
            raise ValueError(f"row {i} of grid names {sorted(row)}, the first {sorted(rows[0])}")
    if not rows or not rows[0]:
        raise ValueError("grid must have at least one row with at least one name")
    return {name: _column(name, [row[name] for row in rows]) for name in rows[0]}


def _column(name: str, values: Any) -> np.ndarray:
    """Real numbers (n,), in the dtype that JAX gives them."""
    if not isinstance(name, str):
        raise TypeError(f"grid must name its values by strings, got {name!r}")
    try:
        column = np.asarray(values if hasattr(values, "shape") else list(values))
    except (TypeError, ValueError):  # not a list, or a ragged one
        column = np.zeros((0, 0))
    if column.ndim != 1:
        raise ValueError(f"the values of {name!r} must be a list of scalars, got {values!r}")
    if column.size and column.dtype.kind not in "biuf":
        raise TypeError(f"the values of {name!r} must be real numbers, got {values!r}")

    # Integers must not change; floats may be rounded, but must not become infinite.
    with np.errstate(over="ignore"):
        narrow = column.astype(jax.dtypes.canonicalize_dtype(column.dtype))
    fits = narrow == column if column.dtype.kind in "biu" else np.isfinite(narrow)
    if not (fits | ~np.isfinite(column)).all():
        raise ValueError(f"the values of {name!r} must fit {narrow.dtype}, got {values!r}")
    return narrow
