"""Low-precision gradients: computed in float32, rounded once at the end.

Update rules and methods see float32 or wider; the casts are here. In float16 the square of
1e-4 underflows to zero, and so does eps = 1e-7, nearly; in bfloat16 an accumulator that decays by
0.999 never changes. So update rules compute and keep their state in float32 or wider, and only
the finished update is rounded to the dtype of the incoming gradient.
"""

from typing import Any

import jax
import optax

from cs231n_optax import _checks, _tree
from cs231n_optax._eager import compiled_when_eager


def in_float32(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Run a transformation in float32 or wider, whatever the dtype of the gradients.

    ``init`` casts the parameters, and ``update`` the gradients, to float32 where a leaf is
    narrower, before ``tx`` gets them. The updates are cast back to the dtypes of the incoming
    gradients. The state is the state of ``tx``. Wrapping twice changes nothing.

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

    return optax.GradientTransformationExtraArgs(init, compiled_when_eager(update))


def widen_all(what: str, tree: Any) -> Any:
    """Cast leaves narrower than float32 to float32; ``what`` names the leaves in the error."""
    _checks.floating_tree(what, tree, _checks.FREEZE)
    return jax.tree.map(_tree.widen, tree)
