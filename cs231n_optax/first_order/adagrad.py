"""AdaGrad (lecture 7-1-4).

    s ← s + g²
    x ← x - α g / (√s + ε)

s = grad_squared, the sum of the squared gradients, g = gradient at x, α = learning rate,
ε = eps, outside the root.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cs231n_optax import _checks, _tree
from cs231n_optax._precision import in_float32
from cs231n_optax.first_order.learning_rate import scale_by_learning_rate


class ScaleByAdagradState(NamedTuple):
    """State of `scale_by_adagrad`.

    Attributes:
      grad_squared: s, the tree and shapes of the parameters, real, float32 or wider, in squared
        gradient units; it never decreases.
    """

    grad_squared: optax.Updates


def _rule(g: jax.Array, s: jax.Array, *, eps: Any) -> tuple[jax.Array, jax.Array]:
    s = s + _tree.abs_squared(g)
    return g / (jnp.sqrt(s) + eps), s


def scale_by_adagrad(*, eps: jax.typing.ArrayLike = 1e-7) -> optax.GradientTransformationExtraArgs:
    """The gradient over the root of its running sum of squares: s ← s + g²; g / (√s + ε).

    Each coordinate has its own scale: steep ones are slowed and shallow ones hurried, and all of
    them slow down like 1/√t. From s = 0, so the first direction is ``g / (|g| + ε)``.

    Args:
      eps: ε > 0 in gradient units, a number or a scalar array (may be traced). It decides only
        where √s is not far above it.

    Returns:
      A transformation from gradients to an ascent direction without unit, with the tree, shapes
      and dtypes of the gradients. For complex g the squares are ``|g|²``.

    Raises:
      ValueError: if a Python ``eps`` is not finite or below float32's smallest normal number;
        from ``update``, if the gradients' tree or shapes are not those of the parameters given to
        ``init``.
      TypeError: if ``eps`` is not a number; from ``init`` and ``update``, if a leaf is not
        floating or complex.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp
      >>> tx = cs231n_optax.scale_by_adagrad()
      >>> state = tx.init(jnp.zeros(2))
      >>> for _ in range(2):
      ...     direction, state = tx.update(jnp.array([3.0, 0.03]), state)
      ...     print(direction.round(3))
      [1. 1.]
      [0.707 0.707]

    Source:
      Lecture 7-1-4; Duchi, Hazan & Singer, "Adaptive subgradient methods for online learning and
      stochastic optimization", JMLR 12, 2011.

    Differs from:
      ``optax.adagrad``, whose sum starts at 0.1 with ε inside the root, and a zero where s = 0.
      Equal to PyTorch's ``Adagrad(eps=1e-7)``; its default is ε = 1e-10. A gradient above
      1.8e19 squares to infinity in float32 and freezes its coordinate for good.
    """
    eps = _checks.epsilon("eps", eps)

    def init(params: optax.Params) -> ScaleByAdagradState:
        return ScaleByAdagradState(grad_squared=_tree.real_zeros_like(params))

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, ScaleByAdagradState]:
        del params
        direction, grad_squared = _tree.leafwise(_rule, updates, state.grad_squared, eps=eps)
        return direction, ScaleByAdagradState(grad_squared)

    return in_float32(optax.GradientTransformation(init, update))


def adagrad(
    learning_rate: optax.ScalarOrSchedule, *, eps: jax.typing.ArrayLike = 1e-7
) -> optax.GradientTransformationExtraArgs:
    """AdaGrad: `scale_by_adagrad`, then x ← x - α g / (√s + ε).

    Args:
      learning_rate: α >= 0, a number, a scalar array (may be traced) or a schedule. Unit:
        parameters.
      eps: see `scale_by_adagrad`.

    Returns:
      A transformation from gradients to the step to be added to the parameters.

    Raises:
      ValueError, TypeError: as `sgd` and `scale_by_adagrad` do.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp
      >>> tx = cs231n_optax.adagrad(learning_rate=0.1)
      >>> step, state = tx.update(jnp.array([3.0, -0.03]), tx.init(jnp.zeros(2)))
      >>> print(step.round(3))
      [-0.1  0.1]
    """
    return in_float32(optax.chain(scale_by_adagrad(eps=eps), scale_by_learning_rate(learning_rate)))
