"""The curvature test of the quasi-Newton methods."""

import jax
import jax.numpy as jnp


def is_curved(sy: jax.Array, ss: jax.Array, yy: jax.Array) -> jax.Array:
    """Whether s · y > ε ‖s‖ ‖y‖, from the inner products of a pair: scalars of one dtype.

    Without it the pair could make H indefinite.
    """
    return sy > jnp.finfo(sy.dtype).eps * jnp.sqrt(ss) * jnp.sqrt(yy)
