"""Backtracking line search: shorten the step until the value has decreased enough.

φ(t) <= φ(0) + c₁ t φ′(0)        sufficient decrease (Armijo)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cs231n_optax import _checks
from cs231n_optax.globalization.acceptance import Answer, noise_floor
from cs231n_optax.globalization.search import Condition, Search, first_true


class BacktrackingState(NamedTuple):
    """State of `backtracking`: scalars.

    Attributes:
      step: t, the next step to evaluate; after ACCEPT, the accepted step.
      answer: an `Answer`.
      condition: the `Condition` that the accepted step meets.
      num_evals: number of steps evaluated.
      start_value, start_slope: φ(0) and φ′(0).
      noise: differences of the value below this count as rounding error.
    """

    step: jax.Array
    answer: jax.Array
    condition: jax.Array
    num_evals: jax.Array
    start_value: jax.Array
    start_slope: jax.Array
    noise: jax.Array


def backtracking(
    *,
    c1: jax.typing.ArrayLike = 1e-4,
    decrease: jax.typing.ArrayLike = 0.5,
    max_evals: int = 30,
) -> Search:
    """Multiply the step by a factor until Armijo's condition holds.

    A step where φ or φ′ is not finite is too long. Where φ(t) equals φ(0) up to rounding, a step
    is also accepted if φ′(0) <= φ′(t) <= 0, which is reported as APPROXIMATE_WOLFE though it asks
    for less than `wolfe` does. The accepted step may be too short for a quasi-Newton update: use
    `wolfe` there. The step never grows, and shrinks by ``decrease ** max_evals`` at most: the
    search needs a first step of the right order of magnitude, and finds no lack of a lower bound.

    Args:
      c1: c₁ in [0, 1), a number or a scalar array (may be traced).
      decrease: the factor, in (0, 1), a number or a scalar array (may be traced).
      max_evals: largest number of steps evaluated, >= 1; then the answer is FAIL. A Python
        integer.

    Returns:
      A `Search`.

    Raises:
      ValueError: if a Python ``c1`` is outside [0, 1) or ``decrease`` outside (0, 1), or if
        ``max_evals`` < 1.
      TypeError: if an argument is of another type.

    Example:
      >>> import cs231n_optax, jax, jax.numpy as jnp
      >>> search = cs231n_optax.backtracking()
      >>> phi = jax.value_and_grad(lambda t: (t - 1.0) ** 2)
      >>> state = search.init(*phi(0.0), jnp.array(8.0))
      >>> while state.answer == 0:
      ...     state = search.step(state, *phi(state.step))
      >>> print(state.step, state.num_evals)
      1.0 4

    Source:
      L. Armijo, Pacific Journal of Mathematics 16, 1966; J. Nocedal and S. Wright, "Numerical
      Optimization", 2nd ed., 2006, algorithm 3.1.
    """
    c1 = _checks.decay_rate("c1", c1)
    decrease = _checks.positive("decrease", _checks.decay_rate("decrease", decrease))
    max_evals = min(_checks.static_int("max_evals", max_evals, at_least=1), _checks.MAX_INT)

    def init(
        value: jax.Array, slope: jax.Array, step: jax.Array, noise: jax.typing.ArrayLike = 0.0
    ) -> BacktrackingState:
        dtype = jnp.result_type(value, slope, step, float)
        value, slope, step = (jnp.asarray(x, dtype) for x in (value, slope, step))
        zero = jnp.zeros_like(step, dtype=jnp.int32)
        return BacktrackingState(
            step=step,
            answer=zero,
            condition=zero,
            num_evals=zero,
            start_value=value,
            start_slope=slope,
            noise=noise_floor(value, noise),
        )

    def step(state: BacktrackingState, value: jax.Array, slope: jax.Array) -> BacktrackingState:
        _checks.own_state("backtracking", state, BacktrackingState)
        t = state.step
        num_evals = state.num_evals + 1
        changed = (value != state.start_value) | (slope != state.start_slope)
        usable = changed & jnp.isfinite(value) & jnp.isfinite(slope)

        # Sufficient decrease, or a level value with a slope between φ′(0) and 0.
        bound = state.start_value + jnp.asarray(c1, t.dtype) * t * state.start_slope
        exact = usable & (value <= bound)
        less_steep = (slope >= state.start_slope) & (slope <= 0)
        approximate = usable & (value <= state.start_value + state.noise) & less_steep
        accept = exact | approximate

        fail = ~changed | (num_evals >= max_evals)
        return state._replace(
            step=jnp.where(accept, t, t * jnp.asarray(decrease, t.dtype)),
            answer=first_true((accept, Answer.ACCEPT), (fail, Answer.FAIL), default=Answer.TRY),
            condition=first_true(
                (exact, Condition.ARMIJO),
                (approximate, Condition.APPROXIMATE_WOLFE),
                default=Condition.NONE,
            ),
            num_evals=num_evals,
        )

    return Search(init, step)
