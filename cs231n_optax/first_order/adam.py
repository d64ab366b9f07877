"""Adam, without (lecture 7-1-6) and with (7-1-7) bias correction.

    m ← β₁ m + (1 - β₁) g
    s ← β₂ s + (1 - β₂) g²
    x ← x - α m̂ / (√ŝ + ε)

    with correction: m̂ = m / (1 - β₁ᵗ), ŝ = s / (1 - β₂ᵗ); without: m̂ = m, ŝ = s

m = first_moment, s = second_moment, the moving averages of the gradients and of their squares,
β₁ = b1, β₂ = b2, t = count, from 1, g = gradient at x, α = learning rate, ε = eps, outside the
root.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cs231n_optax import _checks, _tree
from cs231n_optax._precision import in_float32
from cs231n_optax.first_order.learning_rate import named_chain, scale_by_learning_rate


class ScaleByAdamState(NamedTuple):
    """State of `scale_by_adam`: t, int32; m and s, shaped like the parameters, s real."""

    count: jax.typing.ArrayLike
    first_moment: optax.Updates
    second_moment: optax.Updates


def _rule(
    g: jax.Array,
    m: jax.Array,
    s: jax.Array,
    *,
    b1: Any,
    b2: Any,
    eps: Any,
    correction1: Any,
    correction2: Any,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    m = b1 * m + (1 - b1) * g
    s = b2 * s + (1 - b2) * _tree.abs_squared(g)
    return m * correction1 / (jnp.sqrt(s * correction2) + eps), m, s


def scale_by_adam(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-7,
    *,
    bias_correction: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Divide the average gradient by the root of the average square: m̂ / (√ŝ + ε).

    m ← β₁ m + (1 - β₁) g and s ← β₂ s + (1 - β₂) g², both from 0. With bias correction
    m̂ = m / (1 - β₁ᵗ) and ŝ = s / (1 - β₂ᵗ). Without it m̂ = m and ŝ = s, and the first direction is
    (1 - β₁) / √(1 - β₂) times as long: 3.2 by default.

    Args:
      b1: β₁ in [0, 1), a number or a scalar array (may be traced).
      b2: β₂ in [0, 1), likewise.
      eps: ε >= 1.18e-38, in gradient units, likewise.
      bias_correction: a Python bool; it can't be traced.

    Raises:
      ValueError, TypeError: if an argument is out of range or of another type, or the gradients do
        not match the parameters.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp
      >>> grads = jnp.array([3.0, -0.03])
      >>> for bias_correction in (True, False):
      ...     tx = cs231n_optax.scale_by_adam(bias_correction=bias_correction)
      ...     direction, state = tx.update(grads, tx.init(grads))
      ...     print(jnp.sign(direction), f"{direction[0]:.2f}")
      [ 1. -1.] 1.00
      [ 1. -1.] 3.16

    Source:
      Lecture 7-1-6 and 7-1-7; Kingma & Ba, ICLR 2015.

    Differs from:
      The lecture's second listing, whose t starts at 0 and divides by zero: t starts at 1.
      ``optax.adam`` and PyTorch's ``Adam`` have ε = 1e-8 and always correct the bias. As there, a
      gradient above 1.8e19 overflows and freezes its coordinate.
    """
    b1, b2 = _checks.decay_rate("b1", b1), _checks.decay_rate("b2", b2)
    eps = _checks.epsilon("eps", eps)
    bias_correction = _checks.static_bool("bias_correction", bias_correction)

    def init(params: optax.Params) -> ScaleByAdamState:
        return ScaleByAdamState(
            count=jnp.zeros((), jnp.int32),
            first_moment=_tree.zeros_like(params),
            second_moment=_tree.real_zeros_like(params),
        )

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, ScaleByAdamState]:
        del params
        _checks.own_state("scale_by_adam", state, ScaleByAdamState)
        count = optax.safe_increment(state.count)
        correction1 = _tree.bias_correction(b1, count) if bias_correction else 1
        correction2 = _tree.bias_correction(b2, count) if bias_correction else 1
        direction, m, s = _tree.leafwise(
            _rule,
            updates,
            state.first_moment,
            state.second_moment,
            b1=b1,
            b2=b2,
            eps=eps,
            correction1=correction1,
            correction2=correction2,
        )
        return direction, ScaleByAdamState(count, m, s)

    return in_float32(optax.GradientTransformation(init, update))


def adam(
    learning_rate: optax.ScalarOrSchedule = 1e-3,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-7,
    *,
    bias_correction: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Adam: `scale_by_adam`, then x ← x - α m̂ / (√ŝ + ε).

    Args:
      learning_rate: α >= 0, a number, a scalar array (may be traced) or a schedule. The lecture
        suggests 1e-3 or 5e-4.
      b1: see `scale_by_adam`.
      b2: see `scale_by_adam`.
      eps: see `scale_by_adam`.
      bias_correction: see `scale_by_adam`.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp
      >>> tx = cs231n_optax.adam(learning_rate=0.1)
      >>> step, state = tx.update(jnp.array([3.0, -0.03]), tx.init(jnp.zeros(2)))
      >>> print(step.round(3))
      [-0.1  0.1]
    """
    return named_chain(
        "adam",
        scale_by_adam(b1, b2, eps, bias_correction=bias_correction),
        scale_by_learning_rate(learning_rate),
    )
