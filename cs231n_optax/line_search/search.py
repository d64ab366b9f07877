"""What a line search is: two functions of scalars that never see a parameter.

Along the line x + t d a search knows φ(t) = f(x + t d) and φ′(t) at the steps that it has asked
for. ``init(φ(0), φ′(0), t)`` starts one at a first step t, and ``step(state, φ(t), φ′(t))`` hears
what was found there and answers ACCEPT, TRY with the next ``state.step``, or FAIL.

The formulas that the searches share stand here, too.
"""

import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cs231n_optax._judgement import Answer

__all__ = ["Answer", "Condition", "Search", "cubic_minimum"]


class Condition(enum.IntEnum):
    """What an accepted step meets.

    ARMIJO: φ(t) <= φ(0) + c₁ t φ′(0), a sufficient decrease.
    WOLFE: ARMIJO, and the curvature condition.
    APPROXIMATE_WOLFE: the curvature condition and φ′(t) <= (2 δ - 1) φ′(0) with δ = 0.1, where
      φ(t) exceeds φ(0) by no more than rounding: on a parabola, φ(t) <= φ(0) + δ t φ′(0) says
      the same of the slopes, which are exact where the values have lost their digits.
    """

    NONE = 0
    ARMIJO = 1
    WOLFE = 2
    APPROXIMATE_WOLFE = 3


class Search(NamedTuple):
    """A line search. Not callable, so that ``inject_hyperparams`` takes it for no schedule.

    Attributes:
      init: ``init(value, slope, step, noise=0) -> state``: φ(0), φ′(0) < 0 and the first step;
        values that differ by less than the noise are equal (2 ε |φ(0)| always is noise). Scalars
        of one dtype.
      step: ``step(state, value, slope) -> state``: φ and φ′ at ``state.step``. A state has at
        least the fields ``step``, ``answer`` (an `Answer`), and ``condition`` (a `Condition`).
    """

    init: Callable[..., Any]
    step: Callable[[Any, jax.Array, jax.Array], Any]


def cubic_minimum(
    a: jax.Array, fa: jax.Array, ga: jax.Array, b: jax.Array, fb: jax.Array, gb: jax.Array
) -> jax.Array:
    """Where the cubic through two values and slopes has its minimum; NaN if it has none.

    J. Nocedal and S. Wright, "Numerical Optimization", 2nd ed., 2006, eq. 3.59. On a parabola
    this is its minimum.
    """
    width = b - a
    d1 = ga + gb - 3 * (fb - fa) / width
    d2 = jnp.sign(width) * jnp.sqrt(d1 * d1 - ga * gb)
    return b - width * (gb + d2 - d1) / (gb - ga + 2 * d2)
