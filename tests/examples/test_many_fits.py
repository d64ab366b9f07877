"""The fits agree with SciPy's, and the gradients by hand with JAX's."""

import jax
import numpy as np
import pytest

from cs231n_optax import Status

pytest.importorskip("sklearn", reason="needs pip install -e '.[gallery]'")
pytest.importorskip("scipy.optimize", reason="needs pip install -e '.[gallery]'")

pytestmark = pytest.mark.usefixtures("x64")


@pytest.fixture(scope="module")
def solved(example):
    return example.main(num_fits=40, num_starts=6, num_rows=30)


def test_gradients_by_hand(example):
    rng = np.random.default_rng(0)
    data = tuple(part[0] for part in example.survival_data(1))
    rows = example.regression_data(30)
    for fun, by_hand, size, args in (
        (example.weibull, example.weibull_by_hand, 4, data),
        (example.gaussian_process, example.gaussian_process_by_hand, 12, rows),
    ):
        theta = rng.normal(size=size) / 2
        value, gradient = jax.value_and_grad(fun)(theta, *args)
        expected = by_hand(theta, *args)
        np.testing.assert_allclose(value, expected[0], rtol=1e-9)
        np.testing.assert_allclose(gradient, expected[1], rtol=1e-7, atol=1e-10)


def test_regressions_are_scipys(solved):
    fits, thetas, _, _ = solved
    np.testing.assert_array_equal(fits.status, np.full(40, Status.CONVERGED))
    np.testing.assert_allclose(fits.params, thetas, atol=1e-3)


def test_the_best_start_is_scipys(solved):
    _, _, gp, points = solved
    assert Status.CONVERGED in gp.status
    assert gp.value.min() == pytest.approx(min(point.fun for point in points), abs=1e-4)
