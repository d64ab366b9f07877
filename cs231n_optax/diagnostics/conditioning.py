"""Problem A (lecture 7-1-2): how different the curvatures of a loss are in different directions.

The eigenvalues of the Hessian by the Lanczos iteration, which needs only products H v. From a unit
vector q₁ it builds an orthonormal basis q₁ … q_k in which H is tridiagonal:

    H q_i = β_{i-1} q_{i-1} + α_i q_i + β_i q_{i+1}

The eigenvalues θ of that k × k matrix (the Ritz values) approximate those of H, the extreme ones
first. The squared first components of its eigenvectors are the weights of a Gauss quadrature with
the nodes θ for the density of the eigenvalues, as q₁ sees it.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cs231n_optax import _checks, _tree
from cs231n_optax._precision import widen_all
from cs231n_optax.diagnostics.full_batch import over_blocks
from cs231n_optax.second_order.hessian import hvp

Product = Callable[[jax.Array], jax.Array]


class ExtremeEigenvalues(NamedTuple):
    """What `extreme_eigenvalues` returns.

    Attributes:
      smallest, largest: scalars, the extreme eigenvalues of the Hessian.
      smallest_error, largest_error: scalars, ‖H v - λ v‖₂: some eigenvalue of H is at most this
        far away. With fewer products than parameters it may be another than the extreme one.
      condition_number: scalar, largest / smallest; infinite if ``smallest`` <= 0.
      smallest_direction, largest_direction: unit eigenvectors, trees like the parameters.
    """

    smallest: jax.Array
    largest: jax.Array
    smallest_error: jax.Array
    largest_error: jax.Array
    condition_number: jax.Array
    smallest_direction: Any
    largest_direction: Any


class SpectralDensity(NamedTuple):
    """What `spectral_density` returns: a discrete estimate of the density of the eigenvalues.

    Attributes:
      nodes: (num_probes, k), eigenvalues λ.
      weights: (num_probes, k), the fraction of the eigenvalues at each; each row sums to 1.
    """

    nodes: jax.Array
    weights: jax.Array


class Tridiagonal(NamedTuple):
    """The Lanczos basis and the matrix in it.

    Attributes:
      basis: (k, n), orthonormal rows q_i.
      diagonal: (k,), α_i.
      off_diagonal: (k,), β_i; the last one leads out of the basis.
    """

    basis: jax.Array
    diagonal: jax.Array
    off_diagonal: jax.Array


def extreme_eigenvalues(
    loss: Callable[..., Any],
    params: Any,
    data: Any = None,
    *,
    key: jax.Array,
    num_products: int = 100,
    block_size: int | None = None,
) -> ExtremeEigenvalues:
    """The extreme eigenvalues and the condition number of the Hessian, without forming it.

        κ = λ_max / λ_min

    The Lanczos iteration with full reorthogonalisation, from a random start. It takes
    min(``num_products``, n) Hessian-vector products for n parameters, and is exact after n. The
    largest eigenvalue converges in tens of products, the smallest in the more of them the larger κ
    is: for 500 eigenvalues in a geometric sequence with κ = 100, 250 products give 1e-6. The
    ``*_error`` fields tell how far it came.

    Pure: `jax.jit` and `jax.vmap` apply. Memory: ``num_products`` times the parameters.

    Args:
      loss: ``loss(params, batch)``, the mean over a batch; without data ``loss(params)``.
      params: tree of floating or complex arrays.
      data: tree of arrays with one leading axis of examples, which may be sharded; or None.
      key: `jax.random.key` of the start.
      num_products: the most Hessian-vector products, >= 1.
      block_size: examples per evaluation of the loss; None: all at once.

    Returns:
      `ExtremeEigenvalues`. NaN if a product is not finite.

    Raises:
      ValueError: if ``num_products`` or ``block_size`` is out of its range, or the data's arrays
        have no common leading axis.
      TypeError: if an argument is not of its type, or ``loss`` does not return a real scalar.

    Example:
      >>> import cs231n_optax, jax, jax.numpy as jnp
      >>> def loss(x): return jnp.sum(jnp.array([1.0, 4.0, 100.0]) * x**2) / 2
      >>> found = cs231n_optax.extreme_eigenvalues(loss, jnp.ones(3), key=jax.random.key(0))
      >>> print(f"{found.smallest:.3f} {found.largest:.3f} {found.condition_number:.2f}")
      1.000 100.000 100.00

    Source:
      Lecture 7-1-2 A. C. Lanczos, Journal of Research of the NBS 45, 1950; B. N. Parlett, "The
      Symmetric Eigenvalue Problem", 1998, chapter 13.
    """
    product, n, dtype = _hessian_product(loss, params, data, block_size)
    num_products = _checks.static_int("num_products", num_products, at_least=1)
    found = lanczos(product, _checks.key("key", key), n, dtype, min(num_products, n))
    values, vectors = _ritz_pairs(found)
    errors = jnp.abs(found.off_diagonal[-1] * vectors[-1])

    def direction(i: int) -> Any:
        return _tree.unravel(_tree.matvec(found.basis.T, vectors[:, i]), params)

    smallest, largest = values[0], values[-1]
    return ExtremeEigenvalues(
        smallest=smallest,
        largest=largest,
        smallest_error=errors[0],
        largest_error=errors[-1],
        condition_number=jnp.where(smallest <= 0, jnp.inf, largest / smallest),
        smallest_direction=direction(0),
        largest_direction=direction(-1),
    )


def spectral_density(
    loss: Callable[..., Any],
    params: Any,
    data: Any = None,
    *,
    key: jax.Array,
    num_probes: int = 8,
    num_products: int = 80,
    block_size: int | None = None,
) -> SpectralDensity:
    """The density of the Hessian's eigenvalues by stochastic Lanczos quadrature.

        density(λ) ≈ mean over probes of Σᵢ wᵢ δ(λ - θᵢ)

    Each probe is a random Gaussian direction, from which a Lanczos iteration of ``num_products``
    steps gives nodes θ and weights w. The weights estimate which fraction of the eigenvalues lies
    near each node, with an error of about √(2 / (n · num_probes)) for n parameters. Smooth it with
    `smooth_density` for a picture.

    Pure: `jax.jit` applies. The probes run one after the other.

    Args:
      loss: as in `extreme_eigenvalues`.
      params: as there.
      data: as there.
      key: `jax.random.key` of the probes.
      num_probes: >= 1.
      num_products: the most Hessian-vector products per probe, >= 1.
      block_size: examples per evaluation of the loss; None: all at once.

    Returns:
      `SpectralDensity`.

    Raises:
      ValueError, TypeError: as `extreme_eigenvalues`.

    Example:
      >>> import cs231n_optax, jax, jax.numpy as jnp
      >>> def loss(x): return jnp.sum(jnp.where(jnp.arange(100) < 25, 5.0, 1.0) * x**2) / 2
      >>> found = cs231n_optax.spectral_density(loss, jnp.ones(100), key=jax.random.key(0),
      ...                                       num_probes=16, num_products=2)
      >>> print(found.nodes[0].round(2), abs(found.weights.mean(0)[1] - 0.25) < 0.1)
      [1. 5.] True

    Source:
      B. Ghorbani, S. Krishnan and Y. Xiao, "An investigation into neural net optimization via
      Hessian eigenvalue density", ICML 2019, algorithm 1.
    """
    product, n, dtype = _hessian_product(loss, params, data, block_size)
    num_products = _checks.static_int("num_products", num_products, at_least=1)
    num_probes = _checks.static_int("num_probes", num_probes, at_least=1)

    def probe(key: jax.Array) -> SpectralDensity:
        values, vectors = _ritz_pairs(lanczos(product, key, n, dtype, min(num_products, n)))
        return SpectralDensity(nodes=values, weights=vectors[0] ** 2)

    return jax.lax.map(probe, jax.random.split(_checks.key("key", key), num_probes))


def smooth_density(density: SpectralDensity, at: Any, width: jax.typing.ArrayLike) -> jax.Array:
    """A spectral density as a smooth function: each node becomes a normal distribution.

        Σᵢ wᵢ exp(-(λ - θᵢ)² / (2 width²)) / (width √(2π)),   averaged over the probes

    Args:
      density: of `spectral_density`.
      at: values of λ, an array.
      width: standard deviation of each, > 0, in units of λ. A hundredth of the range of the
        eigenvalues shows the shape.

    Returns:
      The density at each λ, in the shape of ``at``. It integrates to 1.

    Raises:
      ValueError: if ``width`` <= 0.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp
      >>> density = cs231n_optax.SpectralDensity(jnp.array([[0.0]]), jnp.array([[1.0]]))
      >>> at = jnp.array([0.0, 1.0])
      >>> print([f"{x:.3f}" for x in cs231n_optax.smooth_density(density, at, 1.0)])
      ['0.399', '0.242']
    """
    _checks.instance("density", density, SpectralDensity, "the result of spectral_density")
    width = jnp.asarray(_checks.positive("width", width), density.nodes.dtype)
    at = _checks.real_array("at", at).astype(density.nodes.dtype)
    z = (at[..., None] - density.nodes.ravel()) / width
    bells = jnp.exp(-(z**2) / 2) / (width * math.sqrt(2 * math.pi))
    return jnp.sum(bells * density.weights.ravel(), axis=-1) / len(density.weights)


def lanczos(product: Product, key: jax.Array, n: int, dtype: Any, num_products: int) -> Tridiagonal:
    """Lanczos with full reorthogonalisation, in ``num_products`` <= n steps from a random start.

    Where the basis spans an invariant subspace, β is 0 and the iteration goes on from another
    random direction, orthogonal to the basis. So it finds repeated eigenvalues, too.
    """
    info = np.finfo(dtype)

    def random_direction(i: Any) -> jax.Array:
        return jax.random.normal(jax.random.fold_in(key, i + 1), (n,), dtype)

    def orthogonal(w: jax.Array, basis: jax.Array) -> jax.Array:
        # Twice is enough (Parlett, section 6.9): the second pass removes the rounding of the first.
        for _ in range(2):
            w = w - _tree.matvec(basis.T, _tree.matvec(basis, w))
        return w

    def step(carry: Any, i: jax.Array) -> tuple[Any, tuple[jax.Array, jax.Array]]:
        basis, q, scale = carry
        basis = basis.at[i].set(q)
        w = product(q)
        alpha = jnp.vdot(q, w, precision="highest")
        w = orthogonal(w, basis)
        beta = jnp.linalg.norm(w)

        # In an invariant subspace nothing but rounding is left of w.
        scale = jnp.maximum(scale, jnp.abs(alpha) + beta)
        ended = beta <= rounding * scale
        w = jax.lax.cond(ended, lambda: orthogonal(random_direction(i), basis), lambda: w)
        q = w / jnp.maximum(jnp.linalg.norm(w), info.tiny)
        return (basis, q, scale), (alpha, jnp.where(ended, 0, beta))

    rounding = float(10 * info.eps * np.sqrt(n))
    q = random_direction(-1)
    empty = jnp.zeros((num_products, n), dtype)
    carry = (empty, q / jnp.linalg.norm(q), jnp.zeros((), dtype))
    (basis, _, _), (alphas, betas) = jax.lax.scan(step, carry, jnp.arange(num_products))
    return Tridiagonal(basis, alphas, betas)


def _ritz_pairs(found: Tridiagonal) -> tuple[jax.Array, jax.Array]:
    """Eigenvalues (k,), ascending, and eigenvectors as columns (k, k), of the small matrix."""
    off = jnp.diag(found.off_diagonal[:-1], 1)
    return jnp.linalg.eigh(jnp.diag(found.diagonal) + off + off.T)


def _hessian_product(
    loss: Callable[..., Any], params: Any, data: Any, block_size: int | None
) -> tuple[Product, int, Any]:
    """The function v -> H v of flat vectors; their length and dtype."""
    apply = over_blocks(loss, data, block_size)
    params = _checks.arrays("params", params)
    x = _tree.ravel(widen_all("parameter", params))

    def product(v: jax.Array) -> jax.Array:
        return apply(lambda objective: hvp(lambda x: objective(_tree.unravel(x, params)), x, v))

    return product, x.size, x.dtype
