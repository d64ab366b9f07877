"""RMSProp (lecture 7-1-5).

    s ← β s + (1 - β) g²
    x ← x - α g / (√s + ε)

s = grad_squared, the moving average of the squared gradients, β = decay, g = gradient at x,
α = learning rate, ε = eps, outside the root.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cs231n_optax import _checks, _tree
from cs231n_optax._precision import in_float32
from cs231n_optax.first_order.learning_rate import named_chain, scale_by_learning_rate


class ScaleByRmspropState(NamedTuple):
    """State of `scale_by_rmsprop`: s, shaped like the parameters, real, float32 or wider."""

    grad_squared: optax.Updates


def _rule(g: jax.Array, s: jax.Array, *, decay: Any, eps: Any) -> tuple[jax.Array, jax.Array]:
    s = decay * s + (1 - decay) * _tree.abs_squared(g)
    return g / (jnp.sqrt(s) + eps), s


def scale_by_rmsprop(
    decay: jax.typing.ArrayLike = 0.9, *, eps: jax.typing.ArrayLike = 1e-7
) -> optax.GradientTransformationExtraArgs:
    """Divide the gradient by its root mean square: s ← β s + (1 - β) g²; g / (√s + ε).

    s starts at 0 without bias correction, so the first direction is about 1 / √(1 - β) long: 3.2
    for β = 0.9. For complex g the square is ``|g|²``.

    Args:
      decay: β in [0, 1), a number or a scalar array (may be traced).
      eps: ε >= 1.18e-38, in gradient units, likewise.

    Raises:
      ValueError, TypeError: if an argument is out of range or of another type, or the gradients do
        not match the parameters.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp
      >>> tx = cs231n_optax.scale_by_rmsprop(decay=0.75)
      >>> direction, state = tx.update(jnp.array([3.0, 0.03]), tx.init(jnp.zeros(2)))
      >>> print(direction.round(3), state.grad_squared)
      [2. 2.] [2.25e+00 2.25e-04]

    Source:
      Lecture 7-1-5; Tieleman & Hinton, "Lecture 6.5: rmsprop", COURSERA, 2012.

    Differs from:
      ``optax.rmsprop``, equal with ``eps=1e-7, eps_in_sqrt=False``, and PyTorch's ``RMSprop``,
      equal with ``alpha=0.9, eps=1e-7``. As there, a gradient above 1.8e19 overflows and freezes
      its coordinate.
    """
    decay, eps = _checks.decay_rate("decay", decay), _checks.epsilon("eps", eps)

    def init(params: optax.Params) -> ScaleByRmspropState:
        return ScaleByRmspropState(grad_squared=_tree.real_zeros_like(params))

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, ScaleByRmspropState]:
        del params
        _checks.own_state("scale_by_rmsprop", state, ScaleByRmspropState)
        direction, grad_squared = _tree.leafwise(
            _rule, updates, state.grad_squared, decay=decay, eps=eps
        )
        return direction, ScaleByRmspropState(grad_squared)

    return in_float32(optax.GradientTransformation(init, update))


def rmsprop(
    learning_rate: optax.ScalarOrSchedule,
    decay: jax.typing.ArrayLike = 0.9,
    *,
    eps: jax.typing.ArrayLike = 1e-7,
) -> optax.GradientTransformationExtraArgs:
    """RMSProp: s ← β s + (1 - β) g²; x ← x - α g / (√s + ε).

    Args:
      learning_rate: α >= 0, a number, a scalar array (may be traced) or a schedule.
      decay: see `scale_by_rmsprop`.
      eps: see `scale_by_rmsprop`.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp
      >>> tx = cs231n_optax.rmsprop(learning_rate=0.1, decay=0.75)
      >>> step, state = tx.update(jnp.array([3.0, -0.03]), tx.init(jnp.zeros(2)))
      >>> print(step.round(3))
      [-0.2  0.2]
    """
    return named_chain(
        "rmsprop", scale_by_rmsprop(decay, eps=eps), scale_by_learning_rate(learning_rate)
    )
