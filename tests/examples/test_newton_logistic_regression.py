"""The coefficients of scikit-learn, by every method."""

import numpy as np
import optax
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import cs231n_optax as co


@pytest.fixture(scope="module")
def solved(example):
    return example.main(c=0.5)


def test_every_method_ends_at_the_coefficients_of_scikit_learn(solved):
    results, differences = solved
    assert {*differences} == {*results, "newton, a loop by hand"}
    for name, difference in differences.items():
        assert difference <= 1e-6, name
    for name, result in results.items():
        assert co.Status(int(result.status)) == co.Status.CONVERGED, name

    # Against another solver of scikit-learn's, which the example does not use.
    x, labels = load_breast_cancer(return_X_y=True)
    x = StandardScaler().fit_transform(x)
    model = LogisticRegression(C=0.5, solver="lbfgs", tol=1e-10, max_iter=10_000).fit(x, labels)
    newton = results["newton"].params
    np.testing.assert_allclose(newton["w"], model.coef_[0], atol=1e-6)
    np.testing.assert_allclose(newton["b"], model.intercept_[0], atol=1e-6)


def test_the_solution_is_stationary_in_float64(solved):
    """∂/∂w: w = C Σ yᵢ σ(-yᵢ zᵢ) xᵢ, and ∂/∂b: 0 = Σ yᵢ σ(-yᵢ zᵢ), in NumPy."""
    params = solved[0]["newton"].params
    assert params["w"].dtype == np.float64
    w, b = np.asarray(params["w"]), np.asarray(params["b"])
    x, labels = load_breast_cancer(return_X_y=True)
    x, y = StandardScaler().fit_transform(x), 2 * labels - 1
    pull = y / (1 + np.exp(y * (x @ w + b)))
    np.testing.assert_allclose(w, 0.5 * pull @ x, atol=1e-9)
    assert abs(pull.sum()) < 1e-9


def test_newton_makes_a_hessian_for_each_accepted_point_and_needs_the_fewest_evaluations(solved):
    results, _ = solved
    num_hessians = optax.tree.get(results["newton"].state, "num_hessians")
    assert num_hessians == results["newton"].num_steps + 1
    assert results["newton"].num_evals <= 15
    assert 3 * results["newton"].num_evals < results["lbfgs"].num_evals


def test_importing_and_running_it_leave_float32_on(solved, example):
    assert example.jnp.ones(()).dtype == np.float32
