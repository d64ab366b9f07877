"""A line search for the Wolfe conditions, by bracketing and cubic interpolation.

φ(t) <= φ(0) + c₁ t φ′(0)        sufficient decrease (Armijo)
φ′(t) >= c₂ φ′(0)                curvature, weak: the slope has become less steep
|φ′(t)| <= c₂ |φ′(0)|            curvature, strong: nor is it steep uphill
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cs231n_optax import _checks
from cs231n_optax._judgement import Answer, noise_floor
from cs231n_optax.line_search.search import Condition, Search, cubic_minimum

GROWTH = (1.1, 10.0)  # of the step, while none is known to be too long
MARGIN = 0.1  # a trial keeps this part of the bracket away from its ends
POOR_SHRINK = 0.66  # a bracket that keeps more of its width than this was shrunk poorly
FLATTER = 2 * 0.1 - 1  # the approximate condition's 2 δ - 1


class WolfeState(NamedTuple):
    """State of `wolfe`: scalars, of the dtype of the value but for the four integers.

    Attributes:
      step: t, to be tried next; after ACCEPT, the step accepted.
      answer: an `Answer`.
      condition: the `Condition` that the accepted step meets.
      num_evals: steps heard of so far.
      poor_shrinks: of the bracket, since it was last bisected.
      start_value, start_slope: φ(0) and φ′(0).
      noise: values that differ by less are equal.
      low_step, low_value, low_slope: the longest step known to be too short (at first, 0).
      high_step, high_value, high_slope: a step known to be too long; infinite while there is none.
    """

    step: jax.Array
    answer: jax.Array
    condition: jax.Array
    num_evals: jax.Array
    poor_shrinks: jax.Array
    start_value: jax.Array
    start_slope: jax.Array
    noise: jax.Array
    low_step: jax.Array
    low_value: jax.Array
    low_slope: jax.Array
    high_step: jax.Array
    high_value: jax.Array
    high_slope: jax.Array


def wolfe(
    *,
    c1: jax.typing.ArrayLike = 1e-4,
    c2: jax.typing.ArrayLike = 0.7,
    strong: bool = False,
    max_evals: int = 20,
) -> Search:
    """A search for a step that meets the Wolfe conditions, or the approximate ones.

    While no step is known to be too long, the step grows, to the minimum of the cubic through the
    last two points, and 1.1 to 10 times. Then it moves inside the bracket of a step that is too
    short and one that is too long, to the minimum of their cubic, and a tenth of the width away
    from either. Where φ or φ′ is not finite, the step is too long, and the next one lies a tenth
    of the way from the short one.

    The last of ``max_evals`` steps, if there is a bracket, need only meet Armijo's condition. Else
    the search fails, and so it does when the bracket has closed: φ and φ′ no longer change, or its
    width is 2 ε of the step.

    Args:
      c1: c₁ in [0, 1), a number or a scalar array (may be traced).
      c2: c₂ in [0, 1), usually above c₁, a number or a scalar array (may be traced). Small values
        search more exactly.
      strong: whether the curvature condition is the strong one.
      max_evals: steps tried at most, >= 1. A Python integer.

    Returns:
      A `Search`, for `with_line_search`, or for any φ.

    Raises:
      ValueError: if a Python ``c1`` or ``c2`` is outside [0, 1), or ``max_evals`` < 1.
      TypeError: if an argument is of another type.

    Example:
      >>> import cs231n_optax, jax, jax.numpy as jnp
      >>> search = cs231n_optax.wolfe(c2=0.1, strong=True)
      >>> phi = jax.value_and_grad(lambda t: (t - 3.0) ** 4)
      >>> state = search.init(*phi(0.0), jnp.array(1.0))
      >>> while state.answer == 0:
      ...     state = search.step(state, *phi(state.step))
      >>> print(f"{state.step:.3f}", state.num_evals)
      3.031 4

    Source:
      J. Nocedal and S. Wright, "Numerical Optimization", 2nd ed., 2006, chapter 3; J. J. Moré and
      D. J. Thuente, ACM Transactions on Mathematical Software 20, 1994 (the bracket and its
      safeguards); W. W. Hager and H. Zhang, SIAM Journal on Optimization 16, 2005 (the
      approximate conditions).

    Differs from:
      ``optax.scale_by_zoom_linesearch`` and SciPy, which search for the strong conditions with
      c₂ = 0.9: here the weak ones with 0.7 took fewer evaluations in all.
    """
    c1 = _checks.decay_rate("c1", c1)
    c2 = _checks.decay_rate("c2", c2)
    strong = _checks.static_bool("strong", strong)
    max_evals = min(_checks.static_int("max_evals", max_evals, at_least=1), _checks.MAX_INT)

    def init(
        value: jax.Array, slope: jax.Array, step: jax.Array, noise: jax.typing.ArrayLike = 0.0
    ) -> WolfeState:
        dtype = jnp.result_type(value, slope, step, float)
        value, slope, step = (jnp.asarray(x, dtype) for x in (value, slope, step))
        zero, infinity = jnp.zeros_like(step), jnp.full_like(step, jnp.inf)
        none = jnp.zeros_like(step, dtype=jnp.int32)
        return WolfeState(
            step=step,
            answer=none,
            condition=none,
            num_evals=none,
            poor_shrinks=none,
            start_value=value,
            start_slope=slope,
            noise=noise_floor(value, noise),
            low_step=zero,
            low_value=value,
            low_slope=slope,
            high_step=infinity,
            high_value=zero,
            high_slope=zero,
        )

    def step(state: WolfeState, value: jax.Array, slope: jax.Array) -> WolfeState:
        t = state.step
        steepest, flattest = (jnp.asarray(c, t.dtype) * state.start_slope for c in (c2, c1))
        finite = jnp.isfinite(value) & jnp.isfinite(slope)
        decrease = value <= state.start_value + t * flattest
        level = value <= state.start_value + state.noise
        curved = slope >= steepest
        if strong:
            curved &= slope <= -steepest
        exact = finite & decrease & curved
        approximate = finite & level & curved & (slope <= FLATTER * state.start_slope)
        # Too short where the value has fallen and the slope still does, too long elsewhere.
        low = (state.low_step, state.low_value, state.low_slope)
        high = (state.high_step, state.high_value, state.high_slope)
        trial = (t, value, slope)
        short = finite & (decrease | level) & (slope < 0)
        new_low, new_high = _choose(short, trial, low), _choose(short, high, trial)
        bracketed = jnp.isfinite(new_high[0])
        num_evals = state.num_evals + 1
        last = num_evals >= max_evals
        accept = exact | approximate | (last & bracketed & finite & decrease)

        minimum = cubic_minimum(*_choose(bracketed, new_high, low), *new_low)
        longer = jnp.clip(jnp.where(minimum > t, minimum, jnp.inf), GROWTH[0] * t, GROWTH[1] * t)
        width = new_high[0] - new_low[0]
        before = state.high_step - state.low_step
        poor = bracketed & (width > POOR_SHRINK * before)
        poor_shrinks = state.poor_shrinks + poor.astype(jnp.int32)
        bisect = (poor_shrinks >= 2) | ~jnp.isfinite(minimum)
        into = jnp.where(bisect, 0.5 * width, minimum - new_low[0])
        into = jnp.where(jnp.isfinite(new_high[1] + new_high[2]), into, 0)
        inside = new_low[0] + jnp.clip(into, MARGIN * width, (1 - MARGIN) * width)

        unmoved = (value == state.low_value) & (slope == state.low_slope)
        narrow = bracketed & (width <= 2 * np.finfo(t.dtype).eps * new_high[0])
        closed = narrow | (unmoved & (bracketed | (num_evals == 1)))
        fail = closed | last
        return WolfeState(
            step=jnp.where(accept, t, jnp.where(bracketed, inside, longer)),
            answer=_pick(accept, Answer.ACCEPT, _pick(fail, Answer.FAIL, Answer.TRY)),
            condition=_pick(
                exact,
                Condition.WOLFE,
                _pick(
                    approximate,
                    Condition.APPROXIMATE_WOLFE,
                    _pick(accept, Condition.ARMIJO, Condition.NONE),
                ),
            ),
            num_evals=num_evals,
            poor_shrinks=jnp.where(poor_shrinks >= 2, 0, poor_shrinks),
            start_value=state.start_value,
            start_slope=state.start_slope,
            noise=state.noise,
            low_step=new_low[0],
            low_value=new_low[1],
            low_slope=new_low[2],
            high_step=new_high[0],
            high_value=new_high[1],
            high_slope=new_high[2],
        )

    return Search(init, step)


def _choose(flag: jax.Array, x: tuple[Any, ...], y: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(jnp.where(flag, a, b) for a, b in zip(x, y, strict=True))


def _pick(flag: jax.Array, x: Any, y: Any) -> jax.Array:
    return jnp.where(flag, jnp.int32(x), jnp.int32(y))
