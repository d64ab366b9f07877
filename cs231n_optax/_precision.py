"""Low-precision gradients, carried in float32.

The one place of the library that knows about narrow dtypes. In float16 the square of 1e-4 is
zero and eps = 1e-7 nearly so, and in bfloat16 an accumulator that decays by 0.999 never moves:
so a rule sees float32 or wider, keeps its state there, and only the finished update is rounded
to the dtype in which the gradient came.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cs231n_optax import _tree


def in_float32(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Run a transformation in float32 or wider, whatever the dtype of the gradients.

    ``init`` shows ``tx`` the parameters, and ``update`` the gradients, with every leaf narrower
    than float32 cast to float32; the updates come back in the dtypes of the incoming gradients.
    The state is that of ``tx``. Wrapping twice changes nothing.

    Raises:
      TypeError: from ``init`` and ``update``, for a leaf that is not a floating or complex array.
    """
    inner = optax.with_extra_args_support(tx)

    def init(params: optax.Params) -> optax.OptState:
        return inner.init(widen_all("parameter", params))

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        wide, state = inner.update(widen_all("gradient", updates), state, params, **extra_args)
        narrow = jax.tree.map(lambda u, g: _tree.cast(u, _tree.as_array(g).dtype), wide, updates)
        return narrow, state

    return optax.GradientTransformationExtraArgs(init, update)


def widen_all(what: str, tree: Any) -> Any:
    """A tree with the leaves narrower than float32 cast to it; ``what`` they are, for the error."""
    refuse_others(
        what,
        tree,
        "keep other leaves away from the transformation with optax.masked or optax.partition",
    )
    return jax.tree.map(_tree.widen, tree)


def refuse_others(what: str, tree: Any, remedy: str) -> None:
    """Raise a TypeError if a leaf is neither floating nor complex, with what to do about it."""
    if not all(is_inexact(leaf) for leaf in jax.tree.leaves(tree)):
        paths = jax.tree.leaves_with_path(tree)
        path, leaf = next((path, leaf) for path, leaf in paths if not is_inexact(leaf))
        raise TypeError(
            f"every {what} must be a floating or complex array, but {what}"
            f"{jax.tree_util.keystr(path)} is {kind(leaf)}; {remedy}"
        )


def kind(leaf: Any) -> Any:
    """The dtype of an array, or the type of anything else, for messages."""
    return getattr(leaf, "dtype", type(leaf).__name__)


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf is a floating or complex array or number."""
    dtype = getattr(leaf, "dtype", None)
    return isinstance(leaf, float | complex) if dtype is None else _is_inexact_dtype(dtype)


@functools.cache
def _is_inexact_dtype(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.inexact)
