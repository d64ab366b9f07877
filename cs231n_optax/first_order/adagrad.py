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
from cs231n_optax.first_order.learning_rate import named_chain, scale_by_learning_rate


class ScaleByAdagradState(NamedTuple):
    """State of `scale_by_adagrad`: s, shaped like the parameters, real, float32 or wider."""

    grad_squared: optax.Updates


def _rule(g: jax.Array, s: jax.Array, *, eps: Any) -> tuple[jax.Array, jax.Array]:
    s = s + _tree.abs_squared(g)
    return g / (jnp.sqrt(s) + eps), s


def scale_by_adagrad(*, eps: jax.typing.ArrayLike = 1e-7) -> optax.GradientTransformationExtraArgs:
    """Divide the gradient by the root of its sum of squares: s ← s + g²; g / (√s + ε).

    s starts at 0, so the first direction is ``g / (|g| + ε)``; later ones shrink like 1/√t. For
    complex g the square is ``|g|²``.

    Args:
      eps: ε >= 1.18e-38, in gradient units, a number or a scalar array (may be traced).

    Raises:
      ValueError, TypeError: if ``eps`` is too small or no number, or the gradients do not match
        the parameters.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp
      >>> tx = cs231n_optax.scale_by_adagrad()
      >>> state = tx.init(jnp.zeros(2))
      >>> for _ in range(2):
      ...     direction, state = tx.update(jnp.array([3.0, 0.03]), state)
      >>> print(direction.round(3))
      [0.707 0.707]

    Source:
      Lecture 7-1-4; Duchi, Hazan & Singer, JMLR 12, 2011.

    Differs from:
      ``optax.adagrad``, whose sum starts at 0.1, with ε inside the root. Equal to PyTorch's with
      ``eps=1e-7``. As there, a gradient above 1.8e19 overflows and freezes its coordinate.
    """
    eps = _checks.epsilon("eps", eps)

    def init(params: optax.Params) -> ScaleByAdagradState:
        return ScaleByAdagradState(grad_squared=_tree.real_zeros_like(params))

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, ScaleByAdagradState]:
        del params
        _checks.own_state("scale_by_adagrad", state, ScaleByAdagradState)
        direction, grad_squared = _tree.leafwise(_rule, updates, state.grad_squared, eps=eps)
        return direction, ScaleByAdagradState(grad_squared)

    return in_float32(optax.GradientTransformation(init, update))


def adagrad(
    learning_rate: optax.ScalarOrSchedule, *, eps: jax.typing.ArrayLike = 1e-7
) -> optax.GradientTransformationExtraArgs:
    """AdaGrad: s ← s + g²; x ← x - α g / (√s + ε).

    Args:
      learning_rate: α >= 0, a number, a scalar array (may be traced) or a schedule.
      eps: see `scale_by_adagrad`.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp
      >>> tx = cs231n_optax.adagrad(learning_rate=0.1)
      >>> step, state = tx.update(jnp.array([3.0, -0.03]), tx.init(jnp.zeros(2)))
      >>> print(step.round(3))
      [-0.1  0.1]
    """
    return named_chain("adagrad", scale_by_adagrad(eps=eps), scale_by_learning_rate(learning_rate))
