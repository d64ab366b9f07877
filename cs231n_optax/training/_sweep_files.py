"""The files of a sweep: one per finished batch, written and read by the first process alone."""

import contextlib
import hashlib
import io
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from cs231n_optax._files import locked, remove_unfinished, replacing
from cs231n_optax.training._sweep_table import Hparams, Table, fill, one_row

_FILE_NAME = r"rows-\d{6,}\.npz"
_CHECKSUM_LENGTH = 64  # bytes: SHA-256 in hexadecimal
_LONGEST_FINGERPRINT = 1000  # bytes of the array in the archive


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


@contextlib.contextmanager
def resumed(folder: Path, expected: str, table: Table) -> Iterator[Table]:
    """Lock a folder, and yield the table with the rows that the folder holds.

    Args:
      folder: made if need be.
      expected: the fingerprint that its files must have.
      table: one without finished rows.
    """
    with contextlib.ExitStack() as lock:
        error = None
        if jax.process_index() == 0:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                lock.enter_context(locked(folder))
                _read(folder, expected, table)
            except BlockingIOError as problem:
                message = "another sweep is running there"
                error = BlockingIOError(problem.errno, message, str(folder))
            except (ValueError, OSError, Warning) as problem:
                error = problem

        # Every process raises if the first one can't read, and has its rows if it can.
        if from_first_process(np.bool_(error is not None)):
            raise error or ValueError(f"the first process can't continue from {folder}")
        leaves, structure = jax.tree.flatten(table.outputs)
        leaves, finished = jax.tree.map(np.array, from_first_process((leaves, table.finished)))
        yield Table(table.hparams, jax.tree.unflatten(structure, leaves), finished)


def _read(folder: Path, expected: str, table: Table) -> None:
    """Fill the rows that the folder holds; remove broken files, whose rows are computed again.

    Nothing is changed if a file belongs to another sweep.
    """
    files = sorted(path for path in folder.iterdir() if re.fullmatch(_FILE_NAME, path.name))
    broken = [file for file in files if not _fill_from(file, expected, table)]
    remove_unfinished(folder, _FILE_NAME)
    if broken:
        names = ", ".join(str(file) for file in broken)
        message = f"broken, or without a checksum: {names}; the rows are computed again"
        warnings.warn(message, RuntimeWarning, stacklevel=6)  # of the caller of `sweep`
    for file in broken:
        file.unlink()


def _fill_from(file: Path, expected: str, table: Table) -> bool:
    """Fill the rows that a file holds, and return whether it is as it was written."""
    content = file.read_bytes() if file.is_file() else b""
    is_whole = content.endswith(_checksum(content[:-_CHECKSUM_LENGTH]))
    arrays = {}
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            # Of a broken file, read the fingerprint alone, and only if it has a credible size.
            size = archive.zip.getinfo("fingerprint.npy").file_size
            if not is_whole and size > _LONGEST_FINGERPRINT:
                return False
            found = str(archive["fingerprint"])
            if is_whole and found == expected:
                arrays = dict(archive)
    except Exception:  # broken bytes may lead to any
        if is_whole:
            raise
        return False
    if found != expected:
        raise OtherSweepError(
            f"{file} belongs to another sweep: another table, another program or data, or "
            "another version of JAX; give another path, or remove it"
        )
    if arrays:
        leaves = jax.tree.leaves(table.outputs)
        columns = [arrays[f"output{i}"].view(leaf.dtype) for i, leaf in enumerate(leaves)]
        fill(table, arrays["rows"], columns)
    return bool(arrays)


def save(folder: Path, fingerprint: str, table: Table, rows: np.ndarray) -> None:
    """Write the rows of one batch to a file of their own; bfloat16 and the like as raw bytes."""
    if jax.process_index() != 0:
        return
    columns = [column[rows] for column in jax.tree.leaves(table.outputs)]
    arrays = {f"output{i}": column for i, column in enumerate(columns)}
    with replacing(folder / f"rows-{rows[0]:06d}.npz", "wb") as file:
        file.write(_archive(fingerprint=np.array(fingerprint), rows=rows, **arrays))


def _archive(**arrays: Any) -> bytes:
    """An .npz archive whose comment is a checksum of everything before it."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = _checksum(b"")  # reserves the space
    content = buffer.getvalue()[:-_CHECKSUM_LENGTH]
    return content + _checksum(content)


def _checksum(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
