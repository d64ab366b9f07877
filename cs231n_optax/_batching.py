"""Conditionals under `jax.vmap`, and small functions compiled into one kernel.

Under vmap a `jax.lax.cond` whose flag differs between batch elements computes both branches and
selects, and a `jax.lax.while_loop` selects its whole carry in every round. With the flag
``any_in_batch(flag)``, which is one bool for the whole batch, a cond is skipped if no element needs
it, and a loop does not select its carry. Inside, ``active_in_batch(flag)`` tells which elements
need the result. Outside of any vmap it is the constant True, so that a select by it is free.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from cs231n_optax import _tree


@custom_vmap
def any_in_batch(flag: jax.Array) -> jax.Array:
    """Whether a flag is set for any element of the surrounding batches; a bool scalar."""
    return flag


@any_in_batch.def_vmap
def _any_in_batch_vmapped(axis_size: int, in_batched: list[bool], flag: jax.Array) -> tuple:
    del axis_size, in_batched
    return any_in_batch(jnp.any(flag, axis=0)), False


@custom_vmap
def active_in_batch(flag: jax.Array) -> jax.Array:
    """This element's flag, given that `any_in_batch` of it holds: True outside of any batch."""
    return jnp.ones_like(flag)


@active_in_batch.def_vmap
def _active_in_batch_vmapped(axis_size: int, in_batched: list[bool], flag: jax.Array) -> tuple:
    del axis_size, in_batched
    return flag, True


def fused_if(
    flag: jax.Array, function: Callable[[Any], tuple[Any, Any]], record: Any
) -> tuple[Any, Any]:
    """``function(record) -> (record, outputs)`` if a flag holds, in one kernel.

    If not, the record is unchanged and the outputs are zero or False. It computes what a
    `jax.lax.cond` would, as an optimisation for functions of a few scalars. XLA for CPU compiles a
    loop over less than a kilobyte into one function, but starts a kernel for each result of a cond
    or a select. Written as a loop of one round or none, the scalar work of a line search takes an
    order of magnitude less time.

    Args:
      flag: bool scalar.
      function: of a record that returns a record of the same shapes and dtypes, and a tree of
        further scalars, or None. It may close over other scalars.
      record: a tree of scalars. To use the old values after this call costs a copy of them.
    """
    shapes = jax.eval_shape(function, record)
    axes = varying_axes((flag, shapes))

    def body(carry: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
        old, _ = carry
        new = _tree.select(active_in_batch(flag), function(old[0]), old)
        return vary((new, jnp.zeros((), bool)), axes)

    start = vary(((record, _tree.zeros_like(shapes[1])), any_in_batch(flag)), axes)
    return jax.lax.while_loop(lambda carry: carry[1], body, start)[0]


# Inside `jax.shard_map` the type of an array names the mesh axes over which its values vary, and
# the carry of a loop keeps its types. So a loop on values that vary starts with values that do.


def vary(tree: Any, axes: frozenset[Any]) -> Any:
    """The same arrays, varying over the given axes of the surrounding `jax.shard_map`, too."""

    def leaf(x: Any) -> Any:
        missing = tuple(axes - varying_axes(x))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(leaf, tree) if axes else tree


def varying_axes(tree: Any) -> frozenset[Any]:
    """The axes over which any array of a tree varies; empty outside of `jax.shard_map`."""
    if not jax.sharding.get_abstract_mesh().manual_axes:
        return frozenset()
    return frozenset().union(*map(_varying_axes, jax.tree.leaves(tree)))


def _varying_axes(x: Any) -> frozenset[Any]:
    aval = x if isinstance(x, jax.ShapeDtypeStruct) else jax.typeof(x)
    kind = getattr(aval, "manual_axis_type", None)
    axes = getattr(aval, "vma", None) if kind is None else kind.varying  # vma: before jax 0.10
    return frozenset(axes or ())
