"""Ctrl-C: the first one interrupts, and no later one disturbs the saving of the results."""

import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn, Self


class Interrupts:
    """Raise KeyboardInterrupt on the first Ctrl-C and ignore every later one.

    The signal handler of before is restored at the end of the ``with`` block.
    """

    def __init__(self) -> None:
        self._interrupted = False

    def __enter__(self) -> Self:
        self._previous_handler = signal.signal(signal.SIGINT, self._interrupt)
        self._previous_hook, sys.unraisablehook = sys.unraisablehook, self._report_discarded
        return self

    def __exit__(self, *_: object) -> None:
        sys.unraisablehook = self._previous_hook
        signal.signal(signal.SIGINT, self._previous_handler)

    def ignore(self) -> None:
        """Ignore Ctrl-C from now on: the computation is over, the results are being saved."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def checking(self, callback: Callable[..., None]) -> Callable[..., None]:
        """Wrap a callback, so that it raises the KeyboardInterrupt that Python has discarded.

        Python discards an exception that a signal handler raises inside some functions, such as
        the callbacks of the garbage collector.
        """

        def call(*args: Any) -> None:
            if self._interrupted:
                raise KeyboardInterrupt
            callback(*args)

        return call

    def _interrupt(self, *_: object) -> NoReturn:
        self._interrupted = True
        self.ignore()
        raise KeyboardInterrupt

    def _report_discarded(self, discarded: Any) -> None:
        """Report a discarded exception, unless it is the one that `checking` raises again."""
        if not issubclass(discarded.exc_type, KeyboardInterrupt):
            self._previous_hook(discarded)
