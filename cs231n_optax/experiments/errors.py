"""How a command ends: its exit status and, if something is wrong, one line on stderr."""

import sys

PROGRAM = "cs231n-optax"
FAILED, BAD_INPUT = 1, 2


class InputError(Exception):
    """The input is wrong; the message says in one line what is wrong and what to do."""


def complain(message: str) -> None:
    """Print one line on stderr."""
    print(f"{PROGRAM}: {' '.join(message.split())}", file=sys.stderr)
