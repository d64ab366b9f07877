"""The part of a large product of cases that a commit runs by default; the rest is marked slow.

The commits take turns: any `ROUND` commits in a row run every case, and each commit runs some cases
of every row and of every column.
"""

import hashlib
import pathlib
import subprocess

import pytest

TESTS = pathlib.Path(__file__).parent
ROUND = 4  # commits


def turn() -> int:
    """The number of commits so far, or, without git, a hash of the tests."""
    counted = subprocess.run(
        ["git", "rev-list", "--count", "HEAD"], cwd=TESTS, capture_output=True, text=True
    )
    if counted.returncode == 0:
        return int(counted.stdout)
    texts = b"".join(path.read_bytes() for path in sorted(TESTS.rglob("*.py")))
    return hashlib.sha256(texts).digest()[0]


TURN = turn()


def marks(*indices: int) -> tuple[pytest.MarkDecorator, ...]:
    """The marks of a case from its row, its column and so on, for ``pytest.param``."""
    return () if (sum(indices) + TURN) % ROUND == 0 else (pytest.mark.slow,)
