"""The protocol of a line search: two functions of scalars.

Along the line x + t d a search sees φ(t) = f(x + t d) and φ′(t) at the steps that it asks for,
and no parameters. ``init(φ(0), φ′(0), t)`` starts a search with a first step t. Each
``step(state, φ(t), φ′(t))`` evaluates the conditions there, and answers ACCEPT, TRY with the next
``state.step``, or FAIL.
"""

import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cs231n_optax.globalization.acceptance import Answer

__all__ = [
    "Answer",
    "Condition",
    "LinePoint",
    "Search",
    "cubic_minimum",
    "first_true",
    "power_law_minimum",
]


class Condition(enum.IntEnum):
    """The condition that an accepted step meets.

    ARMIJO: φ(t) <= φ(0) + c₁ t φ′(0), sufficient decrease.
    WOLFE: ARMIJO and the curvature condition.
    APPROXIMATE_WOLFE: the curvature condition, φ′(t) <= (2 δ - 1) φ′(0) with δ = 0.1, and φ(t)
      above φ(0) by rounding error at most. On a parabola the slope condition is equivalent to
      φ(t) <= φ(0) + δ t φ′(0). It uses slopes, which are accurate where the difference of values
      has no correct digits left.
    """

    NONE = 0
    ARMIJO = 1
    WOLFE = 2
    APPROXIMATE_WOLFE = 3


class Search(NamedTuple):
    """A line search. It is not callable, so ``inject_hyperparams`` does not take it for a schedule.

    Attributes:
      init: ``init(value, slope, step, noise=0) -> state``, from φ(0), φ′(0) < 0 and the first
        step, scalars of one dtype. Differences of the value up to ``noise``, or 2 ε |φ(0)|, count
        as rounding error.
      step: ``step(state, value, slope) -> state``, from φ and φ′ at ``state.step``. A state has at
        least the fields ``step``, ``answer`` (an `Answer`), and ``condition`` (a `Condition`).
    """

    init: Callable[..., Any]
    step: Callable[[Any, jax.Array, jax.Array], Any]


class LinePoint(NamedTuple):
    """A step t with φ(t) and φ′(t), its slope: scalars."""

    step: jax.Array
    phi: jax.Array
    slope: jax.Array


def cubic_minimum(a: LinePoint, b: LinePoint) -> jax.Array:
    """The minimum of the cubic through two values and slopes; NaN if there is none.

    For the values of a parabola this is its minimum.

    Source:
      J. Nocedal and S. Wright, "Numerical Optimization", 2nd ed., 2006, eq. 3.59.
    """
    width = b.step - a.step
    d1 = a.slope + b.slope - 3 * (b.phi - a.phi) / width
    # The square root of d1² - a.slope b.slope, scaled as Moré and Thuente do, so that no product
    # overflows or vanishes.
    s = jnp.maximum(jnp.abs(d1), jnp.maximum(jnp.abs(a.slope), jnp.abs(b.slope)))
    d2 = jnp.sign(width) * s * jnp.sqrt((d1 / s) * (d1 / s) - (a.slope / s) * (b.slope / s))
    return b.step - width * (b.slope + d2 - d1) / (b.slope - a.slope + 2 * d2)


def power_law_minimum(a: LinePoint, b: LinePoint) -> jax.Array:
    """The minimum of φ(a) + φ′(a) u + C uᵖ, by both values and slopes, as an offset u from a.

    It finds the order of magnitude of the minimum, if that lies far below b. For a parabola it is
    exact. With p < 2 it is the minimum of the parabola through both slopes.
    """
    width = b.step - a.step
    steepening = b.slope - a.slope  # C p widthᵖ⁻¹
    rise = b.phi - a.phi - a.slope * width  # C widthᵖ
    p = width * steepening / rise
    descends = (rise > 0) & (steepening > 0) & (p > 1)
    # xᵏ as exp(k log x), which XLA for CPU computes for many elements at a time.
    root = jnp.exp(jnp.log(-a.slope / steepening) / jnp.maximum(p - 1, 1))
    return jnp.where(descends, width * root, jnp.inf)


def first_true(*cases: tuple[jax.Array, int], default: int) -> jax.Array:
    """The number that belongs to the first flag that is set, an int32 scalar."""
    result: Any = jnp.int32(default)
    for flag, number in reversed(cases):
        result = jnp.where(flag, jnp.int32(number), result)
    return result
