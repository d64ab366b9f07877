"""Polyak averaging (lecture 7-1-11): a moving average of the parameters, for test time.

    x̄ ← x̄ + w (x - x̄)

    the lecture's:         w = 1 - β               x̄₀ = x₀
    with bias correction:  w = (1 - β) / (1 - βᵗ)  the same average without x₀
    uniform:               w = 1 / t               the mean of x₁ … x_t

x̄ = average, x = the parameters after the update, β = decay, t = count, from 1.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cs231n_optax import _checks, _tree
from cs231n_optax._precision import widen_all
from cs231n_optax.averaging.accepted_points import new_point, read_average


class PolyakAverageState(NamedTuple):
    """State of `polyak_average`.

    Attributes:
      count: t, int32 scalar, the number of points averaged so far.
      average: x̄, shaped like the parameters, float32 or wider.
    """

    averages_points = True  # see `refuse_rejected_points`

    count: jax.typing.ArrayLike
    average: optax.Params


def _rule(x: jax.Array, average: jax.Array, weight: jax.Array, accept: Any) -> jax.Array:
    accept &= jnp.isfinite(x)
    weight = _tree.cast(weight, x.dtype)
    # The select keeps XLA from fusing product and sum, which would round once instead of twice.
    step = jnp.where(accept, weight * (x - average), 0)
    return jnp.where(accept & (weight == 1), x, average + step)


def polyak_average(
    decay: jax.typing.ArrayLike = 0.995,
    *,
    bias_correction: bool = False,
    uniform: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Keep a moving average of the parameters: x̄ ← x̄ + w (x - x̄), from x̄₀ = x₀.

    By default w = 1 - β. With ``bias_correction`` w = (1 - β) / (1 - βᵗ), which leaves x₀ out; with
    ``uniform`` w = 1 / t. Put it last in a chain, or pass it to `fit` or `minimize` as
    ``averaging=``; the updates pass unchanged, and `averaged_params` reads the average.

    Args:
      decay: β in [0, 1), a number or a scalar array (may be traced). The average spans about
        1 / (1 - β) points. Not used with ``uniform``.
      bias_correction: a Python bool.
      uniform: a Python bool.

    Returns:
      A transformation whose ``update`` needs ``params``, and takes ``accept=False`` (may be traced)
      to leave a point out. The average is float32 or wider. Elements of x that are not finite are
      left out.

    Raises:
      ValueError, TypeError: if ``decay`` is not a number in [0, 1), both flags are set, ``params``
        are missing, or a tree, shape or type is not that of the parameters given to ``init``.

    Example:
      >>> import cs231n_optax, jax, jax.numpy as jnp, optax
      >>> tx = optax.chain(cs231n_optax.sgd(0.1), cs231n_optax.polyak_average(decay=0.5))
      >>> params = jnp.array([1.0])
      >>> state, update = tx.init(params), jax.jit(tx.update)
      >>> for _ in range(2):
      ...     updates, state = update(10 * params, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> print(params, cs231n_optax.averaged_params(state))  # 1, 0, 0 with 1/4, 1/4, 1/2
      [0.] [0.25]

    Source:
      Lecture 7-1-11; B. T. Polyak and A. B. Juditsky, "Acceleration of stochastic approximation
      by averaging", SIAM Journal on Control and Optimization 30, 1992, for the uniform mean.

    Differs from:
      ``optax.ema``, which averages the updates and replaces them by the average. PyTorch's
      ``AveragedModel``, whose averages all start at the first point.
    """
    decay = _checks.decay_rate("decay", decay)
    bias_correction = _checks.static_bool("bias_correction", bias_correction)
    uniform = _checks.static_bool("uniform", uniform)
    if bias_correction and uniform:
        raise ValueError("bias_correction and uniform exclude each other: uniform has no bias")

    def init(params: optax.Params) -> PolyakAverageState:
        return PolyakAverageState(
            count=jnp.zeros((), jnp.int32),
            average=_tree.copy(widen_all("parameter", params)),
        )

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        accept: jax.typing.ArrayLike = True,
        **extra_args: Any,
    ) -> tuple[optax.Updates, PolyakAverageState]:
        del extra_args
        _checks.own_state("polyak_average", state, PolyakAverageState)
        point = new_point("polyak_average", updates, params, state.average)
        count = optax.safe_increment(state.count)
        t = jnp.asarray(count, float)
        if uniform:
            weight = 1 / t
        elif bias_correction:
            weight = jnp.asarray(1 - decay, float) * _tree.bias_correction(decay, count)
            weight = jnp.where(t == 1, 1, weight)  # exactly, so that nothing of x₀ is left
        else:
            weight = jnp.asarray(1 - decay, float)
        return updates, PolyakAverageState(
            count=jnp.where(accept, count, state.count),
            average=jax.tree.map(lambda x, a: _rule(x, a, weight, accept), point, state.average),
        )

    return optax.GradientTransformationExtraArgs(init, update)


def averaged_params(state: Any) -> Any:
    """The average that `polyak_average` keeps, for test time.

    Args:
      state: the state of `polyak_average`, or any that holds one (chained, injected, vmapped, in a
        `FitState`).

    Returns:
      The average, shaped like the parameters, float32 or wider; before the first update, the
      parameters given to ``init``.

    Raises:
      ValueError: if the state does not hold exactly one average of all parameters, or the average
        was chained after a line search or a trust region and so has seen rejected points.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp
      >>> def fun(x): return jnp.sum((x - 3.0) ** 2)
      >>> result = cs231n_optax.minimize(fun, jnp.zeros(2), cs231n_optax.sgd(0.25),
      ...                                averaging=cs231n_optax.polyak_average(0.5))
      >>> print(cs231n_optax.averaged_params(result.state).round(2))
      [3. 3.]
    """
    return read_average("polyak_average", PolyakAverageState, "average", state)
