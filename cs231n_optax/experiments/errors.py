"""How a command ends: its exit status and, if something is wrong, one line on stderr."""

import functools
import sys
from collections.abc import Callable

PROGRAM = "cs231n-optax"
FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


class InputError(Exception):
    """The input is wrong; the message says in one line what is wrong and what to do."""


def complain(message: str) -> None:
    """Print one line on stderr."""
    print(f"{PROGRAM}: {' '.join(message.split())}", file=sys.stderr)


def with_exit_status(command: Callable[..., int]) -> Callable[..., int]:
    """Turn the expected exceptions of a command into one line on stderr and an exit status."""

    @functools.wraps(command)
    def run(*args: object, **options: object) -> int:
        try:
            return command(*args, **options)
        except InputError as error:
            complain(str(error))
            return BAD_INPUT
        except KeyboardInterrupt:
            complain("interrupted, nothing is written")
            return INTERRUPTED
        except OSError as error:
            complain(str(error))
            return FAILED

    return run
