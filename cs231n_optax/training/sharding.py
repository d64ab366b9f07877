"""Where a transformation's state lies, when its parameters lie on many devices."""

from typing import Any

import jax
import optax
from jax.sharding import NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from cs231n_optax import _checks, _tree


def state_sharding(
    tx: optax.GradientTransformation | optax.MultiSteps, params: Any, shardings: Any
) -> Any:
    """The shardings of a transformation's state, from those of its parameters.

    For the ``out_shardings`` of a jitted ``init`` or step, and to restore a checkpoint where it
    belongs. It works for any Optax transformation, wrapped or chained, by looking at its state:

    - a tree of the parameters (a velocity, an anchor) lies as they do;
    - a history of m such trees, their leaves ``(m, *shape)``, lies so row by row;
    - an N × N matrix and a vector of N, the number of real numbers in the parameters, as `bfgs`
      keeps them, have their rows spread over all devices, if those divide N evenly;
    - everything else (counters, scalars, vectors of m numbers) is on every device.

    A subtree of the state is one of the parameters if it has their tree, with holes where
    ``optax.masked`` left some out, and a leaf of it lies as its parameter if it has its shape.
    Where the parameters are a single array, the shape alone decides: a vector of m = N numbers
    then lies as they do, too, which is as right, only slower.

    Args:
      tx: any transformation with ``init(params)``.
      params: a tree of arrays, or of ``jax.ShapeDtypeStruct``.
      shardings: the tree of their shardings, each a ``NamedSharding`` of one mesh for all (or a
        ``SingleDeviceSharding`` of one device). As in `jax.jit`, one sharding stands for all the
        leaves below its place.

    Returns:
      A tree of shardings, with the structure of ``tx.init(params)``.

    Raises:
      TypeError: if a leaf of ``shardings`` is not such a sharding, a parameter no array, or ``tx``
        no transformation.
      ValueError: if ``shardings`` is no prefix of the tree of ``params``, has several meshes or
        none, or a sharding does not fit its parameter's shape.

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
      ``optax.tree.map_params``, which hands a history ``(m, *shape)`` its parameter's own sharding,
      and so would split it between the steps of the history.
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
    """The parameter of each leaf, what a hole leaves out; none if this is no tree of parameters."""
    try:
        owners = structure.flatten_up_to(params)
    except ValueError:
        return []
    pairs = zip(leaves, owners, strict=True)
    return owners if all(_is_hole(leaf) or _is_struct(owner) for leaf, owner in pairs) else []


def _replicated(sharding: Any) -> Sharding:
    """On every device of a sharding's mesh."""
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec())
    if isinstance(sharding, SingleDeviceSharding):
        return sharding
    raise TypeError(
        "every leaf of shardings must be a NamedSharding or a SingleDeviceSharding, got "
        f"{sharding!r}"
    )


def _place(path: Any, x: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    """A parameter's shape and sharding, if they fit."""
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
    """For rows of which each has a sharding."""
    if isinstance(sharding, NamedSharding):
        spec = PartitionSpec(None, *sharding.spec)
        return NamedSharding(sharding.mesh, spec, memory_kind=sharding.memory_kind)
    return sharding


def _by_rows(replicated: Any, rows: int) -> Sharding:
    """For a matrix: its rows over all devices, if their number divides that of the rows."""
    if isinstance(replicated, NamedSharding) and rows % replicated.mesh.size == 0:
        return NamedSharding(replicated.mesh, PartitionSpec(replicated.mesh.axis_names))
    return replicated


def _is_struct(node: Any) -> bool:
    return isinstance(node, jax.ShapeDtypeStruct)


def _is_hole(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)
