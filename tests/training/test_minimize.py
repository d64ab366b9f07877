"""`minimize`: what it returns, when it ends, in batches, through derivatives, and its errors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from jax.flatten_util import ravel_pytree

import cs231n_optax as co
from cs231n_optax import Status

TRANSFORMATIONS = {
    "lbfgs": co.lbfgs(),
    "bfgs": co.bfgs(),
    "descent": co.with_line_search(optax.identity()),
    "sgd": co.sgd(0.05),
    "momentum": co.momentum(0.01),
    "nesterov": co.nesterov(0.01),
    "adagrad": co.adagrad(0.5),
    "rmsprop": co.rmsprop(0.01),
    "adam": co.adam(0.1),
    "optax.adam": optax.adam(0.1),
    "optax.lbfgs": optax.lbfgs(),  # needs value, grad and value_fn
}
SEARCHES = ("lbfgs", "bfgs", "descent")  # which may reject points
BFGS, DESCENT, SGD, ADAM = (TRANSFORMATIONS[name] for name in ("bfgs", "descent", "sgd", "adam"))

CURVATURES = np.array([1.0, 4.0, 9.0], np.float32)
X0 = np.array([2.0, -1.0, 0.5], np.float32)
STARTS = np.stack([X0, 3 * X0, np.ones(3), -X0]).astype(np.float32)


def bowl(x, center=1.0):
    """Convex by at least 1 everywhere, and so ‖x - x*‖ <= ‖∇f(x)‖."""
    d = x - center
    return jnp.sum(CURVATURES * d**2) / 2 + jnp.sum(d**4)


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def status_of(result):
    return Status(int(result.status))


def largest(tree):
    return max((float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(tree) if x.size), default=0)


def lane(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


def assert_same_bits(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(x, y)


def assert_close(one, other, **tolerance):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


class Counted:
    """The bowl, with the times that it was traced and evaluated."""

    def __init__(self):
        self.traces = self.evals = 0

    def __call__(self, x, center=1.0):
        self.traces += 1
        jax.debug.callback(self.hear)
        return bowl(x, center)

    def hear(self):
        self.evals += 1

    def since(self):
        jax.effects_barrier()
        evals, self.evals = self.evals, 0
        return evals


@functools.cache
def solver(name):
    """A solve of the bowl, compiled once, and the account of its evaluations."""
    counted = Counted()

    @jax.jit
    def jitted(x0, center, tol, atol, max_evals):
        return co.minimize(
            counted,
            x0,
            TRANSFORMATIONS[name],
            args=(center,),
            tol=tol,
            atol=atol,
            max_evals=max_evals,
        )

    def solve(x0, center=1.0, tol=1e-5, atol=0.0, max_evals=1000):
        numbers = (np.float32(center), np.float32(tol), np.float32(atol), np.int32(max_evals))
        return jitted(x0, *numbers)

    return solve, counted


@pytest.mark.parametrize("name", TRANSFORMATIONS)
class TestEveryTransformation:
    def test_ends_where_the_gradient_is_small(self, name):
        solve, _ = solver(name)
        result = solve(X0)
        value, grad = jax.value_and_grad(bowl)(result.params)
        limit = 1e-5 * max(1, largest(jax.grad(bowl)(X0)))
        assert status_of(result) == Status.CONVERGED
        np.testing.assert_allclose(result.grad, grad, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(result.value, value, rtol=1e-5, atol=1e-12)
        assert largest(grad) <= limit * (1 + 1e-5)
        assert np.linalg.norm(result.params - 1) <= np.linalg.norm(grad) + 1e-6

    def test_ends_as_soon_as_the_gradient_is_small(self, name):
        solve, _ = solver(name)
        end = solve(X0)
        limit = 1e-5 * max(1, largest(jax.grad(bowl)(X0)))
        before = solve(X0, max_evals=end.num_evals - 1)
        assert status_of(before) == Status.BUDGET
        assert largest(before.grad) > limit
        assert before.num_evals == end.num_evals - 1
        assert_same_bits(solve(X0, max_evals=end.num_evals), end)

    def test_tolerances_are_relative_and_absolute(self, name):
        solve, _ = solver(name)
        first = largest(jax.grad(bowl)(X0))
        for tol, atol, limit in ((0.0, 0.3, 0.3), (0.01, 0.0, 0.01 * first), (0.01, 0.2, None)):
            limit = 0.01 * first + 0.2 if limit is None else limit
            result = solve(X0, tol=tol, atol=atol)
            assert status_of(result) == Status.CONVERGED
            assert largest(result.grad) <= limit
            before = solve(X0, tol=tol, atol=atol, max_evals=result.num_evals - 1)
            assert largest(before.grad) > limit
        near = np.full(3, 1.01, np.float32)  # where the gradient is smaller than one
        assert solve(near, tol=0.1).num_evals == 1
        assert solve(near, tol=0.08).num_evals > 1

    def test_counts_what_it_does(self, name):
        solve, counted = solver(name)
        counted.since()
        for max_evals in (1, 2, 7, 1000):
            result = solve(X0, max_evals=max_evals)
            jax.block_until_ready(result)
            executed = counted.since()
            if name == "optax.lbfgs":  # whose own line search evaluates more, through value_fn
                assert executed >= result.num_evals
            else:
                assert executed == result.num_evals
            if name in SEARCHES:
                assert result.num_steps < result.num_evals
            else:
                assert result.num_steps == result.num_evals - 1

    def test_the_budget_is_kept(self, name):
        solve, _ = solver(name)
        for max_evals in (1, 2, 5):
            result = solve(X0, max_evals=max_evals)
            assert status_of(result) == Status.BUDGET
            assert result.num_evals == max_evals
        one = solve(X0, max_evals=1)
        assert_same_bits(one.params, X0)
        np.testing.assert_allclose(one.value, bowl(X0), rtol=1e-6)
        np.testing.assert_allclose(one.grad, jax.grad(bowl)(X0), rtol=1e-6)
        assert one.num_steps == 0

    def test_at_the_minimum_one_evaluation_is_enough(self, name):
        result = solver(name)[0](np.ones(3, np.float32), tol=0.0)
        assert status_of(result) == Status.CONVERGED
        assert (result.num_evals, result.num_steps) == (1, 0)
        assert_same_bits(result.params, np.ones(3, np.float32))

    def test_fails_at_nan(self, name):
        start = np.array([1.0, np.nan, 2.0], np.float32)
        result = solver(name)[0](start)
        assert status_of(result) == Status.FAILED
        assert (result.num_evals, result.num_steps) == (1, 0)
        assert_same_bits(result.params, start)

    def test_is_traced_once(self, name):
        """Whatever the start, the arguments, the tolerances and the budget are."""
        solve, counted = solver(name)
        solve(X0)
        traces = counted.traces
        solve(3 * X0), solve(X0, tol=1e-2), solve(X0, center=-1.0), solve(X0, max_evals=4)
        assert counted.traces == traces


@functools.cache
def logistic():
    """A regularised logistic regression in float64: the function and SciPy's minimum."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((60, 4))
    y = np.where(x @ [1.0, -2.0, 0.5, 0.0] + rng.standard_normal(60) > 0, 1.0, -1.0)

    def loss(w):
        margins = y * (x @ w["w"] + w["b"])
        return jnp.mean(jnp.logaddexp(0, -margins)) + 0.01 * jnp.sum(w["w"] ** 2)

    def numpy_loss(v):
        return np.mean(np.logaddexp(0, -y * (x @ v[:4] + v[4]))) + 0.01 * np.sum(v[:4] ** 2)

    best = scipy.optimize.minimize(numpy_loss, np.zeros(5), method="BFGS", options={"gtol": 1e-7})
    return loss, best


class TestAgainstScipy:
    @pytest.mark.parametrize("name", ["lbfgs", "bfgs", "optax.lbfgs"])
    def test_rosenbrock(self, name):
        start = np.array([-1.2, 1.0, -0.5, 0.8, 1.2])
        best = scipy.optimize.minimize(
            scipy.optimize.rosen, start, jac=scipy.optimize.rosen_der, options={"gtol": 1e-8}
        )
        with jax.enable_x64(True):
            result = jax.jit(
                lambda x: co.minimize(rosenbrock, x, TRANSFORMATIONS[name], tol=1e-10)
            )(jnp.array(start))
            assert result.params.dtype == result.value.dtype == jnp.float64
        assert status_of(result) == Status.CONVERGED
        np.testing.assert_allclose(result.params, best.x, rtol=1e-6)
        np.testing.assert_allclose(result.value, best.fun, atol=1e-12)

    @pytest.mark.parametrize("name", ["lbfgs", "descent", "nesterov"])
    def test_logistic_regression(self, name):
        loss, best = logistic()
        tx = co.nesterov(0.5) if name == "nesterov" else TRANSFORMATIONS[name]
        with jax.enable_x64(True):
            start = {"w": jnp.zeros(4), "b": jnp.zeros(())}
            result = jax.jit(lambda x: co.minimize(loss, x, tx, tol=1e-8))(start)
        assert status_of(result) == Status.CONVERGED
        np.testing.assert_allclose(result.value, best.fun, rtol=1e-10)
        np.testing.assert_allclose(result.params["w"], best.x[:4], atol=1e-5)
        np.testing.assert_allclose(result.params["b"], best.x[4], atol=1e-5)


class TestStatus:
    def test_too_large_a_rate_fails_with_the_last_finite_point(self):
        """x ← x - 4 x³ leaves the range of float32 within a few steps."""
        seen = [np.float32(3)]
        with np.errstate(over="ignore"):
            while np.isfinite(seen[-1] ** 4):
                seen.append(seen[-1] - np.float32(4) * seen[-1] ** 3)
        result = co.minimize(lambda x: x**4, np.float32(3), co.sgd(1.0))
        assert status_of(result) == Status.FAILED
        assert result.num_evals == len(seen)
        assert result.num_steps == len(seen) - 2
        np.testing.assert_allclose(result.params, seen[-2], rtol=1e-5)
        np.testing.assert_allclose(result.value, seen[-2] ** 4, rtol=1e-5)
        np.testing.assert_allclose(result.grad, 4 * seen[-2] ** 3, rtol=1e-5)

    @pytest.mark.xfail(strict=True, reason="the record's value is 0 before the first finite one")
    @pytest.mark.parametrize("name", ["sgd", "descent"])
    def test_what_it_returns_after_a_failure_at_the_start(self, name):
        result = co.minimize(lambda x: x * jnp.nan, jnp.ones(()), TRANSFORMATIONS[name])
        assert status_of(result) == Status.FAILED
        assert np.isnan(result.value)

    @pytest.mark.parametrize("name", ["lbfgs", "bfgs"])
    def test_no_tolerance_at_all_stalls_where_rounding_ends_it(self, name):
        """The gradient of ‖A x - b‖² in float32 is rounded away before it is zero."""
        a = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32)
        b = np.random.default_rng(1).standard_normal(20).astype(np.float32)
        result = co.minimize(
            lambda x: jnp.sum((a @ x - b) ** 2), np.zeros(6), TRANSFORMATIONS[name], tol=0.0
        )
        assert status_of(result) == Status.STALLED
        best = np.linalg.lstsq(a.astype(float), b.astype(float))[0]
        np.testing.assert_allclose(result.params, best, atol=1e-5)

    def test_no_tolerance_and_no_search_spends_the_budget(self):
        result = solver("momentum")[0](X0, center=0.3, tol=0.0, max_evals=999)
        assert status_of(result) == Status.BUDGET
        assert result.num_evals == 999

    def test_a_python_budget_above_int32(self):
        assert status_of(co.minimize(bowl, X0, SGD, max_evals=2**40)) == Status.CONVERGED


class TestAux:
    def test_belongs_to_the_accepted_point(self):
        """After each number of evaluations, some of which end on a rejected trial."""

        def fun(x):
            return rosenbrock(x), {"x": x, "signs": (x > 0, None, [jnp.int32(7)])}

        @jax.jit
        @jax.vmap
        def solve(max_evals):
            return co.minimize(fun, jnp.array([-1.2, 1.0]), DESCENT, max_evals=max_evals, has_aux=True)

        result = solve(jnp.arange(1, 30))
        assert np.any(np.diff(result.num_steps) == 0)
        assert np.any(np.diff(result.num_steps) == 1)
        assert_same_bits(result.aux["x"], result.params)
        assert_same_bits(result.aux["signs"], (result.params > 0, None, [np.full(29, 7)]))
        assert result.aux["signs"][2][0].dtype == jnp.int32
        np.testing.assert_allclose(result.value, jax.vmap(rosenbrock)(result.params), rtol=1e-5)
        rejected = np.diff(result.num_steps) == 0
        assert_same_bits(result.params[1:][rejected], result.params[:-1][rejected])
        assert np.all(np.diff(result.value) <= 0)

    def test_without_it_there_is_none(self):
        assert co.minimize(bowl, X0, SGD).aux is None


class TestTrees:
    @pytest.mark.parametrize("name", ["lbfgs", "adam", "optax.lbfgs"])
    def test_nested_trees(self, name):
        target = {"a": (jnp.array([1.0, -2.0]), None), "b": {"c": jnp.array(3.0)}, "d": ()}

        def fun(x):
            terms = jax.tree.map(lambda x, t: jnp.sum((x - t) ** 2 + (x - t) ** 4), x, target)
            return sum(jax.tree.leaves(terms))

        start = {"a": (jnp.zeros(2), None), "b": {"c": 1.0}, "d": ()}
        result = jax.jit(lambda x: co.minimize(fun, x, TRANSFORMATIONS[name]))(start)
        assert status_of(result) == Status.CONVERGED
        assert_close(result.params, target, atol=1e-3)
        assert jax.tree.structure(result.grad) == jax.tree.structure(target)

    @pytest.mark.parametrize("name", ["lbfgs", "adam"])
    def test_a_number(self, name):
        result = co.minimize(lambda x: (x - 1.5) ** 2, 3.0, TRANSFORMATIONS[name])
        assert result.params.shape == ()
        np.testing.assert_allclose(result.params, 1.5, atol=1e-4)

    @pytest.mark.parametrize("name", ["lbfgs", "bfgs", "adam"])
    def test_nothing(self, name):
        result = co.minimize(lambda x: jnp.float32(3), {}, TRANSFORMATIONS[name])
        assert status_of(result) == Status.CONVERGED
        assert (result.params, result.value, result.num_evals) == ({}, 3, 1)

    @pytest.mark.parametrize("name", ["lbfgs", "bfgs", "sgd", "adam"])
    def test_complex_numbers(self, name):
        target = {"z": jnp.array([1 + 2j, -1j]), "x": jnp.array(2.0)}

        def fun(p):
            weights = jnp.array([1.0, 3.0])
            return jnp.sum(weights * jnp.abs(p["z"] - target["z"]) ** 2) + (p["x"] - 2) ** 2

        start = jax.tree.map(jnp.zeros_like, target)
        result = jax.jit(lambda x: co.minimize(fun, x, TRANSFORMATIONS[name], tol=1e-4))(start)
        assert status_of(result) == Status.CONVERGED
        assert_close(result.params, target, atol=1e-3)
        assert result.params["z"].dtype == jnp.complex64
        # Of |z - t|² the direction of ascent is 2 (z - t).
        away = 2 * jnp.array([1.0, 3.0]) * (result.params["z"] - target["z"])
        np.testing.assert_allclose(result.grad["z"], away, atol=1e-6)

    @pytest.mark.parametrize("name", ["lbfgs", "descent", "adam"])
    def test_dtypes_under_x64(self, name):
        with jax.enable_x64(True):
            for dtype, tol in ((jnp.float32, 1e-5), (jnp.float64, 1e-8)):
                solve = jax.jit(lambda x, tol: co.minimize(bowl, x, TRANSFORMATIONS[name], tol=tol))
                result = solve(jnp.zeros(3, dtype), tol)
                assert status_of(result) == Status.CONVERGED
                assert result.params.dtype == result.grad.dtype == result.value.dtype == dtype
                np.testing.assert_allclose(result.params, 1, atol=20 * tol)

    @pytest.mark.parametrize("name", ["bfgs", "adam"])
    def test_strict_promotion(self, name):
        with jax.numpy_dtype_promotion("strict"):
            solve = jax.jit(lambda x, c: co.minimize(bowl, x, TRANSFORMATIONS[name], args=(c,)))
            assert status_of(solve(X0, jnp.ones(3))) == Status.CONVERGED
