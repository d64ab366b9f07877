"""RMSProp (lecture 7-1-5).

    s ← β s + (1 - β) g²
    x ← x - α g / (√s + ε)

s = grad_squared, the decaying mean of the squared gradients, β = decay, g = gradient at x,
α = learning rate, ε = eps, outside the root.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cs231n_optax import _checks, _tree
from cs231n_optax._precision import in_float32
from cs231n_optax.first_order.learning_rate import scale_by_learning_rate


class ScaleByRmspropState(NamedTuple):
    """State of `scale_by_rmsprop`.

    Attributes:
      grad_squared: s, the tree and shapes of the parameters, real, float32 or wider, in squared
        gradient units.
    """

    grad_squared: optax.Updates


def _rule(g: jax.Array, s: jax.Array, *, decay: Any, eps: Any) -> tuple[jax.Array, jax.Array]:
    s = decay * s + (1 - decay) * _tree.abs_squared(g)
    return g / (jnp.sqrt(s) + eps), s


def scale_by_rmsprop(
    decay: jax.typing.ArrayLike = 0.9, *, eps: jax.typing.ArrayLike = 1e-7
) -> optax.GradientTransformationExtraArgs:
    """The gradient over its root mean square: s ← β s + (1 - β) g²; g / (√s + ε).

    AdaGrad that forgets: s looks back some 1 / (1 - β) updates, so the steps need not shrink.
    From s = 0 with no correction, so the first direction is about ``g / (√(1 - β) |g|)``: 3.2 for
    β = 0.9.

    Args:
      decay: β in [0, 1), a number or a scalar array (may be traced).
      eps: ε > 0 in gradient units, a number or a scalar array (may be traced).

    Returns:
      A transformation from gradients to an ascent direction without unit, with the tree, shapes
      and dtypes of the gradients. For complex g the squares are ``|g|²``.

    Raises:
      ValueError: if a Python ``decay`` is outside [0, 1), or ``eps`` not finite or below
        float32's smallest normal number; from ``update``, if the gradients' tree or shapes are
        not those of the parameters given to ``init``.
      TypeError: if one of them is not a number; from ``init`` and ``update``, if a leaf is not
        floating or complex.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp
      >>> tx = cs231n_optax.scale_by_rmsprop(decay=0.75)
      >>> direction, state = tx.update(jnp.array([3.0, 0.03]), tx.init(jnp.zeros(2)))
      >>> print(direction.round(3), state.grad_squared)
      [2. 2.] [2.25e+00 2.25e-04]

    Source:
      Lecture 7-1-5; Tieleman & Hinton, "Lecture 6.5: rmsprop", COURSERA, 2012.

    Differs from:
      ``optax.rmsprop``, which has ε = 1e-8 inside the root; ``optax.rmsprop(..., decay=0.9,
      eps=1e-7, eps_in_sqrt=False)`` is equal. PyTorch's ``RMSprop(alpha=0.9, eps=1e-7)`` is
      equal; its defaults are 0.99 and 1e-8. A gradient above 1.8e19 squares to infinity in
      float32 and freezes its coordinate for good.
    """
    decay, eps = _checks.decay_rate("decay", decay), _checks.epsilon("eps", eps)

    def init(params: optax.Params) -> ScaleByRmspropState:
        return ScaleByRmspropState(grad_squared=_tree.real_zeros_like(params))

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, ScaleByRmspropState]:
        del params
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
    """RMSProp: `scale_by_rmsprop`, then x ← x - α g / (√s + ε).

    Args:
      learning_rate: α >= 0, a number, a scalar array (may be traced) or a schedule. Unit:
        parameters.
      decay: see `scale_by_rmsprop`.
      eps: see `scale_by_rmsprop`.

    Returns:
      A transformation from gradients to the step to be added to the parameters.

    Raises:
      ValueError, TypeError: as `sgd` and `scale_by_rmsprop` do.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp
      >>> tx = cs231n_optax.rmsprop(learning_rate=0.1, decay=0.75)
      >>> step, state = tx.update(jnp.array([3.0, -0.03]), tx.init(jnp.zeros(2)))
      >>> print(step.round(3))
      [-0.2  0.2]
    """
    return in_float32(
        optax.chain(scale_by_rmsprop(decay, eps=eps), scale_by_learning_rate(learning_rate))
    )
