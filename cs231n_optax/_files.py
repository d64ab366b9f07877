"""Atomic writing of files, alone and in sets, and locks on folders."""

import contextlib
import os
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

UNREADABLE = (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""Exceptions that reading an array of a broken .npz archive may raise."""

_SUFFIX = ".cs231n_optax.tmp"


@contextlib.contextmanager
def replacing(path: Path, mode: Literal["w", "wb"]) -> Iterator[IO[Any]]:
    """Write a file, whole or not at all, as `replacing_together` does.

    Args:
      path: the file; its folder must exist.
      mode: as of `writing`.
    """
    folder, name = path.parent, path.name
    with replacing_together(folder, [name]) as new, writing(new / name, mode) as file:
        yield file


@contextlib.contextmanager
def replacing_together(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """Write a set of files to a temporary folder, and rename them one after the other at the end.

    An older file of these names without a new one is removed, so that the files left are of one
    set. A new file has the permissions of the older one. If anything fails before the renaming,
    the older files are unchanged. If the process is killed, the temporary folder stays until
    `remove_unfinished`.

    Args:
      folder: where the files belong, which must exist.
      names: the names of the files, at least one.

    Yields:
      The temporary folder, inside ``folder``.
    """
    with _temporary_folder(folder, names[0]) as new:
        try:
            yield new
            is_new = {name: (new / name).exists() for name in names}
            for name in filter(is_new.get, names):
                with contextlib.suppress(OSError):  # there is no older file, or no permissions
                    shutil.copymode(folder / name, new / name)
            for name in names:
                if is_new[name]:
                    os.replace(new / name, folder / name)
                else:
                    (folder / name).unlink(missing_ok=True)
        except OSError as error:
            if error.filename and Path(error.filename).parent == new:
                path = str(folder / Path(error.filename).name)
                raise OSError(error.errno, error.strerror, path) from error
            raise


@contextlib.contextmanager
def writing(path: Path, mode: Literal["w", "wb"]) -> Iterator[IO[Any]]:
    """Open a file for writing, and flush it to the disk at the end. An OSError names the file.

    Args:
      path: the file.
      mode: "w" for text in UTF-8 without translation of line ends, "wb" for bytes.
    """
    encoding, newline = ("utf-8", "") if mode == "w" else (None, None)
    try:
        with open(path, mode, encoding=encoding, newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def remove_unfinished(folder: Path, name: str) -> None:
    """Remove the temporary folders of processes that were killed.

    Args:
      folder: where they are.
      name: a regular expression for the file, or the first file of a set, that was to be written.
    """
    random = "[a-z0-9_]{8}"  # as of `tempfile.mkdtemp`
    temporary = re.compile(rf"\.{name}\.{random}{re.escape(_SUFFIX)}")
    try:
        names = os.listdir(folder)
    except PermissionError:  # files may be written there all the same
        return
    for path in (folder / name for name in names if temporary.fullmatch(name)):
        with contextlib.suppress(BlockingIOError), locked(path) as is_locked:
            if is_locked:  # no process writes to it
                shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Lock a folder, and yield whether this is possible: not on Windows and some network disks.

    The system releases the lock when the process ends, however it ends.

    Raises:
      BlockingIOError: if the folder is locked already, by another process or by this one.
    """
    descriptor = _lock(folder)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _lock(folder: Path) -> int | None:
    if fcntl is None:
        return None
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return descriptor


@contextlib.contextmanager
def _temporary_folder(folder: Path, name: str) -> Iterator[Path]:
    """Make a folder that is locked, and removed at the end with all that it holds."""
    with contextlib.ExitStack() as stack:
        new = None
        while new is None or not new.exists():
            try:
                new = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=_SUFFIX, dir=folder))
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(folder / name)) from error
            stack.callback(shutil.rmtree, new, ignore_errors=True)
            try:
                stack.enter_context(locked(new))
            except BlockingIOError:  # just found by `remove_unfinished` of another process
                new = None
        yield new
