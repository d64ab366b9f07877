"""Regressions: scikit-learn's minima, and what a landscape promises."""

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import cs231n_optax
from cs231n_optax.problems import regressions
from cs231n_optax.problems.datasets import digits

REGRESSIONS = {
    "logistic": (regressions.logistic_regression, lambda y: y % 2),
    "softmax": (regressions.softmax_regression, lambda y: y),
}
over_all = pytest.mark.parametrize(("make", "classes"), REGRESSIONS.values(), ids=list(REGRESSIONS))


@over_all
@pytest.mark.parametrize("l2", [1e-3, 0.1])
def test_the_minimum_is_scikit_learns(make, classes, l2):
    problem, data = make(l2), digits()
    x = data.x_train.reshape(len(data.x_train), -1)
    x = np.hstack([x, np.ones((len(x), 1))]).astype(np.float64)  # the bias is penalised, too
    reference = LogisticRegression(
        C=1 / (len(x) * l2), fit_intercept=False, tol=1e-8, max_iter=10_000
    ).fit(x, classes(data.y_train))
    with jax.enable_x64(True):
        fun = jax.jit(problem.fun)
        result = cs231n_optax.minimize(problem.fun, problem.x0, cs231n_optax.lbfgs(), tol=1e-8)
        theirs = fun(reference.coef_.T.ravel())
    assert result.status == cs231n_optax.Status.CONVERGED
    np.testing.assert_allclose(result.value, theirs, rtol=1e-10)
    np.testing.assert_allclose(result.params, reference.coef_.T.ravel(), atol=1e-3)


@over_all
def test_it_is_a_landscape_without_a_known_minimum(make, classes):
    del classes
    problem = make()
    assert problem.minimizers.shape == (0, len(problem.x0))
    assert np.isnan(problem.minimum)
    for dtype in ("float32", "float64"):
        with jax.enable_x64(dtype == "float64"):
            point = problem.x0.astype(dtype)
            value, gradient = jax.jit(jax.value_and_grad(problem.fun))(point)
        assert value.dtype == gradient.dtype == dtype
        assert gradient.shape == point.shape


@over_all
def test_no_penalty_is_refused(make, classes):
    del classes
    for l2 in (0.0, -1.0, np.inf):
        with pytest.raises(ValueError, match="l2"):
            make(l2)
