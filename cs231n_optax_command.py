"""The console script: Ctrl-C and SIGTERM end it in one line while JAX is imported, too.

It is a module of its own, since any module of the package imports JAX first.
"""

import os
import signal


def main() -> int:
    """Run `cs231n_optax.cli.main`, which has handlers of its own."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    from cs231n_optax import cli

    return cli.main()


def _end(number: int, _frame: object) -> None:
    os.write(2, b"cs231n-optax: interrupted, nothing is written\n")
    os._exit(128 + number)
