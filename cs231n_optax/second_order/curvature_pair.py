"""The pair (s, y) of a step and its change of the gradient, used by BFGS and L-BFGS."""

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
    return CurvaturePair(s, y, _tree.vdot(s, y), _tree.vdot(s, s), _tree.vdot(y, y))
