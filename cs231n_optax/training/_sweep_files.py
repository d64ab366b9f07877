"""The files of a sweep: one per finished batch, written and read by the first process alone."""

import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from cs231n_optax._files import UNREADABLE, replacing
from cs231n_optax.training._sweep_table import Hparams, Table, fill, one_row


class OtherSweepError(ValueError):
    """A folder holds the results of another sweep."""


def from_first_process(tree: Any) -> Any:
    """The values of the first process, on every process."""
    return tree if jax.process_count() == 1 else multihost_utils.broadcast_one_to_all(tree)


def fingerprint(jitted_run: Any, hparams: Hparams) -> str:
    """A hash of the table and of the program with all its constants."""
    digest = hashlib.sha256(jitted_run.lower(one_row(hparams)).as_text().encode())
    for name, column in hparams.items():
        digest.update(f"{name} {column.dtype} {column.shape}".encode())
        digest.update(column.tobytes())
    return digest.hexdigest()


def resume(folder: Path, expected: str, table: Table) -> Table:
    """The table with the rows that the folder holds, which must have the expected fingerprint."""
    error = None
    if jax.process_index() == 0:
        try:
            _read(folder, expected, table)
        except (ValueError, OSError) as problem:
            error = problem

    # Every process raises if the first one can't read, and has its rows if it can.
    if from_first_process(np.bool_(error is not None)):
        raise error or ValueError(f"the first process can't continue from {folder}")
    leaves, structure = jax.tree.flatten(table.outputs)
    leaves, finished = jax.tree.map(np.array, from_first_process((leaves, table.finished)))
    return Table(table.hparams, jax.tree.unflatten(structure, leaves), finished)


def _read(folder: Path, expected: str, table: Table) -> None:
    """Fill the rows that the folder holds; a broken file counts as missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for unfinished in folder.glob(".rows-*.tmp"):
        unfinished.unlink()
    for file in sorted(folder.glob("rows-*.npz")):
        try:
            with open(file, "rb") as opened, np.load(opened, allow_pickle=False) as archive:
                arrays = dict(archive)
        except UNREADABLE:
            continue
        if str(arrays.pop("fingerprint", "")) != expected:
            raise OtherSweepError(
                f"{file} belongs to another sweep: another table, another program or data, or "
                "another version of JAX; give another path, or remove it"
            )
        rows, leaves = arrays.pop("rows"), jax.tree.leaves(table.outputs)
        columns = [arrays[f"output{i}"].view(leaf.dtype) for i, leaf in enumerate(leaves)]
        fill(table, rows, columns)


def save(folder: Path, fingerprint: str, table: Table, rows: np.ndarray) -> None:
    """Write the rows of one batch to a file of their own; bfloat16 and the like as raw bytes."""
    if jax.process_index() != 0:
        return
    columns = [column[rows] for column in jax.tree.leaves(table.outputs)]
    arrays = {f"output{i}": column for i, column in enumerate(columns)}
    with replacing(folder / f"rows-{rows[0]:06d}.npz", "wb") as file:
        np.savez(file, fingerprint=fingerprint, rows=rows, **arrays)
