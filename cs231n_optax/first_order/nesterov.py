"""Nesterov momentum (lecture 7-1-3), in the changed variable x̃ = x + ρ v.

    v′ = ρ v - α ∇f(x̃)
    x̃ ← x̃ + v′ + ρ (v′ - v)

v = velocity, ρ = rho, α = learning rate. α stands inside the velocity. The parameters of the
training loop are x̃, the look-ahead point, where the gradient is taken; `nesterov_iterate` gives x.
The state holds w = ρ v; with u = -α ∇f(x̃) the same rule is

    w ← ρ w + ρ u
    x̃ ← x̃ + u + w
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cs231n_optax import _checks, _tree
from cs231n_optax._precision import in_float32
from cs231n_optax.first_order.learning_rate import named_chain, scale_by_learning_rate


class ScaleByNesterovState(NamedTuple):
    """State of `scale_by_nesterov`: w = ρ v, shaped like the parameters, float32 or wider."""

    look_ahead: optax.Updates


def _rule(u: jax.Array, w: jax.Array, *, rho: Any) -> tuple[jax.Array, jax.Array]:
    # XLA would compute ρ (w + u) twice, from a copy of w, which takes four times as long.
    w = rho * w + rho * u
    return u + w, w


def scale_by_nesterov(rho: jax.typing.ArrayLike = 0.9) -> optax.GradientTransformationExtraArgs:
    """Nesterov's look-ahead: v′ = ρ v + u, and the update is v′ + ρ (v′ - v), from v = 0.

    The place in the chain decides what v is. After the learning rate, as in `nesterov`, u = -α g,
    which is the lecture's rule. Before it, u = g, as in Optax and PyTorch; the iterates agree while
    α is constant.

    Args:
      rho: ρ in [0, 1), a number or a scalar array (may be traced).

    Raises:
      ValueError, TypeError: if ``rho`` is not a number in [0, 1), or the updates do not match the
        parameters.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp
      >>> tx = cs231n_optax.scale_by_nesterov(rho=0.5)
      >>> update, state = tx.update(jnp.ones(1), tx.init(jnp.zeros(1)))
      >>> print(update, state.look_ahead)
      [1.5] [0.5]

    Source:
      Lecture 7-1-3; Nesterov, Soviet Mathematics Doklady 27, 1983; the changed variable: Bengio,
      Boulanger-Lewandowski & Pascanu, ICASSP 2013.

    Differs from:
      The lecture's formula in one slip: its "(1 + ρ) v + 1" is (1 + ρ) v with the index t + 1.
    """
    rho = _checks.decay_rate("rho", rho)

    def init(params: optax.Params) -> ScaleByNesterovState:
        return ScaleByNesterovState(look_ahead=_tree.zeros_like(params))

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, ScaleByNesterovState]:
        del params
        _checks.own_state("scale_by_nesterov", state, ScaleByNesterovState)
        updates, look_ahead = _tree.leafwise(_rule, updates, state.look_ahead, rho=rho)
        return updates, ScaleByNesterovState(look_ahead)

    return in_float32(optax.GradientTransformation(init, update))


def nesterov(
    learning_rate: optax.ScalarOrSchedule, rho: jax.typing.ArrayLike = 0.9
) -> optax.GradientTransformationExtraArgs:
    """Nesterov momentum: v′ = ρ v - α g; x̃ ← x̃ + v′ + ρ (v′ - v).

    α stands inside the velocity, so a new learning rate acts on the gradients to come only. In
    `momentum` it stands outside.

    Args:
      learning_rate: α >= 0, a number, a scalar array (may be traced) or a schedule.
      rho: see `scale_by_nesterov`.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp
      >>> tx = cs231n_optax.nesterov(learning_rate=0.1, rho=0.9)
      >>> step, state = tx.update(jnp.ones(2), tx.init(jnp.zeros(2)))
      >>> print(step)
      [-0.19 -0.19]

    Differs from:
      ``optax.sgd(learning_rate, momentum=rho, nesterov=True)`` and PyTorch's ``nesterov=True``,
      where α stands outside the velocity: the iterates agree only while α is constant.
    """
    return named_chain("nesterov", scale_by_learning_rate(learning_rate), scale_by_nesterov(rho))


def nesterov_iterate(state: optax.OptState, params: optax.Params) -> optax.Params:
    """The iterate x = x̃ - ρ v of `nesterov`, given the look-ahead point x̃.

    Args:
      state: the state of `nesterov`, or any state that holds one (chained, injected, masked).
        Parameters that a mask left out are returned unchanged.
      params: x̃, the parameters of the training loop.

    Raises:
      ValueError: if the state does not hold exactly one state of `scale_by_nesterov`, for
        parameters like these.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp, optax
      >>> params = jnp.array([1.0])
      >>> tx = cs231n_optax.nesterov(learning_rate=0.1, rho=0.9)
      >>> updates, state = tx.update(2 * params, tx.init(params), params)
      >>> params = optax.apply_updates(params, updates)
      >>> print(params, cs231n_optax.nesterov_iterate(state, params))
      [0.62] [0.8]
    """
    # With the learning rate after scale_by_nesterov, v is in gradient units: x̃ - ρ v means nothing.
    found = _tree.find(state, ScaleByNesterovState)
    if len(found) != 1:
        raise ValueError(f"the state holds {len(found)} states of scale_by_nesterov, expected 1")

    def iterate(w: Any, x: Any) -> Any:
        if isinstance(w, optax.MaskedNode):
            return x
        if not _checks.is_inexact(x) or jnp.shape(x) != w.shape:
            raise ValueError(
                f"params have {_checks.brief(x)} where the state of scale_by_nesterov has shape "
                f"{w.shape}"
            )
        return _tree.cast(_tree.widen(x) - w, jnp.result_type(x))

    look_ahead, structure = jax.tree.flatten(
        found[0].look_ahead, is_leaf=lambda w: isinstance(w, optax.MaskedNode)
    )
    try:
        points = structure.flatten_up_to(params)
    except ValueError as error:
        raise ValueError(f"params are not of the tree of the state: {error}") from None
    return structure.unflatten(map(iterate, look_ahead, points))
