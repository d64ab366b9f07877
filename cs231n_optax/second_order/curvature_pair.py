"""The pair (s, y) of a step and its change of the gradient, used by the quasi-Newton methods."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cs231n_optax import _tree


class CurvaturePair(NamedTuple):
    """A pair, and its inner products.

    Attributes:
      s: x - x_last, a tree.
      y: g - g_last, a tree.
      sy, ss, yy: scalars, s·y, s·s and y·y.
    """

    s: Any
    y: Any
    sy: jax.Array
    ss: jax.Array
    yy: jax.Array

    @property
    def is_curved(self) -> jax.Array:
        """Whether s·y > ε ‖s‖ ‖y‖, so that H stays positive definite.

        Nocedal and Wright, eq. 6.7, with a margin for rounding.
        """
        eps = jnp.finfo(self.sy.dtype).eps
        return self.sy > eps * jnp.sqrt(self.ss) * jnp.sqrt(self.yy)


def curvature_pair(params: Any, grads: Any, last_params: Any, last_grads: Any) -> CurvaturePair:
    """The pair between the last point and this one."""
    s = jax.tree.map(jnp.subtract, params, last_params)
    y = jax.tree.map(jnp.subtract, grads, last_grads)
    return CurvaturePair(s, y, *_tree.one_pass(vdots=((s, y), (s, s), (y, y))))


def r_inverse_with_pair(
    r_inverse: jax.Array, slot: jax.Array, s_y: jax.Array, sy: jax.Array
) -> jax.Array:
    """R⁻¹ with a new pair (s, y) in place of the oldest one.

    R is the upper triangle of S Yᵀ in the order of age, where a row of S and Y is a pair. The rows
    and columns of R⁻¹ have the order of the ring buffer.

    Args:
      r_inverse: (m, m), R⁻¹ of the pairs so far, 0 in empty rows and columns.
      slot: the row of the oldest pair or an empty one, which becomes that of the new pair.
      s_y: (m,), S y of the pairs so far; its element in ``slot`` is not used.
      sy: s·y of the new pair, > 0.
    """
    is_slot = _tree.is_row(slot, len(s_y))
    # The oldest pair is the first: without it, R⁻¹ loses its row and its column. The new pair is
    # the last: it adds the column S y to R above the diagonal element s·y, and so the column
    # -R⁻¹ S y / s·y to R⁻¹ above 1 / s·y.
    above = -_tree.matvec(r_inverse, jnp.where(is_slot, 0, s_y))
    column = jnp.where(is_slot, 1, above) / sy
    r_inverse = jnp.where(is_slot[:, None], 0, r_inverse)
    return jnp.where(is_slot[None, :], column[:, None], r_inverse)
