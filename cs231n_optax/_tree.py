"""Arithmetic on pytrees."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from cs231n_optax import _checks

Rule = Callable[..., tuple[jax.Array, ...]]
Pair = tuple[Any, Any]

ONE_PASS = 50  # real numbers up to which `one_pass` sums as accurately, one after the other


def abs_squared(x: jax.Array) -> jax.Array:
    """|x|² elementwise: real, also for complex x."""
    return x.real**2 + x.imag**2 if jnp.iscomplexobj(x) else x * x


def bias_correction(b: Any, count: jax.typing.ArrayLike) -> jax.Array:
    """1 / (1 - bᵗ), for a decaying mean that started at zero t updates ago.

    Computed as -1 / expm1(t log b): for b near 1 the difference 1 - bᵗ cancels. At t = 1 and
    b = 0.999 it would have four correct digits in float32.
    """
    log_b = jnp.log(b) if isinstance(b, jax.Array) else math.log(b) if b > 0 else -math.inf
    return -1 / jnp.expm1(jnp.asarray(count, float) * jnp.asarray(log_b, float))


def zeros_like(tree: Any) -> Any:
    """Zeros with the leaves' shapes, dtypes and shardings, never weakly typed."""

    def leaf(x: Any) -> jax.Array:
        dtype = jnp.result_type(x)
        is_key = jnp.issubdtype(dtype, jax.dtypes.prng_key)  # of which zeros_like takes no dtype
        return jnp.zeros_like(x, dtype=None if is_key else dtype)

    return jax.tree.map(leaf, tree)


def zero_rows(tree: Any, m: int) -> Any:
    """Zeros for every leaf in m rows, (m, *shape), each row sharded as the leaf is."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (m, *x.shape)), zeros_like(tree))


def copy(tree: Any) -> Any:
    """Copy every leaf to a buffer of its own, never weakly typed."""
    return jax.tree.map(lambda x: jnp.array(x, dtype=jnp.result_type(x), copy=True), tree)


def real_zeros_like(tree: Any) -> Any:
    """Zeros for an accumulator of |g|²: real ones for complex leaves."""
    return jax.tree.map(lambda x: jnp.zeros_like(x, dtype=real_dtype(x)), tree)


def ascent_direction(grads: Any, params: Any) -> Any:
    """The direction of ascent, from what ``jax.grad(fun, allow_int=True)`` gives.

    Of a complex parameter it is the conjugate of JAX's gradient. An integer has none: zero, in its
    own dtype, for a transformation that freezes it.
    """

    def leaf(g: Any, p: jax.Array) -> jax.Array:
        return jnp.conj(g) if _checks.is_inexact(p) else jnp.zeros_like(p)

    return jax.tree.map(leaf, grads, params)


def fill(tree: Any, params: Any) -> Any:
    """The tree, with the leaves that a mask has taken out of it from ``params``."""
    return jax.tree.map(
        lambda x, p: p if _checks.is_left_out(x) else x, tree, params, is_leaf=_checks.is_left_out
    )


def rest(tree: Any, params: Any) -> Any:
    """The opposite of `fill`: the leaves of ``params`` that a mask has taken out of the tree."""
    return jax.tree.map(
        lambda x, p: p if _checks.is_left_out(x) else optax.MaskedNode(),
        tree,
        params,
        is_leaf=_checks.is_left_out,
    )


def inexact(tree: Any) -> Any:
    """The tree without its integers, as a mask would take them out."""
    return jax.tree.map(lambda x: x if _checks.is_inexact(x) else optax.MaskedNode(), tree)


def select(flag: jax.Array, new: Any, old: Any) -> Any:
    """``new`` where a bool scalar holds, else ``old``.

    A state whose class has ``handles_accept = True`` is taken from ``new`` in any case. Such a
    state may be too large to select, so its transformation takes ``accept=`` and does it itself.
    """

    def choose(x: Any, y: Any) -> Any:
        return x if _handles_accept(x) else jnp.where(flag, x, y)

    return jax.tree.map(choose, new, old, is_leaf=_handles_accept)


def _handles_accept(node: Any) -> bool:
    return getattr(node, "handles_accept", False)


def vdot(x: Any, y: Any) -> jax.Array:
    """Σ Re(x̄ y) over all leaves: the inner product of the trees as real vectors."""
    dtype = scalar_dtype(x)
    products = jax.tree.map(_inner, x, y)
    return sum((cast(p, dtype) for p in jax.tree.leaves(products)), start=jnp.zeros((), dtype))


def one_pass(*, vdots: tuple[Pair, ...], maxima: tuple[Any, ...] = ()) -> list[jax.Array]:
    """The `vdot` of each pair of trees, then the `max_abs` of each tree.

    All trees have the same structure and shapes, and no integers. XLA for CPU starts a kernel for
    each reduction. For small trees one kernel that computes them all takes less time.
    """
    some_tree = vdots[0][0]
    if num_reals(some_tree) > ONE_PASS:
        return [*(vdot(x, y) for x, y in vdots), *(max_abs(x) for x in maxima)]

    terms = [jax.tree.map(lambda x, y: (jnp.conj(x) * y).real, x, y) for x, y in vdots]
    terms += [jax.tree.map(jnp.abs, x) for x in maxima]
    combine, dtype = _sums_then_maxima(len(vdots)), scalar_dtype(some_tree)
    result = tuple(jnp.zeros((), dtype) for _ in terms)
    for leaves in zip(*map(jax.tree.leaves, terms), strict=True):
        zeros = tuple(jnp.zeros((), x.dtype) for x in leaves)
        reduced = jax.lax.reduce(leaves, zeros, combine, tuple(range(leaves[0].ndim)))
        result = combine(result, tuple(cast(x, dtype) for x in reduced))
    return list(result)


@functools.cache  # JAX keeps each reducer, so it closes over no array
def _sums_then_maxima(num_sums: int) -> Callable[..., tuple[jax.Array, ...]]:
    """Combine two results of `one_pass`: the first ``num_sums`` are sums, the others maxima."""

    def combine(old: tuple[jax.Array, ...], new: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        combiners = (jnp.add if i < num_sums else jnp.maximum for i in range(len(old)))
        return tuple(f(x, y) for f, x, y in zip(combiners, old, new, strict=True))

    return combine


def _inner(rows: jax.Array, x: jax.Array) -> jax.Array:
    """Σ Re(rows x̄) over the axes of x, which are the last axes of rows.

    The axes are summed without flattening them: flattening an array that is sharded along a later
    axis would gather it on every device.
    """
    x = jnp.conj(x)
    return jnp.tensordot(
        rows, x, axes=x.ndim, precision="highest", out_sharding=_everywhere(x)
    ).real


def _everywhere(x: jax.Array) -> NamedSharding | None:
    """Replicated, if the mesh has explicit axes; None leaves the sharding to XLA."""
    mesh = jax.typeof(x).sharding.mesh
    return NamedSharding(mesh, PartitionSpec()) if mesh.explicit_axes else None


def every(holds: Callable[..., jax.Array], *trees: Any) -> jax.Array:
    """Whether ``holds(*leaves)``, a bool scalar, is true for all leaves."""
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


def row(rows: jax.Array, i: jax.Array) -> jax.Array:
    """Row i of an array."""
    return jax.lax.dynamic_index_in_dim(rows, i, 0, keepdims=False)


def set_row(rows: jax.Array, i: jax.Array, x: jax.Array) -> jax.Array:
    """The array with another row i."""
    return jax.lax.dynamic_update_index_in_dim(rows, x, i, 0)


def write_row(rows: Any, i: jax.Array, x: Any, *, keep: jax.Array) -> Any:
    """Set row i of every leaf if it is to be kept. A select of whole buffers would copy them."""
    return jax.tree.map(lambda rows, x: set_row(rows, i, jnp.where(keep, x, row(rows, i))), rows, x)


def is_row(i: jax.Array, m: int) -> jax.Array:
    """(m,), True at i."""
    return jnp.arange(m, dtype=jnp.int32) == i


def num_reals(tree: Any) -> int:
    """The number of real numbers in the floating and complex leaves of a tree, also of shapes."""
    leaves = [x for x in jax.tree.leaves(tree) if _checks.is_inexact(x)]
    return sum(x.size * (2 if x.dtype.kind == "c" else 1) for x in leaves)


def ravel(tree: Any) -> jax.Array:
    """All numbers of a tree in one real vector; a complex leaf gives its real parts first."""
    dtype = scalar_dtype(tree)
    parts = [
        jnp.reshape(part, -1, out_sharding=_everywhere(part)).astype(dtype)
        for leaf in jax.tree.leaves(tree)
        for part in ([leaf.real, leaf.imag] if jnp.iscomplexobj(leaf) else [jnp.asarray(leaf)])
    ]
    return jnp.concatenate(parts) if parts else jnp.zeros(0, dtype)


def unravel(flat: jax.Array, like: Any) -> Any:
    """The inverse of `ravel`: the tree of ``like`` with the numbers of a vector."""
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
    """The largest |element| that is no integer; NaN if one is NaN, 0 for an empty tree."""
    largest = jnp.zeros((), scalar_dtype(tree))
    for leaf in jax.tree.leaves(inexact(tree)):
        if leaf.size:
            largest = jnp.maximum(largest, cast(jnp.max(jnp.abs(leaf)), largest.dtype))
    return largest


def scalar_dtype(tree: Any) -> Any:
    """The widest real dtype of the leaves that are no integers: that of a sum over all of them."""
    dtypes = [real_dtype(leaf) for leaf in jax.tree.leaves(inexact(tree))]
    return max(dtypes, key=lambda dtype: dtype.itemsize) if dtypes else jnp.result_type(float)


def narrowest(tree: Any) -> np.finfo:
    """The limits of the narrowest real dtype of the leaves, in which every leaf can hold them."""
    dtypes = [real_dtype(leaf) for leaf in jax.tree.leaves(tree)]
    return np.finfo(min(dtypes, key=lambda dtype: dtype.itemsize, default=scalar_dtype(tree)))


def norm(tree: Any) -> jax.Array:
    """The Euclidean norm of all but integers, in float32 or wider; 0 for an empty tree."""
    leaves = [widen(x) for x in jax.tree.leaves(inexact(tree))]
    return jnp.sqrt(sum((_inner(x, x) for x in leaves), start=jnp.zeros((), float)))


def widen(x: Any) -> jax.Array:
    """Cast to float32 if the dtype is narrower, else leave it."""
    x = as_array(x)
    return x.astype(jnp.float32) if _finfo(x.dtype).bits < 32 else x


# These ask before they convert: a conversion that changes nothing still takes time to trace.


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


def find(tree: Any, kind: type) -> list[Any]:
    """Every instance of a class in a tree, in order, with plain arrays."""
    nodes = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, kind))
    return [plain(node) for node in nodes if isinstance(node, kind)]


def plain(tree: Any) -> Any:
    """Unwrap the leaves that Flax NNX makes of a state's arrays."""
    return jax.tree.map(
        lambda x: x.__jax_array__() if _is_wrapped(x) else x, tree, is_leaf=_is_wrapped
    )


def _is_wrapped(x: Any) -> bool:
    return hasattr(x, "__jax_array__") and not isinstance(x, jax.Array)


def leafwise(rule: Rule, grads: Any, *accumulators: Any, **hyperparams: Any) -> tuple[Any, ...]:
    """Apply a rule for one array to every leaf of a tree.

    Args:
      rule: ``rule(g, *accumulators, **hyperparams) -> (direction, *new_accumulators)`` for one
        array.
      grads: tree of the gradients.
      *accumulators: trees with the structure and the shapes of ``grads``.
      **hyperparams: Python numbers, passed on unchanged, or scalar arrays (may be traced), cast
        to the real dtype of the leaf so that they do not widen the arithmetic.

    Returns:
      The tree of directions, in the dtypes of ``grads``, and the new accumulators, in the dtypes
      of the old ones.

    Raises:
      ValueError: if a structure or a shape differs from the one at ``init``, or a gradient is
        complex where the accumulator is real.
    """
    leaves, structure = jax.tree.flatten(grads)
    columns = [leaves]
    for accumulator in accumulators:
        _checks.same_structure("gradients", grads, accumulator, of="the parameters given to init")
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
    for accumulator in accumulators:
        _checks.gradient_shape(g, accumulator)
    if traced:
        dtype = real_dtype(g)
        traced = {name: cast(x, dtype) for name, x in traced.items()}
    if g.dtype.kind == "c":  # complex times real is the only promotion that a rule needs
        with jax.numpy_dtype_promotion("standard"):
            outputs = rule(*row, **static, **traced)
    else:
        outputs = rule(*row, **static, **traced)
    for out, x in zip(outputs, row, strict=True):
        _checks.gradient_not_complex(g, out, x)
    return [cast(out, x.dtype) for out, x in zip(outputs, row, strict=True)]
