"""Atomic writing of files."""

import contextlib
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal

UNREADABLE = (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""Exceptions that reading an array of a broken .npz archive may raise."""


@contextlib.contextmanager
def replacing(path: Path, mode: Literal["w", "wb"]) -> Iterator[IO[Any]]:
    """Write a temporary file in the same folder, then rename it to ``path``.

    If anything fails before the renaming, the temporary file is removed and an older file at
    ``path`` is unchanged.

    Args:
      path: the file; its folder must exist.
      mode: "w" for text in UTF-8 without translation of line ends, "wb" for bytes.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    encoding, newline = ("utf-8", "") if mode == "w" else (None, None)
    try:
        with open(temporary, mode, encoding=encoding, newline=newline) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
