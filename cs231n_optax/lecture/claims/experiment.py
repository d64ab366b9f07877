"""What the experiments of the claims share: the digits, and one program for all repeats."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import cs231n_optax
from cs231n_optax.problems import datasets, regressions

L2 = 1e-2
"""The penalty of the softmax regressions: at the minimum the batches still disagree."""


def training_set() -> tuple[jax.Array, jax.Array]:
    """The 1437 training images of the digits, and their labels."""
    digits = datasets.digits()
    return jnp.asarray(digits.x_train), jnp.asarray(digits.y_train)


@functools.cache
def lowest_regression_loss() -> float:
    """The minimum of softmax regression of the digits with the L2 penalty, by L-BFGS."""
    problem = regressions.softmax_regression(L2)
    return float(cs231n_optax.minimize(problem.fun, problem.x0, cs231n_optax.lbfgs()).value)


def for_each(run: Callable[..., Any], *rows: Any) -> Any:
    """Run one row of the arguments after the other, in one program.

    It runs as fast as `jax.vmap` on one core, and compiles twice as fast: conditionals stay.
    """
    over_rows = jax.jit(lambda *rows: jax.lax.map(lambda row: run(*row), rows))
    return jax.device_get(over_rows(*rows))


def for_each_pair(run: Callable[..., Any], first: Any, second: Any) -> Any:
    """The results for all pairs of rows, (first, second, ...)."""
    return for_each(lambda x: jax.lax.map(lambda y: run(x, y), second), first)
