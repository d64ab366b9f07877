"""Ctrl-C and SIGTERM: the first one interrupts a command, and no later one disturbs its end.

Signals belong to the process, and so does the state of this module. A command has three phases:

1. Before `begin` nothing is shown or written, so that a process of its own ends in the handler.
2. After `begin` the first signal raises KeyboardInterrupt. Python and JAX may lose an exception of
   a signal handler, for example in a callback of the garbage collector. So a command also calls
   `check` at every step.
3. After `finish` the results are saved, and signals are only recorded.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, NoReturn

from cs231n_optax.experiments.errors import PROGRAM

NOTHING_WRITTEN = "interrupted, nothing is written"

_received = 0  # the number of the first signal
_react: Callable[[], None] | None = None  # what the first signal does at once


@contextlib.contextmanager
def handled(*, by_exit: bool) -> Iterator[None]:
    """Handle SIGINT and SIGTERM in this block; in the main thread only, as Python has it.

    Args:
      by_exit: whether the process ends with the block: the handler may end it, and signals are
        ignored after the block. Otherwise the handlers of before are restored.
    """
    global _received, _react
    _received, _react = 0, _exit if by_exit else _interrupt
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = signal.SIGINT, signal.SIGTERM
    previous = {number: signal.signal(number, _handle) for number in signals}
    previous_hook, sys.unraisablehook = sys.unraisablehook, _report_unraisable
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_IGN if by_exit else handler or signal.SIG_DFL)
        sys.unraisablehook = previous_hook


def begin() -> None:
    """Raise KeyboardInterrupt on the first signal from now on."""
    global _react
    _react = _interrupt


def finish() -> None:
    """Only record signals from now on; raise the KeyboardInterrupt of an earlier one."""
    check()
    only_record()


def only_record() -> None:
    """Only record signals from now on."""
    global _react
    _react = None


def check() -> None:
    """Raise KeyboardInterrupt if a signal has been received."""
    if _received:
        raise KeyboardInterrupt


def checking(callback: Callable[..., None]) -> Callable[..., None]:
    """Return a callback with a `check` before it."""

    def call(*args: Any) -> None:
        check()
        callback(*args)

    return call


@contextlib.contextmanager
def suppressed() -> Iterator[None]:
    """End the block where a signal interrupts it, whatever exception JAX makes of it."""
    try:
        yield
    except BaseException as error:
        if not (_received or isinstance(error, KeyboardInterrupt)):
            raise


def promptly(function: Callable[..., Any], *args: Any) -> Any:
    """Call in another thread, so that a signal interrupts the wait at once.

    Python handles no signal in a thread in which JAX runs a compiled program.
    """
    future = ThreadPoolExecutor(1).submit(function, *args)
    while not future.done():
        wait([future], timeout=0.5)
    return future.result()


def received() -> bool:
    """Return whether there was a signal."""
    return _received != 0


def exit_status() -> int:
    """Return the exit status: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + (_received or signal.SIGINT)


def end_process(status: int) -> NoReturn:
    """End the process at once: at an ordinary exit JAX crashes if another thread still compiles."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status)


def _handle(number: int, _frame: object) -> None:
    global _received
    if not _received:
        _received = number
        if _react is not None:
            _react()


def _interrupt() -> NoReturn:
    raise KeyboardInterrupt


def _exit() -> NoReturn:
    with contextlib.suppress(OSError):
        os.write(2, f"{PROGRAM}: {NOTHING_WRITTEN}\n".encode())
    os._exit(exit_status())


def _report_unraisable(lost: Any) -> None:
    """Report a lost exception, unless it is the one that `check` raises again."""
    if not (_received and issubclass(lost.exc_type, KeyboardInterrupt)):
        sys.__unraisablehook__(lost)
