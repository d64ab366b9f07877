"""Problem B: stationary points of known kind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cs231n_optax
from cs231n_optax import PointKind

pytestmark = pytest.mark.usefixtures("x64")

KEY = jax.random.key(0)


def classify(loss, x, **options):
    return jax.jit(lambda x: cs231n_optax.classify_point(loss, x, key=KEY, **options))(x)


@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        (lambda x: x[0] ** 2 + 3 * x[1] ** 2, PointKind.MINIMUM),
        (lambda x: x[0] ** 2 - 3 * x[1] ** 2, PointKind.SADDLE),
        (lambda x: -(x[0] ** 2) - 3 * x[1] ** 2, PointKind.MAXIMUM),
        (lambda x: -(x[0] ** 2) + x[1] ** 4, PointKind.SADDLE),
        (lambda x: x[0] ** 2 + x[1] ** 4, PointKind.FLAT),
        (lambda x: x[0] ** 3 - 3 * x[0] * x[1] ** 2, PointKind.FLAT),  # the monkey saddle
        (lambda x: 0 * jnp.sum(x), PointKind.FLAT),
        (lambda x: x[0] + x[1] ** 2, PointKind.NOT_STATIONARY),
        (lambda x: jnp.sum(jnp.sqrt(x)), PointKind.NOT_FINITE),
        (lambda x: jnp.nan * jnp.sum(x**2), PointKind.NOT_FINITE),
    ],
)
def test_kinds(loss, kind):
    point = classify(loss, jnp.zeros(2))
    assert PointKind(int(point.kind)) is kind


@pytest.mark.parametrize("index", [0, 1, 5, 19, 20])
def test_random_fields_of_known_index(index):
    """½ xᵀ A x + a cubic, with A = Q D Qᵀ of ``index`` negative eigenvalues: at 0 all is known."""
    rng = np.random.default_rng(index)
    q, _ = np.linalg.qr(rng.normal(size=(20, 20)))
    d = rng.uniform(0.5, 3.0, 20) * np.where(np.arange(20) < index, -1, 1)
    a, c = jnp.asarray((q * d) @ q.T), jnp.asarray(rng.normal(size=20))
    point = classify(lambda x: x @ a @ x / 2 + jnp.sum(c * x**3), jnp.zeros(20))
    expected = {0: PointKind.MINIMUM, 20: PointKind.MAXIMUM}.get(index, PointKind.SADDLE)
    assert PointKind(int(point.kind)) is expected
    np.testing.assert_allclose(point.smallest, d.min(), rtol=1e-9)
    if index:
        # The direction is that eigenvector, and the step along it lowers the value.
        v = q[:, np.argmin(d)]
        np.testing.assert_allclose(abs(v @ point.direction), 1, rtol=1e-9)
        moved = point.escape
        assert np.linalg.norm(moved) > 0
        lower = moved @ a @ moved / 2 + jnp.sum(c * moved**3)
        assert lower < point.value
        np.testing.assert_allclose(lower, point.escape_value, rtol=1e-12)
    else:
        assert not point.escape.any()
        assert point.escape_value == point.value


def test_escape_goes_downhill_to_first_order_and_method_goes_on():
    """From 1e-6 beside the saddle of x² - y² + y⁴: to the nearer minimum, value -1/4."""

    def loss(x):
        return x[0] ** 2 - x[1] ** 2 + x[1] ** 4

    start = jnp.array([0.0, -1e-6])
    point = classify(loss, start)
    assert point.kind == PointKind.SADDLE
    assert point.escape[1] < 0
    result = cs231n_optax.minimize(loss, start + point.escape, cs231n_optax.lbfgs())
    np.testing.assert_allclose(result.value, -0.25, rtol=1e-9)


def test_unresolved_with_too_few_products():
    eigenvalues = jnp.geomspace(1e-2, 1.0, 200)
    point = classify(lambda x: jnp.sum(eigenvalues * x**2), jnp.zeros(200), num_products=5)
    assert PointKind(int(point.kind)) is PointKind.UNRESOLVED
    point = classify(lambda x: jnp.sum(eigenvalues * x**2), jnp.zeros(200), num_products=150)
    assert PointKind(int(point.kind)) is PointKind.MINIMUM


def test_over_data_in_blocks():
    """The mean of ± terms: each example alone has another kind than all together."""
    data = jnp.array([1.0, -4.0, 1.0, 1.0, -2.0])
    point = cs231n_optax.classify_point(
        lambda x, batch: jnp.mean(batch) * jnp.sum(x["a"] ** 2) + jnp.sum(x["b"] ** 2),
        {"a": jnp.zeros(2), "b": jnp.zeros(())},
        data,
        key=KEY,
        block_size=2,
    )
    assert point.kind == PointKind.SADDLE
    np.testing.assert_allclose(point.smallest, 2 * data.mean(), rtol=1e-9)


def test_bad_arguments():
    with pytest.raises(ValueError, match="grad_tol"):
        cs231n_optax.classify_point(jnp.sum, jnp.zeros(2), key=KEY, grad_tol=-1.0)
    with pytest.raises(ValueError, match="curvature_tol"):
        cs231n_optax.classify_point(jnp.sum, jnp.zeros(2), key=KEY, curvature_tol=-1.0)
