"""Conditionals on each platform and under `jax.vmap`.

XLA for CPU skips what a conditional does not need, and compiles a short loop into one kernel. On a
GPU each round of a loop and each conditional waits for the host, so a program without control flow
is faster there, though it computes more. So `compute_if` and `fused_if` have control flow on CPU,
and none on other platforms.

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


def compute_if(flag: jax.Array, function: Callable[[], Any], otherwise: Any) -> Any:
    """``function()`` if a flag holds, else ``otherwise``, a tree of the same shapes and dtypes.

    On CPU nothing is computed if the flag holds for no element of the surrounding batches.
    """
    function = jax.jit(function)  # traced once

    def cond() -> Any:
        new = jax.lax.cond(any_in_batch(flag), function, lambda: otherwise)
        return _tree.select(active_in_batch(flag), new, otherwise)

    return jax.lax.platform_dependent(
        cpu=cond, default=lambda: _tree.select(flag, function(), otherwise)
    )


def fused_if(
    flag: jax.Array, function: Callable[[Any], tuple[Any, Any]], record: Any
) -> tuple[Any, Any]:
    """``function(record) -> (record, outputs)`` if a flag holds, for a few scalars.

    If not, the record is unchanged and the outputs are zero or False. It computes what a
    `jax.lax.cond` would. XLA for CPU compiles a loop over less than a kilobyte into one function,
    but starts a kernel for each result of a cond or a select. Written as a loop of one round or
    none, the scalar work of a line search takes an order of magnitude less time. On other
    platforms it is computed in any case, and selected.

    Args:
      flag: bool scalar.
      function: of a record that returns a record of the same shapes and dtypes, and a tree of
        further scalars, or None. It may close over other scalars.
      record: a tree of scalars. To use the old values after this call costs a copy of them.
    """
    function = jax.jit(function)  # traced once
    shapes = jax.eval_shape(function, record)
    axes = varying_axes((flag, shapes))
    old = vary((record, _tree.zeros_like(shapes[1])), axes)

    def body(carry: tuple[Any, jax.Array]) -> tuple[Any, jax.Array]:
        old, _ = carry
        new = _tree.select(active_in_batch(flag), function(old[0]), old)
        return vary((new, jnp.zeros((), bool)), axes)

    def loop() -> tuple[Any, Any]:
        start = (old, vary(any_in_batch(flag), axes))
        return jax.lax.while_loop(lambda carry: carry[1], body, start)[0]

    return jax.lax.platform_dependent(
        cpu=loop, default=lambda: _tree.select(flag, function(record), old)
    )


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
