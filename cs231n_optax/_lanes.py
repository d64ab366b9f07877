"""Decisions inside a batch: what a lane of a `jax.vmap` may skip, and what it must select.

Under vmap `jax.lax.cond` on a flag of the lane becomes a select of both branches, and a
`jax.lax.while_loop` whose condition differs by lane selects its whole carry in every round. Asked
through `any_lane`, the condition is one for the batch: the cond stays a cond, which the batch
skips where no lane wants it, and the loop only loops. Inside, `this_lane` says which lanes are
meant; outside of any vmap it is True, a constant, and a select by it costs nothing.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from cs231n_optax import _tree


@custom_vmap
def any_lane(flag: jax.Array) -> jax.Array:
    """Whether a flag is set in any lane of all the batches around; a bool scalar."""
    return flag


@any_lane.def_vmap
def _any_lane_batched(axis_size: int, in_batched: list[bool], flag: jax.Array) -> tuple:
    del axis_size, in_batched
    return any_lane(jnp.any(flag, axis=0)), False


@custom_vmap
def this_lane(flag: jax.Array) -> jax.Array:
    """The lane's flag, where `any_lane` of it holds: True outside of any batch."""
    return jnp.ones_like(flag)


@this_lane.def_vmap
def _this_lane_batched(axis_size: int, in_batched: list[bool], flag: jax.Array) -> tuple:
    del axis_size, in_batched
    return flag, True


def in_one_kernel(
    wanted: jax.Array, transition: Callable[..., Any], state: Any, *inputs: Any
) -> Any:
    """``transition(state, *inputs)`` where a flag is set, else the state as it is.

    For functions of a few scalars. It is a loop of one round or none, since XLA for CPU compiles
    a loop over less than a kilobyte into one function, where it would otherwise start a kernel for
    each array that results: an order of magnitude in the time of a line search's bookkeeping.

    Args:
      wanted: bool scalar.
      transition: from a state and further inputs to a state of the same shapes and dtypes.
      state: a tree of small arrays.
      *inputs: small arrays.
    """

    def once(carry: tuple[Any, jax.Array, Any]) -> tuple[Any, jax.Array, Any]:
        old, _, inputs = carry
        new = _tree.select(this_lane(wanted), transition(old, *inputs), old)
        return new, jnp.zeros((), bool), inputs

    return jax.lax.while_loop(lambda carry: carry[1], once, (state, any_lane(wanted), inputs))[0]
