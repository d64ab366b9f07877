"""SGD with momentum (lecture 7-1-3).

    v ← ρ v + g
    x ← x - α v

v = velocity, ρ = rho, the share of the velocity that friction leaves, g = gradient at x,
α = learning rate. α stands outside the velocity.
"""

from typing import Any, NamedTuple

import jax
import optax

from cs231n_optax import _checks, _tree
from cs231n_optax._precision import in_float32
from cs231n_optax.first_order.learning_rate import scale_by_learning_rate


class ScaleByMomentumState(NamedTuple):
    """State of `scale_by_momentum`.

    Attributes:
      velocity: v, the tree and shapes of the parameters, float32 or wider, in gradient units.
    """

    velocity: optax.Updates


def _rule(g: jax.Array, v: jax.Array, *, rho: Any) -> tuple[jax.Array, jax.Array]:
    v = rho * v + g
    return v, v


def scale_by_momentum(rho: jax.typing.ArrayLike = 0.9) -> optax.GradientTransformationExtraArgs:
    """The velocity of momentum, a decaying sum of gradients: v ← ρ v + g, from v = 0.

    After t updates v = Σ ρᵗ⁻ⁱ gᵢ: a gradient that stays the same is amplified 1 / (1 - ρ) times.

    Args:
      rho: ρ in [0, 1), a number or a scalar array (may be traced). 0 is plain SGD; the lecture
        suggests 0.9 or 0.99.

    Returns:
      A transformation from gradients to v, an ascent direction, with the tree, shapes and dtypes
      of the gradients.

    Raises:
      ValueError: if a Python ``rho`` is outside [0, 1); from ``update``, if the gradients' tree
        or shapes are not those of the parameters given to ``init``.
      TypeError: if ``rho`` is not a number; from ``init`` and ``update``, if a leaf is not
        floating or complex.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp
      >>> tx = cs231n_optax.scale_by_momentum(rho=0.5)
      >>> state = tx.init(jnp.zeros(1))
      >>> for _ in range(3):
      ...     velocity, state = tx.update(jnp.ones(1), state)
      ...     print(velocity)
      [1.]
      [1.5]
      [1.75]

    Source:
      Lecture 7-1-3; Polyak, "Some methods of speeding up the convergence of iteration methods",
      1964.

    Differs from:
      The lecture's page in two slips of sign: its code adds α v, and its first formula subtracts
      the gradient inside v and v from x. Equal to ``optax.trace(rho)`` and to PyTorch's
      ``momentum=rho`` with ``dampening=0``. Not ``optax.ema``, which weighs g by 1 - ρ.
    """
    rho = _checks.decay_rate("rho", rho)

    def init(params: optax.Params) -> ScaleByMomentumState:
        return ScaleByMomentumState(velocity=_tree.zeros_like(params))

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, ScaleByMomentumState]:
        del params
        direction, velocity = _tree.leafwise(_rule, updates, state.velocity, rho=rho)
        return direction, ScaleByMomentumState(velocity)

    return in_float32(optax.GradientTransformation(init, update))


def momentum(
    learning_rate: optax.ScalarOrSchedule, rho: jax.typing.ArrayLike = 0.9
) -> optax.GradientTransformationExtraArgs:
    """SGD with momentum: `scale_by_momentum`, then x ← x - α v.

    α stands outside the velocity: a new learning rate acts at once on the whole of v. `nesterov`
    has it inside. The order in the chain is that difference.

    Args:
      learning_rate: α >= 0, a number, a scalar array (may be traced) or a schedule.
      rho: see `scale_by_momentum`.

    Returns:
      A transformation from gradients to the step to be added to the parameters.

    Raises:
      ValueError, TypeError: as `sgd` and `scale_by_momentum` do.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp
      >>> tx = cs231n_optax.momentum(learning_rate=0.1, rho=0.9)
      >>> step, state = tx.update(jnp.ones(2), tx.init(jnp.zeros(2)))
      >>> print(step)
      [-0.1 -0.1]
    """
    return in_float32(optax.chain(scale_by_momentum(rho), scale_by_learning_rate(learning_rate)))
