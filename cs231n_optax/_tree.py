"""Arithmetic on pytrees: what the rules need and `jax.tree.map` does not give."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

Rule = Callable[..., tuple[jax.Array, ...]]


def abs_squared(x: jax.Array) -> jax.Array:
    """|x|² elementwise: real, also for complex x."""
    return x.real**2 + x.imag**2 if jnp.iscomplexobj(x) else x * x


def bias_correction(b: Any, count: jax.typing.ArrayLike) -> jax.Array:
    """1 / (1 - bᵗ), for a decaying mean that started at zero t updates ago.

    With -expm1(t log b) for 1 - bᵗ, since for b near 1 the difference loses digits: at t = 1 and
    b = 0.999 float32 would keep four.
    """
    log_b = jnp.log(b) if isinstance(b, jax.Array) else math.log(b) if b > 0 else -math.inf
    return -1 / jnp.expm1(jnp.asarray(count, float) * jnp.asarray(log_b, float))


def zeros_like(tree: Any) -> Any:
    """Zeros with the leaves' shapes, dtypes and shardings, never weakly typed."""
    return jax.tree.map(lambda x: jnp.zeros_like(x, dtype=jnp.result_type(x)), tree)


def zero_rows(tree: Any, m: int) -> Any:
    """Zeros for every leaf in m rows, (m, *shape), each row sharded as the leaf is."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (m, *x.shape)), zeros_like(tree))


def copy(tree: Any) -> Any:
    """The tree in buffers of its own, never weakly typed."""
    return jax.tree.map(lambda x: jnp.array(x, dtype=jnp.result_type(x), copy=True), tree)


def real_zeros_like(tree: Any) -> Any:
    """The same for an accumulator of |g|²: complex leaves get a real one."""
    return jax.tree.map(lambda x: jnp.zeros_like(x, dtype=real_dtype(x)), tree)


def select(flag: jax.Array, new: Any, old: Any) -> Any:
    """``new`` where a bool scalar holds, else ``old``.

    A state whose class says ``selects_itself = True`` is always the new one: it may be too large
    to be selected as a whole, and so its transformation is told what is wanted.
    """

    def choose(x: Any, y: Any) -> Any:
        return x if _selects_itself(x) else jnp.where(flag, x, y)

    return jax.tree.map(choose, new, old, is_leaf=_selects_itself)


def _selects_itself(node: Any) -> bool:
    return getattr(node, "selects_itself", False)


def vdot(x: Any, y: Any) -> jax.Array:
    """Σ Re(x̄ y) over all leaves: the inner product of the trees as real vectors."""
    dtype = scalar_dtype(x)
    products = jax.tree.map(_inner, x, y)
    return sum((cast(p, dtype) for p in jax.tree.leaves(products)), start=jnp.zeros((), dtype))


def _inner(rows: jax.Array, x: jax.Array) -> jax.Array:
    """Σ Re(rows x̄) over the axes of x, the last of rows.

    Over all of them at once: flattened first, an array whose later axes are sharded would be
    gathered on every device.
    """
    x = jnp.conj(x)
    return jnp.tensordot(
        rows, x, axes=x.ndim, precision="highest", out_sharding=_everywhere(x)
    ).real


def _everywhere(x: jax.Array) -> NamedSharding | None:
    """On all devices, where types say so (the axes of the mesh are explicit); else left to XLA."""
    mesh = jax.typeof(x).sharding.mesh
    return NamedSharding(mesh, PartitionSpec()) if mesh.explicit_axes else None


def every(holds: Callable[..., jax.Array], *trees: Any) -> jax.Array:
    """Whether a bool scalar of the leaves holds for all of them."""
    flags = jax.tree.leaves(jax.tree.map(holds, *trees))
    return functools.reduce(jnp.logical_and, flags, jnp.ones((), bool))


def matvec(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    """A matrix times a vector, at full precision on every device."""
    return jnp.matmul(matrix, vector, precision="highest")


def scale(factor: jax.Array, x: Any) -> Any:
    """Factor · x, with a real factor, in the dtypes of x."""
    return jax.tree.map(lambda x: cast(factor, x.dtype) * x, x)


def axpy(factor: jax.Array, x: Any, y: Any) -> Any:
    """Factor · x + y, with a real factor, in the dtypes of y."""
    return jax.tree.map(lambda x, y: cast(factor, x.dtype) * x + y, x, y)


def rows_dot(rows: Any, x: Any) -> jax.Array:
    """The inner products of x with each of m rows, trees of arrays (m, *shape of x): (m,)."""
    dtype = scalar_dtype(x)
    products = jax.tree.map(lambda x, rows: cast(_inner(rows, x), dtype), x, rows)
    return functools.reduce(jnp.add, jax.tree.leaves(products))


def combine(weights: jax.Array, rows: Any) -> Any:
    """Σᵢ weights[i] · rows[i], the inverse of `rows_dot` in its shapes."""
    return jax.tree.map(
        lambda rows: jnp.tensordot(cast(weights, rows.dtype), rows, axes=1, precision="highest"),
        rows,
    )


def num_reals(tree: Any) -> int:
    """How many real numbers there are in a tree, of arrays or of their shapes."""
    return sum(x.size * (2 if x.dtype.kind == "c" else 1) for x in jax.tree.leaves(tree))


def ravel(tree: Any) -> jax.Array:
    """All numbers of a tree in one real vector; of a complex leaf, the real parts come first."""
    dtype = scalar_dtype(tree)
    parts = [
        jnp.reshape(part, -1, out_sharding=_everywhere(part)).astype(dtype)
        for leaf in jax.tree.leaves(tree)
        for part in ([leaf.real, leaf.imag] if jnp.iscomplexobj(leaf) else [jnp.asarray(leaf)])
    ]
    return jnp.concatenate(parts) if parts else jnp.zeros(0, dtype)


def unravel(flat: jax.Array, like: Any) -> Any:
    """The tree whose `ravel` a vector is."""
    start = 0
    leaves = []
    for leaf in jax.tree.leaves(like):
        size, dtype = jnp.size(leaf), real_dtype(leaf)
        parts = 2 if jnp.iscomplexobj(leaf) else 1
        pieces = [
            jnp.reshape(
                flat[start + i * size : start + (i + 1) * size],
                jnp.shape(leaf),
                out_sharding=jax.typeof(leaf).sharding if _everywhere(leaf) else None,
            ).astype(dtype)
            for i in range(parts)
        ]
        leaves.append(jax.lax.complex(*pieces) if parts == 2 else pieces[0])
        start += parts * size
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def max_abs(tree: Any) -> jax.Array:
    """The largest modulus of an element, NaN if one is NaN; 0 for an empty tree."""
    largest = jnp.zeros((), scalar_dtype(tree))
    for leaf in jax.tree.leaves(tree):
        if leaf.size:
            largest = jnp.maximum(largest, cast(jnp.max(jnp.abs(leaf)), largest.dtype))
    return largest


def scalar_dtype(tree: Any) -> Any:
    """The widest real dtype of the leaves: that of a sum over them all."""
    dtypes = [real_dtype(leaf) for leaf in jax.tree.leaves(tree)]
    return max(dtypes, key=lambda dtype: dtype.itemsize) if dtypes else jnp.result_type(float)


def norm(tree: Any) -> jax.Array:
    """The Euclidean norm over all leaves, accumulated in float32 or wider; 0 for an empty tree."""
    leaves = [widen(x) for x in jax.tree.leaves(tree)]
    return jnp.sqrt(sum((_inner(x, x) for x in leaves), start=jnp.zeros((), float)))


def widen(x: Any) -> jax.Array:
    """Cast to float32 if the dtype is narrower, else leave it."""
    x = as_array(x)
    return x.astype(jnp.float32) if _finfo(x.dtype).bits < 32 else x


# Asking before converting: a conversion that changes nothing still takes time to trace.


def as_array(x: Any) -> jax.Array:
    """Convert to an array if need be."""
    return x if isinstance(x, jax.Array) else jnp.asarray(x)


def cast(x: jax.Array, dtype: Any) -> jax.Array:
    """Convert to a dtype if need be."""
    return x if x.dtype == dtype else x.astype(dtype)


def real_dtype(x: Any) -> Any:
    """The dtype of |x|."""
    return _finfo(as_array(x).dtype).dtype


_finfo = functools.cache(jnp.finfo)


def brief(tree: Any) -> str:
    """The leaves' dtypes and shapes, for messages."""

    def leaf(x: Any) -> str:
        return f"{x.dtype}{list(x.shape)}" if hasattr(x, "dtype") else repr(x)

    return str(jax.tree.map(leaf, tree))


def check_like(what: str, tree: Any, like: Any, of: str = "the parameters given to init") -> None:
    """Refuse a tree that has not the structure, the shapes and the dtypes of another.

    Raises:
      ValueError: naming ``what`` it is, and ``of`` what it should be a likeness.
    """
    structure, expected = jax.tree.structure(tree), jax.tree.structure(like)
    if structure != expected:
        raise ValueError(
            f"the {what}' tree is not the tree of {of}: got {structure}, expected {expected}"
        )
    for x, a in zip(jax.tree.leaves(tree), jax.tree.leaves(like), strict=True):
        if jnp.shape(x) != a.shape or jnp.result_type(x) != a.dtype:
            raise ValueError(
                f"the {what} have a leaf {jnp.result_type(x)}{jnp.shape(x)} where "
                f"{of} had {a.dtype}{a.shape}"
            )


def check_state(state: Any, like: Any) -> None:
    """Refuse a transformation's state that can't be one of its own.

    Raises:
      ValueError: with the trees, or the shapes and dtypes, where they differ.
    """
    got, expected = jax.tree.structure(state), jax.tree.structure(like)
    if got == expected:
        got, expected = brief(jax.tree.leaves(state)), brief(jax.tree.leaves(like))
    if got != expected:
        raise ValueError(
            f"state is not one of this transformation and these parameters: got {got}, expected "
            f"{expected}"
        )


def find(tree: Any, kind: type) -> list[Any]:
    """Every instance of a class in a tree, in order."""
    nodes = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, kind))
    return [node for node in nodes if isinstance(node, kind)]


def leafwise(rule: Rule, grads: Any, *accumulators: Any, **hyperparams: Any) -> tuple[Any, ...]:
    """Apply a rule for one array to every leaf of a tree.

    Args:
      rule: ``rule(g, *accumulators, **hyperparams) -> (direction, *new_accumulators)``, written
        for arrays, with no thought of dtypes.
      grads: the gradients' tree.
      *accumulators: trees with the structure and the shapes of ``grads``.
      **hyperparams: Python numbers, handed on as they are, or scalar arrays (perhaps traced),
        handed on in the real dtype of the leaf, so that none of them widens the arithmetic.

    Returns:
      The tree of directions, in the dtypes of ``grads``, and the new accumulators, in the dtypes
      that they had.

    Raises:
      ValueError: if a tree or a shape is not the one that ``init`` saw, or a gradient is complex
        where the accumulator is real.
    """
    leaves, structure = jax.tree.flatten(grads)
    columns = [leaves]
    for accumulator in accumulators:
        if jax.tree.structure(accumulator) != structure:
            raise ValueError(
                "the gradients' tree is not the tree of the parameters given to init: got "
                f"{structure}, expected {jax.tree.structure(accumulator)}"
            )
        columns.append(jax.tree.leaves(accumulator))
    static = {name: x for name, x in hyperparams.items() if not isinstance(x, jax.Array)}
    traced = {name: x for name, x in hyperparams.items() if isinstance(x, jax.Array)}
    rows = [_apply(rule, row, static, traced) for row in zip(*columns, strict=True)]
    outputs = zip(*rows, strict=True) if rows else [()] * len(columns)
    return tuple(jax.tree.unflatten(structure, column) for column in outputs)


def _apply(
    rule: Rule, row: tuple[Any, ...], static: dict[str, Any], traced: dict[str, jax.Array]
) -> list[jax.Array]:
    g, *accumulators = row = tuple(as_array(x) for x in row)
    for x in accumulators:
        if x.shape != g.shape:
            raise ValueError(
                f"a gradient has shape {g.shape} where the parameters given to init had "
                f"shape {x.shape}"
            )
    if traced:
        dtype = real_dtype(g)
        traced = {name: cast(x, dtype) for name, x in traced.items()}
    if g.dtype.kind == "c":  # times a real number: the only promotion that a rule asks for
        with jax.numpy_dtype_promotion("standard"):
            outputs = rule(*row, **static, **traced)
    else:
        outputs = rule(*row, **static, **traced)
    for out, x in zip(outputs, row, strict=True):
        if out.dtype.kind == "c" != x.dtype.kind:
            raise ValueError(
                f"a gradient is {g.dtype} where the parameters given to init were {x.dtype}"
            )
    return [cast(out, x.dtype) for out, x in zip(outputs, row, strict=True)]
