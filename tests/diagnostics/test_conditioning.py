"""Problem A: the eigenvalues of the Hessian against dense ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cs231n_optax
from cs231n_optax.problems import datasets, networks

pytestmark = pytest.mark.usefixtures("x64")

KEY = jax.random.key(0)


def quadratic(eigenvalues, seed=0):
    """½ xᵀ A x of a random symmetric A with given eigenvalues, by NumPy."""
    n = len(eigenvalues)
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))
    a = jnp.asarray((q * eigenvalues) @ q.T)
    return lambda x: x @ a @ x / 2


@pytest.mark.parametrize(("n", "num_products"), [(1, 1), (2, 2), (10, 10), (100, 100), (500, 250)])
def test_extreme_eigenvalues(n, num_products):
    """Relative error <= 1e-5; for n = 500 with κ = 100 after 250 products."""
    eigenvalues = np.geomspace(0.1, 10.0, n) if n > 1 else np.array([3.0])
    run = jax.jit(
        lambda x: cs231n_optax.extreme_eigenvalues(
            quadratic(eigenvalues), x, key=KEY, num_products=num_products
        )
    )
    found = run(jnp.zeros(n))
    np.testing.assert_allclose(found.smallest, eigenvalues[0], rtol=1e-5)
    np.testing.assert_allclose(found.largest, eigenvalues[-1], rtol=1e-5)
    np.testing.assert_allclose(found.condition_number, eigenvalues[-1] / eigenvalues[0], rtol=1e-5)


def test_random_symmetric_matrix_of_500():
    """Wigner's semicircle: both ends at 100 products or fewer than n."""
    a = np.random.default_rng(1).normal(size=(500, 500))
    a = (a + a.T) / 2
    dense = np.linalg.eigvalsh(a)
    found = cs231n_optax.extreme_eigenvalues(
        lambda x: x @ a @ x / 2, jnp.zeros(500), key=KEY, num_products=120
    )
    np.testing.assert_allclose(found.smallest, dense[0], rtol=1e-5)
    np.testing.assert_allclose(found.largest, dense[-1], rtol=1e-5)
    assert found.condition_number == np.inf


def test_directions_are_eigenvectors_and_errors_their_residuals():
    loss = quadratic(np.linspace(1.0, 50.0, 60))
    found = cs231n_optax.extreme_eigenvalues(loss, jnp.zeros(60), key=KEY, num_products=20)
    hessian = cs231n_optax.hessian_matrix(loss, jnp.zeros(60))
    for value, error, v in (
        (found.smallest, found.smallest_error, found.smallest_direction),
        (found.largest, found.largest_error, found.largest_direction),
    ):
        np.testing.assert_allclose(jnp.linalg.norm(v), 1, rtol=1e-12)
        np.testing.assert_allclose(jnp.linalg.norm(hessian @ v - value * v), error, rtol=1e-6)
        assert np.min(np.abs(np.linspace(1.0, 50.0, 60) - value)) <= error


def test_repeated_eigenvalues():
    """An invariant subspace after two products does not end the iteration."""
    eigenvalues = np.array([2.0, 2.0, 2.0, 7.0, 7.0])
    found = cs231n_optax.spectral_density(
        quadratic(eigenvalues), jnp.zeros(5), key=KEY, num_probes=3, num_products=5
    )
    np.testing.assert_allclose(found.nodes, np.tile(eigenvalues, (3, 1)), rtol=1e-9)
    np.testing.assert_allclose(found.weights.sum(1), 1, rtol=1e-9)


@pytest.mark.parametrize("block_size", [1, 7, 32, 100])
def test_blocks_of_data_give_the_same(block_size):
    """Linear regression: the Hessian is XᵀX / n."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(32, 6)), rng.normal(size=32)

    def loss(w, batch):
        return jnp.mean((batch[0] @ w["w"] - batch[1]) ** 2) / 2

    found = cs231n_optax.extreme_eigenvalues(
        loss, {"w": jnp.zeros(6)}, (x, y), key=KEY, block_size=block_size
    )
    dense = np.linalg.eigvalsh(x.T @ x / 32)
    np.testing.assert_allclose([found.smallest, found.largest], dense[[0, -1]], rtol=1e-9)


@pytest.fixture(scope="module")
def digits_problem():
    """A perceptron of 1,100 parameters on 500 digits, after a short training."""
    data = datasets.digits()
    batch = (data.x_train[:500].astype(np.float64), data.y_train[:500])
    net = networks.mlp((8, 8, 1), 10, hidden=(12,))

    def loss(params, batch):
        return networks.cross_entropy(net.apply(params, batch[0]), batch[1])

    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: x.astype(jnp.float64), net.init(KEY))
        params = cs231n_optax.fit(loss, params, cs231n_optax.adam(1e-2), batch, steps=30).params
        dense = np.linalg.eigvalsh(
            jax.jit(lambda p: cs231n_optax.hessian_matrix(lambda p: loss(p, batch), p))(params)
        )
    return loss, params, batch, dense


def test_digits_network(digits_problem):
    loss, params, batch, dense = digits_problem
    found = jax.jit(
        lambda params: cs231n_optax.extreme_eigenvalues(
            loss, params, batch, key=KEY, num_products=80, block_size=128
        )
    )(params)
    np.testing.assert_allclose(found.largest, dense[-1], rtol=1e-5)
    np.testing.assert_allclose(found.smallest, dense[0], rtol=1e-5)


def test_density_of_the_digits_network(digits_problem):
    """Moments of the density against those of all eigenvalues; most of them are near zero."""
    loss, params, batch, dense = digits_problem
    found = jax.jit(
        lambda params: cs231n_optax.spectral_density(
            loss, params, batch, key=KEY, num_probes=20, num_products=30
        )
    )(params)
    for moment in (1, 2):
        estimates = np.sum(found.weights * found.nodes**moment, axis=1)
        error = estimates.std(ddof=1) / np.sqrt(len(estimates))
        assert abs(estimates.mean() - np.mean(dense**moment)) < 4 * error
    small = np.mean(np.sum(np.where(np.abs(found.nodes) < 0.1, found.weights, 0), axis=1))
    assert abs(small - np.mean(np.abs(dense) < 0.1)) < 0.05


def test_smooth_density_integrates_to_one():
    found = cs231n_optax.spectral_density(
        quadratic(np.linspace(-1, 1, 20)), jnp.zeros(20), key=KEY, num_products=10
    )
    at = np.linspace(-3, 3, 2001)
    curve = cs231n_optax.smooth_density(found, at, 0.1)
    np.testing.assert_allclose(np.trapezoid(curve, at), 1, rtol=1e-6)


def test_float32_and_narrow_parameters():
    """Products in float32 at least, also for bfloat16 parameters."""
    with jax.enable_x64(False):
        for dtype in (jnp.float32, jnp.bfloat16):
            found = cs231n_optax.extreme_eigenvalues(
                lambda x: jnp.sum(jnp.array([1.0, 4.0, 64.0], x.dtype) * x**2) / 2,
                jnp.ones(3, dtype),
                key=KEY,
            )
            assert found.largest.dtype == jnp.float32
            np.testing.assert_allclose(found.largest, 64, rtol=1e-2)
            np.testing.assert_allclose(found.condition_number, 64, rtol=1e-2)


def test_complex_parameters():
    """|z|² · 3 has the curvature 6 along the real and the imaginary part."""
    found = cs231n_optax.extreme_eigenvalues(
        lambda z: 3 * jnp.sum(jnp.abs(z) ** 2), jnp.ones(2, complex), key=KEY
    )
    np.testing.assert_allclose([found.smallest, found.largest], 6, rtol=1e-9)


def test_not_finite():
    found = cs231n_optax.extreme_eigenvalues(lambda x: jnp.sum(jnp.sqrt(x)), -jnp.ones(3), key=KEY)
    assert np.isnan(found.largest)


def test_under_vmap():
    """A batch of quadratics, each with its own condition number."""
    kappas = jnp.array([1.0, 10.0, 1000.0])

    def condition_number(kappa):
        def loss(x):
            return (x[0] ** 2 + kappa * x[1] ** 2) / 2

        return cs231n_optax.extreme_eigenvalues(loss, jnp.zeros(2), key=KEY).condition_number

    np.testing.assert_allclose(jax.vmap(condition_number)(kappas), kappas, rtol=1e-9)


def test_bad_arguments():
    loss = quadratic(np.ones(2))
    with pytest.raises(ValueError, match="num_products"):
        cs231n_optax.extreme_eigenvalues(loss, jnp.zeros(2), key=KEY, num_products=0)
    with pytest.raises(ValueError, match="block_size"):
        cs231n_optax.extreme_eigenvalues(loss, jnp.zeros(2), key=KEY, block_size=3)
    with pytest.raises(TypeError, match="data"):
        cs231n_optax.extreme_eigenvalues(loss, jnp.zeros(2), iter([jnp.ones(3)]), key=KEY)
    with pytest.raises(TypeError, match="key"):
        cs231n_optax.extreme_eigenvalues(loss, jnp.zeros(2), key=0)
    with pytest.raises(ValueError, match="width"):
        cs231n_optax.smooth_density(
            cs231n_optax.spectral_density(loss, jnp.zeros(2), key=KEY), [0.0], 0.0
        )


@pytest.mark.parametrize("axis_type", ["Auto", "Explicit"])
@pytest.mark.parametrize("block_size", [None, 8])
def test_data_on_several_devices(axis_type, block_size):
    """Examples sharded over two devices, all at once and in blocks."""
    mesh = jax.make_mesh((2,), ("d",), (getattr(jax.sharding.AxisType, axis_type),))
    x = np.random.default_rng(2).normal(size=(32, 6))
    sharded = jax.device_put(x, jax.NamedSharding(mesh, jax.P("d")))
    params = jax.device_put(jnp.zeros(6), jax.NamedSharding(mesh, jax.P()))

    def loss(w, batch):
        return jnp.mean((batch @ w) ** 2) / 2

    with jax.set_mesh(mesh):
        found = jax.jit(
            lambda w, x: cs231n_optax.extreme_eigenvalues(
                loss, w, x, key=KEY, block_size=block_size
            )
        )(params, sharded)
    dense = np.linalg.eigvalsh(x.T @ x / 32)
    np.testing.assert_allclose([found.smallest, found.largest], dense[[0, -1]], rtol=1e-9)
