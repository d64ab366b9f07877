"""The curves of lecture 7-1-2 B: a local minimum on the way, and a plateau on the way."""

import jax
import jax.numpy as jnp


def local_minimum(x: jax.typing.ArrayLike) -> jax.Array:
    """f(x) = x⁴/4 - x³/3 - x²: f′ = x (x + 1) (x - 2).

    A local minimum of -5/12 at -1, a barrier of height 0 at 0, and the global minimum of -8/3 at 2.
    Defined for a number or an array of one element.
    """
    x = jnp.sum(jnp.asarray(x))
    return x**4 / 4 - x**3 / 3 - x**2


def plateau(x: jax.typing.ArrayLike) -> jax.Array:
    """f(x) = x⁴/4 - 2x³/3: f′ = x² (x - 2).

    A stationary point at 0, where the curvature is zero as well, and the minimum of -4/3 at 2.
    Defined for a number or an array of one element.
    """
    x = jnp.sum(jnp.asarray(x))
    return x**4 / 4 - 2 * x**3 / 3
