"""Parameters and data that are spread over devices: the shardings of what is made from them."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import optax
from jax.sharding import NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from cs231n_optax import _checks, _tree


def state_sharding(
    tx: optax.GradientTransformation | optax.MultiSteps, params: Any, shardings: Any
) -> Any:
    """The shardings of a transformation's state, from those of its parameters.

    Use it for the ``out_shardings`` of a jitted ``init`` or step, and to restore a checkpoint. It
    works for any Optax transformation, wrapped or chained, by the shapes in its state:

    - a tree shaped like the parameters (a velocity, an anchor) has their shardings, also with the
      holes that ``optax.masked`` leaves;
    - a history of m such trees, with leaves ``(m, *shape)``, has their shardings row by row;
    - an N × N matrix and a vector of N, the number of real numbers in the parameters, as `bfgs`
      keeps them, have their rows spread over all devices, if those divide N evenly;
    - everything else (counters, scalars, vectors of m numbers) is replicated on every device.

    If the parameters are a single array, a vector of m = N numbers is sharded as they are, which is
    correct but slower.

    Args:
      tx: any transformation with ``init(params)``.
      params: a tree of arrays, or of ``jax.ShapeDtypeStruct``.
      shardings: the tree of their shardings, or a prefix of it as in `jax.jit`: ``NamedSharding``
        of one mesh, or ``SingleDeviceSharding`` of one device.

    Returns:
      A tree of shardings, with the structure of ``tx.init(params)``.

    Raises:
      ValueError, TypeError: if ``shardings`` is no prefix of the tree of ``params``, has several
        meshes or other kinds of sharding, or does not fit a shape; or if a parameter is no array,
        or ``tx`` no transformation.

    Example:
      >>> import cs231n_optax, jax, jax.numpy as jnp
      >>> from jax.sharding import NamedSharding, PartitionSpec
      >>> mesh = jax.make_mesh((1,), ("devices",))  # of 8, say
      >>> shardings = {"w": NamedSharding(mesh, PartitionSpec("devices"))}
      >>> params = jax.device_put({"w": jnp.zeros((64, 3))}, shardings)
      >>> tx = cs231n_optax.scale_by_lbfgs()
      >>> layout = cs231n_optax.state_sharding(tx, params, shardings)
      >>> print(layout.s["w"].spec == PartitionSpec(None, "devices"))  # of shape (15, 64, 3)
      True
      >>> state = jax.jit(tx.init, out_shardings=layout)(params)

    Differs from:
      ``optax.tree.map_params``, which gives a history ``(m, *shape)`` the sharding of its parameter
      and so would split the axis of m.
    """
    _checks.transformation("tx", tx)
    for path, leaf in jax.tree.leaves_with_path(params):
        if not hasattr(leaf, "shape") and not isinstance(leaf, int | float | complex):
            raise TypeError(f"params{jax.tree_util.keystr(path)} must be an array, got {leaf!r}")
    structs = jax.eval_shape(lambda params: params, params)
    meshes = {_replicated(sharding) for sharding in jax.tree.leaves(shardings)}
    if len(meshes) != 1:
        raise ValueError(f"the shardings must be of one mesh, got {len(meshes)}")
    replicated = meshes.pop()
    try:
        shardings = jax.tree.broadcast(shardings, structs)
    except ValueError as error:
        raise ValueError(f"shardings is not the tree of the parameters: {error}") from None
    likes = jax.tree.map_with_path(_place, structs, shardings)
    size = _tree.num_reals(structs)
    ravelled = ((size,), (size, size))

    def of_other(leaf: Any) -> Any:
        return _by_rows(replicated, size) if leaf.shape in ravelled else replicated

    def of_leaf(leaf: Any, like: Any) -> Any:
        if _is_hole(leaf):
            return leaf
        if leaf.shape == like.shape:
            return like.sharding
        if leaf.shape[1:] == like.shape and leaf.shape not in ravelled:
            return _stacked(like.sharding)
        return of_other(leaf)

    # Descend from the root of the state to the nodes that have the tree of the parameters.
    def of_node(node: Any) -> Any:
        leaves, structure = jax.tree.flatten(node, is_leaf=_is_hole)
        if owners := _owners(leaves, structure, likes):
            return structure.unflatten(map(of_leaf, leaves, owners))
        if _is_struct(node):
            return of_other(node)
        children, structure = jax.tree.flatten(node, is_leaf=lambda x: x is not node)
        return structure.unflatten(map(of_node, children))

    return of_node(jax.eval_shape(tx.init, params))


def _owners(leaves: list[Any], structure: Any, params: Any) -> list[Any]:
    """The parameter of each leaf (of a hole, a subtree); empty if this is no tree of parameters."""
    try:
        owners = structure.flatten_up_to(params)
    except ValueError:
        return []
    pairs = zip(leaves, owners, strict=True)
    return owners if all(_is_hole(leaf) or _is_struct(owner) for leaf, owner in pairs) else []


def _replicated(sharding: Any) -> Sharding:
    """The sharding that replicates an array on every device of a mesh."""
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec())
    if isinstance(sharding, SingleDeviceSharding):
        return sharding
    raise TypeError(
        "every leaf of shardings must be a NamedSharding or a SingleDeviceSharding, got "
        f"{sharding!r}"
    )


def _place(path: Any, x: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    """A parameter's shape with its sharding, checked to fit."""
    rank = len(sharding.spec) if isinstance(sharding, NamedSharding) else 0
    try:
        if rank > x.ndim:
            raise ValueError(f"{sharding.spec} is for {rank} axes or more")
        sharding.shard_shape(x.shape)
    except ValueError as error:
        name = f"params{jax.tree_util.keystr(path)}"
        raise ValueError(f"{name} of shape {x.shape} can't be sharded so: {error}") from None
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def _stacked(sharding: Any) -> Sharding:
    """The sharding of a stack whose rows have the given one."""
    if isinstance(sharding, NamedSharding):
        spec = PartitionSpec(None, *sharding.spec)
        return NamedSharding(sharding.mesh, spec, memory_kind=sharding.memory_kind)
    return sharding


def _by_rows(replicated: Any, rows: int) -> Sharding:
    """Spread the rows over all devices if those divide them evenly, else replicate."""
    if isinstance(replicated, NamedSharding) and rows % replicated.mesh.size == 0:
        return NamedSharding(replicated.mesh, PartitionSpec(replicated.mesh.axis_names))
    return replicated


def _is_struct(node: Any) -> bool:
    return isinstance(node, jax.ShapeDtypeStruct)


def _is_hole(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


# Data on a mesh with explicit axes, which makes shardings a part of the types.


def take_rows(data: Any, rows: jax.Array) -> Any:
    """Rows of each array, sharded as the array is."""
    return jax.tree.map(
        lambda leaf: leaf.at[rows].get(out_sharding=_sharding_of_rows(leaf, rows)), data
    )


def _sharding_of_rows(leaf: jax.Array, rows: jax.Array) -> NamedSharding | None:
    """On every device where the devices can't divide the rows; None leaves it to XLA."""
    sharding = jax.typeof(leaf).sharding
    if not sharding.mesh.explicit_axes:
        return None
    first, *others = sharding.spec
    if rows.ndim == 0:
        return NamedSharding(sharding.mesh, PartitionSpec(*others))
    parts = leaf.shape[0] // sharding.shard_shape(leaf.shape)[0]
    first = None if rows.size % parts else first
    return NamedSharding(sharding.mesh, PartitionSpec(first, *others))


def mesh_of(data: Any) -> AbstractContextManager[Any]:
    """The context of the data's mesh, unless a mesh is set.

    Else JAX can't tell the sharding of a gradient, or of an array that a method makes.
    """
    leaves = [] if isinstance(data, Iterator) else jax.tree.leaves(data)
    sharded = [leaf for leaf in leaves if _has_explicit_axes(leaf)]
    if not sharded or not jax.sharding.get_abstract_mesh().empty:
        return nullcontext()
    try:
        return jax.set_mesh(sharded[0].sharding.mesh)
    except ValueError:  # under a transformation JAX refuses it
        raise ValueError(
            "the data lie on a mesh with explicit axes, and no mesh is set: to trace fit, call the "
            "traced function under `with jax.set_mesh(mesh):`; in sweep, which gives every device "
            "all data, take them off the mesh, jax.device_get(data)"
        ) from None


def _has_explicit_axes(x: jax.Array) -> bool:
    return bool(jax.typeof(x).sharding.mesh.explicit_axes)
