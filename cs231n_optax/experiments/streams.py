"""Output streams that fail without harm: a closed pipe or a full disk must not cost the results."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any


class SafeStream:
    """A text stream that never raises OSError: after the first one it is silent.

    Attributes:
      error: the first error, or None.
    """

    def __init__(self, stream: Any) -> None:
        self.error: OSError | None = None
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text."""
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        """Flush what has been written."""
        self._try(self._stream.flush)

    def _try(self, action: Callable[..., Any], *args: Any) -> None:
        if self.error is None:
            try:
                action(*args)
            except OSError as error:
                self.error = error
                # What is in the buffers still would raise again at the exit of the process.
                with contextlib.suppress(OSError), open(os.devnull, "w") as devnull:
                    os.dup2(devnull.fileno(), self._stream.fileno())


@contextlib.contextmanager
def safe_streams() -> Iterator[None]:
    """Make stdout and stderr safe; a character that a console does not have becomes a ?."""
    streams = sys.stdout, sys.stderr
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    # Either is None if it was closed when the process started.
    sys.stdout, sys.stderr = (stream and SafeStream(stream) for stream in streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
