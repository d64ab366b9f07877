"""The point that an update leads to, as the averages take it."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from cs231n_optax._precision import widen_all


def new_point(name: str, updates: Any, params: Any, like: Any) -> Any:
    """The new parameters x + u, rounded to the parameters' dtype, then in float32 or wider.

    Args:
      name: of the transformation, for the errors.
      updates: u, what the loop will add to the parameters.
      params: x, or None, which is an error.
      like: a tree of the shapes that the parameters given to ``init`` had.

    Raises:
      ValueError: if ``params`` are missing, or a tree or a shape is not that of ``like``.
      TypeError: if a parameter is not floating or complex.
    """
    if params is None:
        raise ValueError(f"{name} needs the parameters: update(updates, state, params)")
    for what, tree in (("updates", updates), ("parameters", params)):
        got, expected = jax.tree.structure(tree), jax.tree.structure(like)
        if got == expected:
            got = [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]
            expected = [leaf.shape for leaf in jax.tree.leaves(like)]
        if got != expected:
            raise ValueError(
                f"{name}: the {what} are not those of the parameters given to init: got {got}, "
                f"expected {expected}"
            )
    point = optax.apply_updates(params, updates)
    return jax.tree.map(_as_rounded, widen_all("parameter", point), point)


def _as_rounded(wide: jax.Array, narrow: jax.Array) -> jax.Array:
    """What the narrow number is, where XLA for a compiled step would skip its rounding.

    The mantissa alone: `jax.lax.reduce_precision` of the exponent, too, would flush float16's
    subnormal numbers to zero.
    """
    if wide.dtype == narrow.dtype:
        return wide
    return jax.lax.reduce_precision(wide, 8, jnp.finfo(narrow.dtype).nmant)
