"""The simulator is linear and its misfit a quadratic: the minimum is known exactly."""

import jax
import numpy as np
import optax
import pytest

linear_model = pytest.importorskip("sklearn.linear_model", reason="needs '.[gallery]'")
optimize = pytest.importorskip("scipy.optimize", reason="needs '.[gallery]'")


@pytest.fixture(scope="module")
def results(example):
    return example.main(rtol=1e-7)


def test_adjoint_is_the_transpose(example):
    rng = np.random.default_rng(1)
    c = rng.standard_normal(len(example.CELLS))
    readings = rng.standard_normal((example.STEPS, len(example.GAUGES)))
    there, back = example.simulate(c), example.adjoint(readings)
    np.testing.assert_allclose(np.sum(there * readings), c @ back, rtol=1e-10)


def test_gradient_is_that_of_finite_differences(example, results):
    def fun(c):
        return example.misfit(results["readings"], c)

    c = np.random.default_rng(2).uniform(size=len(example.CELLS))
    expected = optimize.approx_fprime(c, lambda c: fun(c)[0], 1e-6)
    np.testing.assert_allclose(fun(c)[1], expected, rtol=1e-4, atol=1e-2)


def test_water_carries_the_pollutant_downstream(example):
    """At u = 1.8 km/h the peak passes each gauge when the flow has brought it there."""
    readings = example.simulate(np.exp(-8 * (example.CELLS - 2.0) ** 2))
    hours = (1 + readings.argmax(axis=0)) * 5 / example.STEPS
    np.testing.assert_allclose(hours, (example.CELLS[example.GAUGES] - 2) / 1.8, atol=0.1)


def test_minimum_is_that_of_linear_least_squares(example, results):
    """And of SciPy's L-BFGS-B, which sees the same values and gradients."""
    n = len(example.CELLS)
    columns = np.stack([example.simulate(e).ravel() for e in np.eye(n)], axis=1)
    matrix = np.vstack(
        [columns / example.NOISE, np.sqrt(example.PENALTY) * np.diff(np.eye(n), axis=0)]
    )
    right = np.concatenate([results["readings"].ravel() / example.NOISE, np.zeros(n - 1)])
    exact = np.linalg.lstsq(matrix, right, rcond=None)[0]
    value = 0.5 * np.sum((matrix @ exact - right) ** 2)
    assert results["value"] == pytest.approx(value, rel=1e-8)
    assert results["value"] == pytest.approx(results["scipys"].fun, rel=1e-8)
    assert np.linalg.norm(results["solution"] - exact) <= 1e-3 * np.linalg.norm(exact)


def test_optax_must_trace_the_objective(example):
    """Which is what the example says of it."""
    tx = optax.lbfgs()
    c = jax.numpy.zeros(len(example.CELLS))
    readings = np.zeros((example.STEPS, len(example.GAUGES)))

    def value_fn(c):
        return example.misfit(readings, c)[0]

    with pytest.raises(TypeError, match="Tracer"):
        tx.update(c + 1, tx.init(c), c, value=1.0, grad=c + 1, value_fn=value_fn)


def test_torch_network_reaches_scikit_learns_solution(example):
    """Multinomial logistic regression: convex, and solved elsewhere."""
    torch = pytest.importorskip("torch", reason="needs pip install torch")
    from sklearn.datasets import load_iris

    x, labels = load_iris(return_X_y=True)
    inputs, targets = torch.from_numpy(x), torch.from_numpy(labels)
    net = torch.nn.Linear(4, 3).double()

    def loss(net):
        likelihood = torch.nn.functional.cross_entropy(net(inputs), targets, reduction="sum")
        return likelihood + 0.5 * (net.weight**2).sum()

    with jax.enable_x64(True):
        fun, x0 = example.torch_objective(net, loss)
        solution, _ = example.minimize(fun, x0, tol=1e-7)
    fun(solution)
    expected = linear_model.LogisticRegression(C=1.0, tol=1e-10, max_iter=10000).fit(x, labels)
    np.testing.assert_allclose(net.weight.detach().numpy(), expected.coef_, atol=1e-5)
    with torch.no_grad():
        probabilities = torch.softmax(net(inputs), dim=1).numpy()
    np.testing.assert_allclose(probabilities, expected.predict_proba(x), atol=1e-5)
