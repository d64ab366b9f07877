"""The part of a large product of cases that a commit runs by default; the rest is marked slow.

The commits take turns: any `ROUND` commits in a row run every case, and each commit runs some cases
of every row and of every column. ``pytest -m slow`` runs the rest, ``pytest -m ''`` everything.
"""

import hashlib
import itertools
import pathlib
import subprocess
from collections.abc import Mapping
from typing import Any

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


def product(**axes: Mapping[str, Any]) -> pytest.MarkDecorator:
    """Parametrize by all combinations: each argument of the test with its values by id."""
    cases = itertools.product(*(enumerate(axis.items()) for axis in axes.values()))
    return pytest.mark.parametrize(
        tuple(axes),
        [
            pytest.param(
                *(value for _, (_, value) in case),
                marks=marks(*(index for index, _ in case)),
                id="-".join(name for _, (name, _) in case),
            )
            for case in cases
        ],
    )
