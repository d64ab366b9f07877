"""Files that are there whole or not at all."""

import contextlib
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal

UNREADABLE = (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What reading an array of a broken .npz archive may raise."""


@contextlib.contextmanager
def replacing(path: Path, mode: Literal["w", "wb"]) -> Iterator[IO[Any]]:
    """Open a file for writing that takes its place only when all has been written.

    It is written beside its place under another name, and renamed. If anything goes wrong before
    that, the other name is removed and an older file stays as it was.

    Args:
      path: where the file shall be; its folder must exist.
      mode: of text, in UTF-8 with the line ends as they are written, or of bytes.
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
