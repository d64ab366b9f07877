"""Stochastic gradient descent (lecture 7-1-1 and 7-1-3).

    x ← x - α g

x = parameters, g = gradient at x, α = learning rate.
"""

import optax

from cs231n_optax._precision import in_float32
from cs231n_optax.first_order.learning_rate import scale_by_learning_rate


def sgd(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformationExtraArgs:
    """Stochastic gradient descent: x ← x - α g.

    Args:
      learning_rate: α >= 0, a number, a scalar array (may be traced) or a schedule.

    Raises:
      ValueError, TypeError: if ``learning_rate`` is negative or no number, or a leaf is neither
        floating nor complex.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp, optax
      >>> params = jnp.array([1.0, 2.0])
      >>> tx = cs231n_optax.sgd(learning_rate=0.5)
      >>> updates, state = tx.update(2 * params, tx.init(params), params)
      >>> print(optax.apply_updates(params, updates))
      [0. 0.]

    Source:
      Lecture 7-1-1; Robbins & Monro, "A stochastic approximation method", 1951.

    Differs from:
      The lecture's 7-1-3 code, which adds α g: a sign slip. Equal to Optax's and PyTorch's.
    """
    return in_float32(scale_by_learning_rate(learning_rate))
