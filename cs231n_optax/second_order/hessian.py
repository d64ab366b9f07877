"""The Hessian of a function of a tree (lecture 7-1-9): as a matrix, or one product at a time.

Both differentiate the gradient forward: H v = d/dε ∇f(x + ε v) at ε = 0, at the cost of about two
gradients. The matrix takes N such products.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cs231n_optax import _checks, _tree
from cs231n_optax._precision import widen_all

MAX_UNROLLED = 8  # batches of rows that a GPU computes without a loop, see `_batching`


def hessian_matrix(fun: Callable[[Any], Any], params: Any, *, batch_size: int = 256) -> jax.Array:
    """The Hessian of a scalar function of a tree, as one symmetric matrix.

        H[i, j] = ∂²f / ∂xᵢ ∂xⱼ

    x holds all numbers of the tree, leaf by leaf in the order of ``jax.tree.leaves``, each leaf in
    the order of its ``ravel()``. A complex leaf gives all real parts, then all imaginary parts.

    Args:
      fun: ``fun(params) -> scalar``, real and twice differentiable.
      params: tree of floating or complex arrays, of N real numbers together.
      batch_size: number of rows computed at a time, >= 1; each takes about the memory of a gradient
        of ``fun``. With at most this many parameters the result is that of `jax.hessian`.

    Returns:
      (N, N), (H + Hᵀ) / 2, in the widest dtype of the parameters, float32 at least.

    Raises:
      TypeError: if ``batch_size`` is not a Python integer, a parameter is not floating or complex,
        or ``fun`` does not return a real scalar.
      ValueError: if ``batch_size`` < 1, or the matrix would take more than 4 GiB.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp
      >>> params = {"a": jnp.array(3.0), "b": jnp.array([1.0, 2.0])}
      >>> def fun(p): return p["a"] ** 2 * p["b"][0] + jnp.sum(p["b"] ** 2)
      >>> print(cs231n_optax.hessian_matrix(fun, params))
      [[2. 6. 0.]
       [6. 2. 0.]
       [0. 0. 2.]]

    Source:
      Lecture 7-1-9. Forward over reverse: A. Griewank and A. Walther, "Evaluating Derivatives",
      2nd ed., 2008, chapter 5.

    Differs from:
      `jax.hessian`, which returns a tree of trees of blocks, computes all N rows at once, and
      refuses complex parameters.
    """
    batch_size = _checks.static_int("batch_size", batch_size, at_least=1)
    fun = _checks.objective("fun", fun)
    x = _wide_ravel(params)
    check_fits("hessian_matrix", params, "hvp")

    def flat_fun(x: jax.Array) -> Any:
        return fun(_tree.unravel(x, params))

    if x.size <= batch_size:
        hessian = jax.hessian(flat_fun)(x)
    else:
        _, product = jax.linearize(jax.grad(flat_fun), x)

        def row(i: jax.Array) -> jax.Array:
            return product(jax.nn.one_hot(i, x.size, dtype=x.dtype))

        hessian = _map_rows(row, x.size, batch_size)
    return (hessian + hessian.T) / 2


def _map_rows(row: Callable[[jax.Array], jax.Array], size: int, batch_size: int) -> jax.Array:
    """The rows of a matrix, a batch at a time."""
    indices = np.arange(size, dtype=np.int32)
    if size > MAX_UNROLLED * batch_size:
        return jax.lax.map(row, jnp.asarray(indices), batch_size=batch_size)

    def unrolled() -> jax.Array:
        batches = np.split(indices, range(batch_size, size, batch_size))
        return jnp.concatenate([rows(jnp.asarray(batch)) for batch in batches])

    rows = jax.jit(jax.vmap(row))  # traced once a size
    return jax.lax.platform_dependent(
        cpu=lambda: jax.lax.map(row, jnp.asarray(indices), batch_size=batch_size),
        default=unrolled,
    )


def hvp(fun: Callable[[Any], Any], params: Any, v: Any) -> Any:
    """The Hessian of a scalar function of a tree times a vector, without forming the Hessian.

        H v = d/dε ∇f(x + ε v) at ε = 0

    Args:
      fun: ``fun(params) -> scalar``, real and twice differentiable.
      params: tree of floating or complex arrays.
      v: tree of the parameters' shapes and dtypes.

    Returns:
      H v, the tree of the parameters, at about twice the time and the memory of a gradient. For
      complex parameters the gradient is the direction of ascent, ∂f/∂Re x + i ∂f/∂Im x.

    Raises:
      TypeError: if ``fun`` does not return a real scalar, a parameter is not floating or complex,
        or the tree or a dtype of ``v`` is not that of the parameters.
      ValueError: if a shape of ``v`` is not that of the parameters.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp
      >>> def fun(x): return x[0] ** 2 * x[1]
      >>> print(cs231n_optax.hvp(fun, jnp.array([1.0, 3.0]), jnp.array([1.0, 0.0])))
      [6. 2.]

    Source:
      B. A. Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 6, 1994.
    """
    fun = _checks.objective("fun", fun)
    _checks.floating_tree("parameter", params, "close over other arrays in fun")
    params, v = _checks.arrays("params", params), _checks.arrays("v", v)
    _checks.tangent("v", v, params)
    return jax.jvp(ascent_direction(fun), (params,), (v,))[1]


def ascent_direction(fun: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """∇f; of complex parameters the direction of ascent, as ``update`` takes it."""
    return lambda params: jax.tree.map(jnp.conj, jax.grad(fun)(params))


def find_hessian(method: str, params: Any, hessian: Any, value_fn: Any) -> jax.Array:
    """The Hessian from the keywords of an ``update``, symmetric (N, N).

    Args:
      method: a name for error messages.
      params: the point.
      hessian: (N, N), or the tree of trees that `jax.hessian` gives, or None.
      value_fn: the objective, or None.
    """
    if hessian is None:
        _checks.objective_given(method, value_fn, or_hessian=True)
        return hessian_matrix(_checks.objective("value_fn", value_fn), params)
    x = jax.eval_shape(_wide_ravel, params)
    is_matrix = getattr(hessian, "shape", None) == (x.size, x.size)
    matrix = hessian if is_matrix else _join_blocks(hessian, params, x.size)
    matrix = _checks.arrays("hessian", matrix)
    if jnp.iscomplexobj(matrix):
        raise ValueError(f"hessian must be real, got {matrix.dtype}")
    matrix = _tree.cast(matrix, x.dtype)
    return (matrix + matrix.T) / 2


def check_fits(method: str, params: Any, instead: str) -> None:
    """Refuse a dense matrix of more than 4 GiB."""
    x = jax.eval_shape(_wide_ravel, params)
    what = f"{method} of {x.size} parameters takes a {x.size} x {x.size} matrix"
    _checks.fits_in_memory(what, x.size**2 * x.dtype.itemsize, f"use {instead}")


def _wide_ravel(tree: Any) -> jax.Array:
    return _tree.ravel(widen_all("parameter", tree))


def _join_blocks(hessian: Any, params: Any, size: int) -> jax.Array:
    """The matrix from the blocks, a tree of trees, that `jax.hessian` gives."""
    structure, leaves = jax.tree.structure(params), jax.tree.leaves(params)

    def block(of: Any, row: Any, column: Any) -> jax.Array:
        shape = getattr(of, "shape", None)
        if shape != jnp.shape(row) + jnp.shape(column):
            raise ValueError(f"a block has the shape {shape}")
        return jnp.reshape(of, (jnp.size(row), jnp.size(column)))

    try:
        if any(jnp.iscomplexobj(leaf) for leaf in leaves):
            raise ValueError("some parameters are complex")
        rows = [structure.flatten_up_to(row) for row in structure.flatten_up_to(hessian)]
        return jnp.block(
            [
                [block(of, a, b) for of, b in zip(row, leaves, strict=True)]
                for row, a in zip(rows, leaves, strict=True)
            ]
        )
    except ValueError as error:
        raise ValueError(
            f"hessian is neither a ({size}, {size}) matrix nor the tree of trees of blocks that "
            f"jax.hessian gives: {error}"
        ) from None
