"""SGD with momentum (lecture 7-1-3).

    v ← ρ v + g
    x ← x - α v

v = velocity, ρ = rho, g = gradient at x, α = learning rate. α stands outside the velocity.
"""

from typing import Any, NamedTuple

import jax
import optax

from cs231n_optax import _checks, _tree
from cs231n_optax._precision import in_float32
from cs231n_optax.first_order.learning_rate import named_chain, scale_by_learning_rate


class ScaleByMomentumState(NamedTuple):
    """State of `scale_by_momentum`: v, shaped like the parameters, float32 or wider."""

    velocity: optax.Updates


def _rule(g: jax.Array, v: jax.Array, *, rho: Any) -> tuple[jax.Array, jax.Array]:
    v = rho * v + g
    return v, v


def scale_by_momentum(rho: jax.typing.ArrayLike = 0.9) -> optax.GradientTransformationExtraArgs:
    """Replace the gradient by the velocity: v ← ρ v + g, from v = 0.

    A constant gradient is amplified up to 1 / (1 - ρ) times.

    Args:
      rho: ρ in [0, 1), a number or a scalar array (may be traced).

    Raises:
      ValueError, TypeError: if ``rho`` is not a number in [0, 1), or the gradients do not match
        the parameters.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp
      >>> tx = cs231n_optax.scale_by_momentum(rho=0.5)
      >>> state = tx.init(jnp.zeros(1))
      >>> for _ in range(3):
      ...     velocity, state = tx.update(jnp.ones(1), state)
      >>> print(velocity)
      [1.75]

    Source:
      Lecture 7-1-3; Polyak, USSR Computational Mathematics and Mathematical Physics 4, 1964.

    Differs from:
      The lecture's page in two slips of sign: its code adds α v, and its first formula subtracts
      both g inside v and v from x. Equal to ``optax.trace(rho)`` and PyTorch's ``momentum=rho``.
    """
    rho = _checks.decay_rate("rho", rho)

    def init(params: optax.Params) -> ScaleByMomentumState:
        return ScaleByMomentumState(velocity=_tree.zeros_like(params))

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, ScaleByMomentumState]:
        del params
        _checks.own_state("scale_by_momentum", state, ScaleByMomentumState)
        direction, velocity = _tree.leafwise(_rule, updates, state.velocity, rho=rho)
        return direction, ScaleByMomentumState(velocity)

    return in_float32(optax.GradientTransformation(init, update))


def momentum(
    learning_rate: optax.ScalarOrSchedule, rho: jax.typing.ArrayLike = 0.9
) -> optax.GradientTransformationExtraArgs:
    """SGD with momentum: v ← ρ v + g; x ← x - α v.

    α stands outside the velocity, so a new learning rate rescales all of v at once. In `nesterov`
    it stands inside.

    Args:
      learning_rate: α >= 0, a number, a scalar array (may be traced) or a schedule.
      rho: see `scale_by_momentum`.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp
      >>> tx = cs231n_optax.momentum(learning_rate=0.1, rho=0.9)
      >>> step, state = tx.update(jnp.ones(2), tx.init(jnp.zeros(2)))
      >>> print(step)
      [-0.1 -0.1]
    """
    return named_chain("momentum", scale_by_momentum(rho), scale_by_learning_rate(learning_rate))
