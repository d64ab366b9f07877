"""Polyak averaging (lecture 7-1-11): parameters to test with, averaged over the updates.

    x̄ ← x̄ + w (x - x̄)

    the lecture's:         w = 1 - β               x̄₀ = x₀
    with bias correction:  w = (1 - β) / (1 - βᵗ)  the same mean, without x₀
    uniform:               w = 1 / t               the mean of x₁ … x_t

x̄ = average, x = the parameters after the update, β = decay, t = count, which starts at 1.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cs231n_optax import _checks, _tree
from cs231n_optax._precision import widen_all
from cs231n_optax.averaging._found import find_averages, merge
from cs231n_optax.averaging._point import new_point


class PolyakAverageState(NamedTuple):
    """State of `polyak_average`.

    Attributes:
      count: t, int32 scalar, the number of points averaged so far.
      average: x̄, the tree, shapes and units of the parameters, float32 or wider.
    """

    averages_points = True  # see `refuse_rejected_points`

    count: jax.typing.ArrayLike
    average: optax.Params


def _rule(x: jax.Array, average: jax.Array, weight: jax.Array, accept: Any) -> jax.Array:
    accept &= jnp.isfinite(x)
    weight = _tree.cast(weight, x.dtype)
    # A select between product and sum keeps a compiled step from rounding once instead of twice.
    step = jnp.where(accept, weight * (x - average), 0)
    return jnp.where(accept & (weight == 1), x, average + step)


def polyak_average(
    decay: jax.typing.ArrayLike = 0.995,
    *,
    bias_correction: bool = False,
    uniform: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Keep a moving average of the parameters, to be used at test time.

        x̄ ← x̄ + w (x - x̄),        w = 1 - β, from x̄₀ = x₀

    Put it last in a chain, or hand it to `fit` or `minimize` as ``averaging=``; the updates pass
    as they are, and `averaged_params` reads the average. The lecture's w gives x₀ the weight βᵗ.
    With ``bias_correction`` x₀ has none, w = (1 - β) / (1 - βᵗ); with ``uniform`` all points
    weigh the same, w = 1 / t.

    Args:
      decay: β in [0, 1), a number or a scalar array (may be traced). About 1 / (1 - β) points
        make up the average. Not used with ``uniform``.
      bias_correction: whether to leave x₀ out; a Python bool.
      uniform: whether to take the plain mean of x₁ … x_t; a Python bool.

    Returns:
      A transformation that returns the updates unchanged. Its ``update`` needs ``params``, and
      takes ``accept=False`` (a bool scalar, may be traced) to leave a point out. The average is
      float32 or wider; of narrower parameters it takes the rounded values. An element of x that
      is not finite is left out: x̄ keeps its own there.

    Raises:
      ValueError: if a Python ``decay`` is outside [0, 1), or both flags are set; from ``update``,
        if ``params`` are missing, or a tree or a shape is not that of the parameters given to
        ``init``.
      TypeError: if ``decay`` is not a number, or a flag not a Python bool; from ``init`` and
        ``update``, if a parameter is not floating or complex.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp, optax
      >>> tx = optax.chain(cs231n_optax.sgd(0.1), cs231n_optax.polyak_average(decay=0.5))
      >>> params = jnp.array([1.0])
      >>> state = tx.init(params)
      >>> for _ in range(2):
      ...     updates, state = tx.update(10 * params, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> print(params, cs231n_optax.averaged_params(state))  # 1, 0, 0 with 1/4, 1/4, 1/2
      [0.] [0.25]

    Source:
      Lecture 7-1-11; B. T. Polyak and A. B. Juditsky, "Acceleration of stochastic approximation
      by averaging", SIAM Journal on Control and Optimization 30, 1992, for the uniform mean.

    Differs from:
      ``optax.ema``, which averages the updates that pass, and hands on the average in their place.
      PyTorch's ``AveragedModel``, where both the uniform mean, its default, and
      ``get_ema_avg_fn`` begin at the first point that they are shown.
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
        point = new_point("polyak_average", updates, params, state.average)
        count = optax.safe_increment(state.count)
        t = jnp.asarray(count, float)
        if uniform:
            weight = 1 / t
        elif bias_correction:
            weight = jnp.asarray(1 - decay, float) * _tree.bias_correction(decay, count)
            weight = jnp.where(t == 1, 1, weight)  # to the last bit: nothing of x₀ is left
        else:
            weight = jnp.asarray(1 - decay, float)
        return updates, PolyakAverageState(
            count=jnp.where(accept, count, state.count),
            average=jax.tree.map(lambda x, a: _rule(x, a, weight, accept), point, state.average),
        )

    return optax.GradientTransformationExtraArgs(init, update)


def averaged_params(state: Any) -> Any:
    """The average that `polyak_average` keeps: the parameters for test time.

    Args:
      state: the state of `polyak_average`, or any that holds one (chained, injected, vmapped, in
        a `FitState`, or in the parts of ``optax.partition``, which are put together).

    Returns:
      The average, with the tree and shapes of the parameters, float32 or wider; before the first
      update, the parameters given to ``init``.

    Raises:
      ValueError: if the state holds no average; if ``optax.masked`` kept some parameters from it;
        if two averages hold the same parameter; or if it was chained to a line search or a trust
        region, so that it has averaged rejected trials.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp
      >>> def fun(x): return jnp.sum((x - 3.0) ** 2)
      >>> result = cs231n_optax.minimize(fun, jnp.zeros(2), cs231n_optax.sgd(0.25),
      ...                                averaging=cs231n_optax.polyak_average(0.5))
      >>> print(cs231n_optax.averaged_params(result.state).round(2))
      [3. 3.]
    """
    found = find_averages("polyak_average", PolyakAverageState, state)
    return merge("polyak_average", [average.average for average in found])
