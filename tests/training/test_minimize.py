"""`minimize`: results, statuses, batches, states, derivatives and errors."""

import functools
import itertools
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from jax.experimental import io_callback
from jax.flatten_util import ravel_pytree
from jax.sharding import PartitionSpec as P
from trials import assert_close, assert_same_bits, member

import cs231n_optax as co
from cs231n_optax import Status

TRANSFORMATIONS = {
    "lbfgs": co.lbfgs(),
    "bfgs": co.bfgs(),
    "newton": co.newton(),
    "newton_cg": co.newton_cg(),
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
# Methods that evaluate ``value_fn``, too: Optax's line search and second derivatives.
EVALUATE_MORE = ("optax.lbfgs", "newton", "newton_cg")
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


def equations(jaxpr):
    """Every equation of a jaxpr, of the jaxprs inside it, too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


class Counted:
    """The bowl, with the number of its traces and evaluations."""

    def __init__(self):
        self.traces = self.evals = 0

    def __call__(self, x, center=1.0):
        self.traces += 1
        jax.debug.callback(self.count)
        return bowl(x, center)

    def count(self):
        self.evals += 1

    def since(self):
        """The evaluations since the last call."""
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
            if name in EVALUATE_MORE:
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
    @pytest.mark.parametrize("name", ["lbfgs", "bfgs", "newton", "newton_cg"])
    def test_rosenbrock(self, name):
        start = np.array([-1.2, 1.0, -0.5, 0.8, 1.2])
        start = start[:3] if "newton" in name else start  # from 4 on there is a second minimum
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

    @pytest.mark.parametrize("name", ["lbfgs", "newton", "newton_cg", "descent", "nesterov"])
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
        """The step x ← x - 4 x³ leaves the range of float32 within a few steps."""
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

    @pytest.mark.parametrize("start", [[0.0, 0.0], [1.0, 0.0]])
    def test_at_a_saddle(self, start):
        """Of x² - y² + y⁴/4: on the line y = 0 no gradient leads away from it."""

        @functools.partial(jax.jit, static_argnums=1)
        def solve(x0, leave_saddles):
            tx = co.newton(leave_saddles=leave_saddles)
            return co.minimize(lambda x: x[0] ** 2 - x[1] ** 2 + x[1] ** 4 / 4, x0, tx)

        stays, leaves = (solve(np.float32(start), leave) for leave in (False, True))
        assert status_of(stays) in (Status.SADDLE, Status.CONVERGED)
        if start == [0, 0]:
            assert (status_of(stays), stays.num_evals) == (Status.SADDLE, 1)
        if status_of(stays) == Status.SADDLE:
            np.testing.assert_array_equal(stays.params[1], 0)
        assert status_of(leaves) == Status.CONVERGED
        np.testing.assert_allclose(np.abs(leaves.params), [0, np.sqrt(2)], atol=1e-3)
        np.testing.assert_allclose(leaves.value, -1, rtol=1e-5)

    def test_newton_also_asks_for_a_small_predicted_decrease(self):
        """Of x⁴/4 from 10⁴ a gradient of 10⁷ is small, against the first, at x = 215 already.

        There Newton's step promises g²/2h = x⁴/6, which is to be 10⁻⁴ (1 + x⁴/4) at most.
        """
        with jax.enable_x64(True):
            solve = jax.jit(
                lambda max_evals: co.minimize(
                    lambda x: x**4 / 4, 1e4, TRANSFORMATIONS["newton"], max_evals=max_evals
                )
            )
            result = solve(1000)
            before = solve(result.num_evals - 1)
        assert (status_of(result), status_of(before)) == (Status.CONVERGED, Status.BUDGET)
        for end, level in ((result, True), (before, False)):
            x = float(end.params)
            assert abs(x) ** 3 <= 1e-5 * 1e12
            assert (x**4 / 6 <= 1e-4 * (1 + x**4 / 4)) == level

    def test_gradient_alone_ends_a_method_without_a_prediction(self):
        """The gradient of x⁴/4 alone ends it: with the rate 10⁻⁹ the first step is one of 10³."""
        with jax.enable_x64(True):
            result = co.minimize(lambda x: x**4 / 4, 1e4, co.sgd(1e-9), tol=0.5)
        assert status_of(result) == Status.CONVERGED
        x, steps = 1e4, 0
        while x**3 > 0.5e12:
            x, steps = x - 1e-9 * x**3, steps + 1
        np.testing.assert_allclose(result.params, x, rtol=1e-12)
        assert result.num_steps == steps

    def test_python_budget_above_int32(self):
        assert status_of(co.minimize(bowl, X0, SGD, max_evals=2**40)) == Status.CONVERGED


class TestAux:
    def test_belongs_to_the_accepted_point(self):
        """After each number of evaluations, some of which end on a rejected trial."""

        def fun(x):
            return rosenbrock(x), {"x": x, "signs": (x > 0, None, [jnp.int32(7)])}

        @jax.jit
        @jax.vmap
        def solve(max_evals):
            return co.minimize(
                fun, jnp.array([-1.2, 1.0]), DESCENT, max_evals=max_evals, has_aux=True
            )

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

    def test_random_keys(self):
        """In what the function returns beside its value, and in the state."""
        noisy = optax.chain(optax.add_noise(0.0, 0.5, key=jax.random.key(3)), SGD)
        result = co.minimize(lambda x: (bowl(x), jax.random.key(4)), X0, noisy, has_aux=True)
        assert status_of(result) == Status.CONVERGED
        np.testing.assert_array_equal(jax.random.key_data(result.aux), [0, 4])
        assert optax.tree.get(result.state, "rng_key").dtype == jax.random.key(3).dtype

    def test_host_callbacks_of_the_function(self):
        seen = []

        def fun(x):
            value = bowl(x)
            io_callback(lambda v: seen.append(float(v)), None, jax.lax.stop_gradient(value))
            return value

        result = jax.vmap(lambda x: co.minimize(fun, x, SGD))(jnp.stack([X0, X0]))
        jax.effects_barrier()
        np.testing.assert_array_equal(sorted(seen)[:2], result.value)


class TestTrees:
    @pytest.mark.parametrize("name", ["lbfgs", "adam"])
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
    def test_number(self, name):
        result = co.minimize(lambda x: (x - 1.5) ** 2, 3.0, TRANSFORMATIONS[name])
        assert result.params.shape == ()
        np.testing.assert_allclose(result.params, 1.5, atol=1e-4)

    @pytest.mark.parametrize("name", ["lbfgs", "bfgs", "adam"])
    def test_empty_tree(self, name):
        result = co.minimize(lambda x: jnp.float32(3), {}, TRANSFORMATIONS[name])
        assert status_of(result) == Status.CONVERGED
        assert (result.params, result.value, result.num_evals) == ({}, 3, 1)

    @pytest.mark.parametrize("name", ["lbfgs", "sgd", "adam"])
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

    @pytest.mark.parametrize("name", ["bfgs", "descent", "adam"])
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

    def test_strict_promotion_with_a_callback_and_a_budget_that_is_a_float(self):
        with jax.numpy_dtype_promotion("strict"):
            solve = functools.partial(co.minimize, bowl, X0, SGD, callback=lambda p: None)
            for max_evals in (2.5, 3e0):
                assert solve(max_evals=max_evals).num_evals == 3


@functools.cache
def batch_solver(name):
    tx = TRANSFORMATIONS[name]

    def solve(x0, tol, max_evals):
        return co.minimize(bowl, x0, tx, tol=tol, max_evals=max_evals)

    return jax.jit(jax.vmap(solve, (0, None, None)))


class TestBatches:
    @pytest.mark.parametrize("name", ["lbfgs", "descent", "adam"])
    def test_lanes_agree_with_single_runs(self, name):
        batch = batch_solver(name)(STARTS, 1e-5, 1000)
        for i, x0 in enumerate(STARTS):
            single = solver(name)[0](x0)
            assert batch.status[i] == single.status
            np.testing.assert_allclose(batch.value[i], single.value, atol=1e-6)
            np.testing.assert_allclose(batch.params[i], single.params, atol=1e-3)
            assert abs(int(batch.num_evals[i]) - int(single.num_evals)) <= 0.1 * single.num_evals

    @pytest.mark.parametrize("name", ["lbfgs", "descent", "adam"])
    def test_a_lane_that_has_ended_stays_as_it_is(self, name):
        solve = batch_solver(name)
        end = solve(STARTS, 1e-5, 1000)
        assert len(set(end.num_evals.tolist())) > 2
        for i, num_evals in enumerate(end.num_evals):
            assert_same_bits(member(solve(STARTS, 1e-5, num_evals), i), member(end, i))

    @pytest.mark.parametrize("name", ["descent", "sgd"])
    def test_a_lane_that_fails_leaves_the_others_alone(self, name):
        bad = STARTS.copy()
        bad[1] = np.nan
        good, result = (batch_solver(name)(x, 1e-5, 1000) for x in (STARTS, bad))
        expected = np.full(4, Status.CONVERGED)
        expected[1] = Status.FAILED
        np.testing.assert_array_equal(result.status, expected)
        for i in (0, 2, 3):
            assert_same_bits(result.params[i], good.params[i])
            assert result.num_evals[i] == good.num_evals[i]

    def test_a_round_is_one_evaluation_of_each_lane(self):
        counted = Counted()
        result = jax.jit(jax.vmap(lambda x: co.minimize(lambda x: counted(x), x, DESCENT)))(STARTS)
        jax.block_until_ready(result)
        assert counted.since() == np.max(result.num_evals)

    def test_the_loop_is_one_for_the_batch(self):
        """Its condition has no batch, and no history passes through a select."""
        rows = (4, 15, 9)  # of the memory: lanes, pairs, parameters

        def solve(x):
            return co.minimize(lambda x: jnp.sum(x**2 + x**4), x, TRANSFORMATIONS["lbfgs"])

        jaxpr = jax.make_jaxpr(jax.vmap(solve))(jnp.ones((4, 9))).jaxpr
        (loop,) = (e for e in jaxpr.eqns if e.primitive.name == "while")
        (condition,) = loop.params["cond_jaxpr"].jaxpr.outvars
        assert condition.aval.shape == ()
        body = loop.params["body_jaxpr"].jaxpr
        assert any(v.aval.shape == rows for v in body.invars)
        selects = [e for e in equations(body) if e.primitive.name == "select_n"]
        assert any(e.outvars[0].aval.shape == (4, 9) for e in selects)
        assert all(e.outvars[0].aval.shape != rows for e in selects)

    def test_over_tolerances_and_budgets(self):
        def solve(tol, max_evals):
            return co.minimize(bowl, X0, SGD, tol=tol, max_evals=max_evals)

        tols = np.array([1e-1, 1e-3, 1e-5], np.float32)
        budgets = np.array([1, 3, 1000, 2000], np.int32)
        grid = jax.vmap(jax.jit(jax.vmap(solve, (None, 0))), (0, None))(tols, budgets)
        first = largest(jax.grad(bowl)(X0))
        small = np.max(np.abs(grid.grad), -1) <= tols[:, None] * first
        np.testing.assert_array_equal(grid.status == Status.CONVERGED, small)
        np.testing.assert_array_equal(small[:, 2:], True)
        np.testing.assert_array_equal(grid.num_evals[:, 2], grid.num_evals[:, 3])
        np.testing.assert_array_equal(grid.num_evals[~small], np.tile(budgets, (3, 1))[~small])

    def test_nested_batches(self):
        def solve(x0, center):
            return co.minimize(bowl, x0, DESCENT, args=(center,), tol=1e-3)

        centers = jnp.array([0.0, 1.0, 3.0])
        inner = jax.vmap(solve, (None, 0))
        result = jax.vmap(jax.jit(inner), (0, None))(STARTS, centers)
        np.testing.assert_array_equal(result.status, np.full((4, 3), Status.CONVERGED))
        expected = np.broadcast_to(centers[:, None], (4, 3, 3))
        np.testing.assert_allclose(result.params, expected, atol=0.5)
        grads = jax.vmap(jax.vmap(jax.grad(bowl), (None, 0)), (0, None))(STARTS, centers)
        limits = 1e-3 * np.maximum(1, np.abs(grads).max(-1))
        assert np.all(np.abs(result.grad).max(-1) <= limits)

    def test_inside_other_functions(self):
        def outer(c):
            out = jax.lax.map(lambda c: co.minimize(bowl, X0, SGD, args=(c,)).params, c)
            return jax.lax.cond(c[0] > 0, lambda: out, lambda: -out)

        centers = jnp.array([1.0, 0.5])
        np.testing.assert_allclose(jax.jit(outer)(centers), [[1.0] * 3, [0.5] * 3], atol=1e-3)


class TestState:
    @pytest.mark.parametrize("name", ["lbfgs", "bfgs"])
    def test_after_the_budget_it_goes_on_with_its_memory(self, name):
        tx, start = TRANSFORMATIONS[name], jnp.array([-1.2, 1.0, -0.5, 0.8, 1.2])

        @jax.jit
        def resume(x0, state, max_evals):
            return co.minimize(rosenbrock, x0, tx, tol=1e-4, max_evals=max_evals, state=state)

        with_memory = without = 0
        for budget in (20, 25, 30, 35, 40):
            first = resume(start, tx.init(start), budget)
            assert status_of(first) == Status.BUDGET
            second = resume(first.params, first.state, 1000)
            fresh = resume(first.params, tx.init(start), 1000)
            for result in (second, fresh):
                assert status_of(result) == Status.CONVERGED
                np.testing.assert_allclose(result.params, 1, atol=1e-2)
            with_memory, without = with_memory + second.num_evals, without + fresh.num_evals
        assert with_memory < 0.9 * without

    @pytest.mark.parametrize("name", ["momentum", "adam", "adagrad", "optax.adam"])
    def test_of_a_first_order_method(self, name):
        """Cut after any evaluation, two runs come to the point of one: the moments are kept.

        The first evaluation of the second is at the last point of the first, and its step is the
        one that the first had computed but not taken: they differ by that step's moments.
        """
        tx, grad = TRANSFORMATIONS[name], jax.grad(bowl)
        part = solver(name)[0](X0, max_evals=20)
        params, state = jnp.asarray(X0), tx.init(X0)
        for _ in range(20):
            at = params
            updates, state = tx.update(grad(params), state, params)
            params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(part.params, at, rtol=1e-4)
        params = at
        for _ in range(10):
            at = params
            updates, state = tx.update(grad(params), state, params)
            params = optax.apply_updates(params, updates)
        rest = co.minimize(bowl, part.params, tx, max_evals=10, state=part.state)
        assert (rest.num_evals, rest.num_steps) == (10, 9)
        np.testing.assert_allclose(rest.params, at, rtol=1e-3)

    def test_along_a_path_of_arguments(self):
        """In a scan, each solve from the last one's solution and state."""

        def fun(x, a):
            return rosenbrock(x / a) + 0.1 * jnp.sum(x**2)

        path = jnp.linspace(1.0, 1.3, 6)
        start = jnp.array([-1.2, 1.0, 0.5])
        solve = functools.partial(co.minimize, fun, tx=BFGS, tol=1e-4)

        @jax.jit
        def both(path):
            def warm(carry, a):
                result = solve(carry[0], args=(a,), state=carry[1])
                return (result.params, result.state), result._replace(state=None)

            def cold(_, a):
                return None, solve(start, args=(a,))._replace(state=None)

            warm_results = jax.lax.scan(warm, (start, BFGS.init(start)), path)[1]
            return warm_results, jax.lax.scan(cold, None, path)[1]

        warm, cold = both(path)
        for result in (warm, cold):
            np.testing.assert_array_equal(result.status, np.full(6, Status.CONVERGED))
        np.testing.assert_allclose(warm.value, cold.value, rtol=1e-3)
        assert np.sum(warm.num_evals[1:]) < 0.7 * np.sum(cold.num_evals[1:])


class TestProgress:
    def test_callback_after_each_evaluation_in_order(self):
        reports = []

        @jax.jit
        def solve(x0):
            return co.minimize(bowl, x0, DESCENT, callback=reports.append)

        result = solve(X0)
        jax.effects_barrier()
        assert all(isinstance(p, co.MinimizeProgress) for p in reports)
        assert [int(p.num_evals) for p in reports] == list(range(1, int(result.num_evals) + 1))
        accepted = [bool(p.accepted) for p in reports]
        assert accepted.count(True) == result.num_steps + 1
        assert False in accepted
        assert_same_bits(reports[0].params, X0)
        assert_same_bits(reports[-1].params, result.params)
        assert reports[-1].value == result.value
        assert reports[-1].grad_norm == largest(result.grad)
        for before, after in itertools.pairwise(reports):
            if not after.accepted:
                assert_same_bits(after.params, before.params)

    @pytest.mark.parametrize("name", ["lbfgs", "newton_cg", "adam"])
    def test_callback_gets_rejected_trials(self, name):
        reports = []

        @jax.jit
        def solve(x0):
            tx = TRANSFORMATIONS[name]
            return co.minimize(rosenbrock, x0, tx, max_evals=30, callback=reports.append)

        jax.block_until_ready(solve(np.array([-1.2, 1.0], np.float32)))
        jax.effects_barrier()
        assert len(reports) == 30
        assert all(p.accepted for p in reports) == (name == "adam")
        for p in reports:
            x, y = np.float64(p.trial_params)
            value = 100 * (y - x**2) ** 2 + (1 - x) ** 2
            np.testing.assert_allclose(p.trial_value, value, rtol=1e-3, atol=1e-6)
            if p.accepted:
                assert_same_bits((p.trial_params, p.trial_value), (p.params, p.value))
            else:
                assert np.any(p.trial_params != p.params)
                assert name == "lbfgs" or p.trial_value > p.value

    def test_hears_the_budget_and_why_the_run_ends(self):
        reports = []
        result = co.minimize(bowl, X0, DESCENT, max_evals=200, callback=reports.append)
        assert {int(p.max_evals) for p in reports} == {200}
        *before, last = (Status(int(p.status)) for p in reports)
        assert set(before) == {Status.RUNNING}
        assert last == status_of(result) == Status.CONVERGED

    @pytest.mark.parametrize("name", ["lbfgs", "newton", "adam"])
    def test_callback_may_stop(self, name):
        """At the point that it has seen last, and the state goes on from there."""
        reports = []

        def stop(progress):
            reports.append(progress)
            return progress.num_evals == 4

        tx = TRANSFORMATIONS[name]
        for solve in (lambda f: f(X0), lambda f: jax.jit(f)(X0)):
            reports.clear()
            result = solve(lambda x: co.minimize(rosenbrock, x, tx, callback=stop))
            assert (status_of(result), result.num_evals, len(reports)) == (Status.STOPPED, 4, 4)
            assert_same_bits(result.params, reports[-1].params)
        rest = co.minimize(rosenbrock, result.params, tx, state=result.state, max_evals=7)
        assert rest.num_steps > 0
        assert rest.value < result.value

    def test_a_final_status_counts_more_than_a_stop(self):
        result = co.minimize(bowl, np.ones(3), SGD, callback=lambda progress: True)
        assert status_of(result) == Status.CONVERGED

    def test_a_stop_ends_one_element_of_a_batch(self):
        def solve(x0):
            return co.minimize(bowl, x0, ADAM, callback=lambda p: p.trial_params[0] > 2.5)

        starts = jnp.array([X0, [3.0, 1.0, 1.0]])
        alone = co.minimize(bowl, X0, ADAM)
        for result in (jax.vmap(solve)(starts), jax.jit(jax.vmap(solve))(starts)):
            np.testing.assert_array_equal(result.status, [Status.CONVERGED, Status.STOPPED])
            np.testing.assert_array_equal(result.num_evals, [alone.num_evals, 1])
            assert_same_bits(result.params[1], starts[1])

    @pytest.mark.parametrize("exception", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
    @pytest.mark.parametrize("batched", [False, True])
    def test_exceptions_of_a_callback_come_out_as_themselves(self, exception, batched):
        calls = []

        def fail(progress):
            calls.append(progress)
            if len(calls) == 3:
                raise exception("mine")

        def solve(x0):
            return co.minimize(bowl, x0, DESCENT, callback=fail)

        with pytest.raises(exception, match="mine") as caught:
            jax.vmap(solve)(STARTS) if batched else solve(X0)
        assert caught.traceback[-1].name == "fail"
        assert len(calls) == 3
        assert status_of(co.minimize(bowl, X0, DESCENT)) == Status.CONVERGED

    def test_ctrl_c(self):
        def interrupt(progress):
            if progress.num_evals == 3:
                signal.raise_signal(signal.SIGINT)

        # A process in the background of a shell ignores SIGINT.
        previous = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with pytest.raises(KeyboardInterrupt):
                co.minimize(bowl, X0, DESCENT, callback=interrupt)
        finally:
            signal.signal(signal.SIGINT, previous)

    def test_exceptions_under_jit_are_errors_of_jax(self):
        def fail(progress):
            raise ZeroDivisionError("mine")

        solve = jax.jit(lambda x0: co.minimize(bowl, x0, DESCENT, callback=fail).value)
        with pytest.raises(jax.errors.JaxRuntimeError, match="mine"):
            jax.block_until_ready(solve(X0))

    def test_derivatives_with_a_callback(self):
        """The minimum of 3 (x - a)² + x²: at x = 3 a / 4, where it is 3 a² / 4."""
        reports = []

        def solve(a):
            return co.minimize(
                lambda x: 3 * (x - a) ** 2 + x**2, 0.0, SGD, callback=reports.append
            ).value

        for derivative in (jax.grad(solve), jax.jit(jax.grad(solve)), jax.jacfwd(solve)):
            reports.clear()
            np.testing.assert_allclose(derivative(2.0), 3, rtol=1e-3)
            jax.effects_barrier()
            assert reports

    def test_without_a_callback_the_program_stays_on_the_device(self):
        def solve(x0, callback=None):
            return co.minimize(bowl, x0, DESCENT, callback=callback).params

        assert "callback" not in jax.jit(solve).lower(X0).as_text()
        program = jax.jit(functools.partial(solve, callback=print)).lower(X0)
        assert "callback" in program.as_text()


class TestTolerance:
    def test_newton_cg_computes_no_product_at_the_end(self):
        """`minimize` passes it the tolerance; a plain loop computes products at the end, too."""
        tx = TRANSFORMATIONS["newton_cg"]

        @jax.jit
        def step(params, state):
            value, grads = jax.value_and_grad(bowl)(params)
            updates, state = tx.update(grads, state, params, value=value, value_fn=bowl)
            return optax.apply_updates(params, updates), state

        with jax.enable_x64(True):
            x0 = jnp.asarray(X0, float)
            result = jax.jit(lambda x: co.minimize(bowl, x, tx))(x0)
            params, state, counts = x0, tx.init(x0), []
            for _ in range(int(result.num_evals)):
                params, state = step(params, state)
                counts.append(int(optax.tree.get(state, "num_hvps")))
            np.testing.assert_allclose(co.accepted_params(state), result.params, rtol=1e-10)
        assert status_of(result) == Status.CONVERGED
        assert optax.tree.get(result.state, "num_hvps") == counts[-2] < counts[-1]


class TestShardMap:
    """With the types of varying arrays (``check_vma``) checked, over two devices."""

    MESH = jax.make_mesh((2,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    NAMES = ("lbfgs", "bfgs", "newton", "newton_cg", "adam")

    @staticmethod
    def on_mesh(function, *specs, out):
        mesh = TestShardMap.MESH
        return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=out))

    @pytest.mark.parametrize("name", NAMES)
    def test_a_function_of_each_device_from_one_start(self, name):
        def solve(x0, center):
            def fun(x):
                value = bowl(x, center[0])
                return value, {"value": value, "two": jnp.array(2.0)}

            result = co.minimize(fun, x0, TRANSFORMATIONS[name], has_aux=True, max_evals=500)
            return jax.tree.map(lambda x: x[None], result._replace(state=None))

        centers = jnp.array([1.0, -0.5])
        result = self.on_mesh(solve, P(), P("i"), out=P("i"))(X0, centers)
        np.testing.assert_array_equal(result.status, [Status.CONVERGED] * 2)
        for i, center in enumerate(centers):
            alone = solver(name)[0](X0, center)
            np.testing.assert_allclose(result.params[i], alone.params, atol=1e-4)
            assert abs(int(result.num_evals[i]) - int(alone.num_evals)) <= 2
        np.testing.assert_allclose(result.aux["value"], result.value, rtol=1e-5, atol=1e-9)

    @pytest.mark.parametrize("name", ["lbfgs", "adam"])
    def test_one_function_of_the_data_of_all_devices(self, name):
        """The sum over the devices is the same on each, and so is the solution."""

        def solve(x0, center):
            def fun(x):
                return jax.lax.psum(bowl(x, center[0]), "i")

            return co.minimize(fun, x0, TRANSFORMATIONS[name]).params

        x = self.on_mesh(solve, P(), P("i"), out=P())(X0, jnp.array([1.0, 3.0]))
        np.testing.assert_allclose(x, 2, atol=1e-3)

    def test_derivatives_and_a_callback(self):
        values = []

        def solve(a):
            return co.minimize(
                lambda x: 3 * (x - a[0]) ** 2 + x**2, 0.0, SGD, callback=values.append
            ).params[None]

        def total(a):
            return jnp.sum(self.on_mesh(solve, P("i"), out=P("i"))(a))

        np.testing.assert_allclose(jax.grad(total)(jnp.array([1.0, 2.0])), 3 / 4, rtol=1e-4)
        jax.effects_barrier()
        assert values


@pytest.mark.parametrize("name", ["lbfgs", "newton", "newton_cg", "adam", "optax.lbfgs"])
@pytest.mark.parametrize("callback", [None, lambda progress: None])
class TestFlagsOfJax:
    """`minimize` runs under each of them."""

    def solve(self, name, callback):
        tx = TRANSFORMATIONS[name]
        return co.minimize(bowl, X0, tx, max_evals=4, callback=callback)

    def test_debug_nans(self, name, callback):
        with jax.debug_nans(True):
            assert self.solve(name, callback).num_evals == 4

    def test_rank_promotion(self, name, callback):
        with jax.numpy_rank_promotion("raise"):
            assert self.solve(name, callback).num_evals == 4

    def test_disable_jit(self, name, callback):
        with jax.disable_jit():
            assert self.solve(name, callback).num_evals == 4


RNG = np.random.default_rng(5)
A = RNG.standard_normal((5, 3))
THETA = {"b": np.arange(5) / 3, "s": np.array(0.7)}


def smooth(x, theta):
    """Not quadratic, in a tree of parameters, with a tree of arguments and a closed-over matrix."""
    z = A @ x["u"] - theta["b"]
    curved = jnp.sum(jnp.log(jnp.cosh(z))) + theta["s"] * jnp.sum(x["u"] ** 2) / 2
    return curved + jnp.exp(x["v"] * theta["s"]) + x["v"] ** 2 * (1 + jnp.sum(theta["b"] ** 2))


def differences(fun, x, h=1e-5):
    """The Jacobian by central differences."""
    return np.stack([(fun(x + h * e) - fun(x - h * e)) / (2 * h) for e in np.eye(x.size)], -1)


@pytest.mark.usefixtures("x64")
class TestDerivatives:
    """Of the solution and the value with respect to the arguments, in float64."""

    @staticmethod
    @functools.cache
    def problem(name="bfgs"):
        """A function of a vector of arguments to a vector of the solution and the value."""
        vector, unravel = ravel_pytree(jax.tree.map(jnp.asarray, THETA))
        tx = co.sgd(0.1) if name == "sgd" else TRANSFORMATIONS[name]

        @jax.jit
        def solve(theta):
            start = {"u": jnp.ones(3), "v": jnp.array(0.5)}
            result = co.minimize(smooth, start, tx, args=(unravel(theta),), tol=1e-11)
            return ravel_pytree((result.params, result.value))[0]

        return solve, vector, differences(solve, vector)

    @pytest.mark.parametrize(
        ("mode", "name"),
        [(jax.jacfwd, "sgd"), (jax.jacrev, "sgd"), (jax.jacrev, "adam"), (jax.jacrev, "bfgs")],
    )
    def test_against_differences(self, mode, name):
        solve, theta, expected = self.problem(name)
        np.testing.assert_allclose(jax.jit(mode(solve))(theta), expected, rtol=1e-6, atol=1e-7)

    def test_under_vmap(self):
        solve, theta, _ = self.problem("sgd")
        thetas = jnp.stack([theta, 0.5 * theta, theta + 0.2])
        expected = np.stack([differences(solve, t) for t in thetas])
        slopes = jax.jit(jax.vmap(jax.jacrev(solve)))(thetas)
        np.testing.assert_allclose(slopes, expected, rtol=1e-6, atol=1e-7)

    def test_of_a_loss_of_the_solution(self):
        """First derivatives, and second ones, which need those of the solution twice."""
        solve, theta, slopes = self.problem("sgd")

        def loss(theta):
            return jnp.sum(jnp.sin(solve(theta)))

        grad = jax.jit(jax.grad(loss))
        expected = np.cos(solve(theta)) @ slopes
        np.testing.assert_allclose(grad(theta), expected, rtol=1e-6, atol=1e-7)
        curvatures = differences(grad, theta)
        v = jnp.asarray(RNG.standard_normal(6))
        forward_over_reverse = jax.jit(lambda theta: jax.jvp(jax.grad(loss), (theta,), (v,))[1])
        twice_reverse = jax.jit(jax.grad(lambda theta: jnp.vdot(jax.grad(loss)(theta), v)))
        for hvp in (forward_over_reverse, twice_reverse):
            np.testing.assert_allclose(hvp(theta), curvatures @ v, rtol=1e-6, atol=1e-7)

    def test_of_ridge_regression_by_the_penalty(self):
        """There w = (XᵀX + λ)⁻¹ Xᵀy: w′ = -(XᵀX + λ)⁻¹ w, w″ = 2 (XᵀX + λ)⁻² w."""
        x, y = RNG.standard_normal((12, 3)), RNG.standard_normal(12)

        def solve(penalty):
            def loss(w):
                return (jnp.sum((x @ w - y) ** 2) + penalty * jnp.sum(w**2)) / 2

            return co.minimize(loss, jnp.zeros(3), co.sgd(0.04), tol=1e-13).params

        inverse = np.linalg.inv(x.T @ x + 0.8 * np.eye(3))
        w = inverse @ x.T @ y
        np.testing.assert_allclose(solve(0.8), w, rtol=1e-9)
        slopes, curvatures = jax.jit(lambda p: (jax.jacrev(solve)(p), jax.hessian(solve)(p)))(0.8)
        np.testing.assert_allclose(slopes, -inverse @ w, rtol=1e-9)
        np.testing.assert_allclose(curvatures, 2 * inverse @ inverse @ w, rtol=1e-9)

    def test_two_levels(self):
        """A minimize whose function holds another: min over a of (w(a) - 1)² + a²/2, w(a) = a/2."""

        def inner(a):
            return co.minimize(lambda w: (w - a) ** 2 + w**2, 0.0, SGD, tol=1e-10).params

        def outer(a):
            return (inner(a) - 1) ** 2 + a**2 / 2

        result = jax.jit(lambda a: co.minimize(outer, a, co.sgd(0.5), tol=1e-9))(0.0)
        assert status_of(result) == Status.CONVERGED
        np.testing.assert_allclose(result.params, 2 / 3, rtol=1e-8)

    def test_integers_and_booleans_beside(self):
        """The minimum of n (x - a)² + x²: x = n a / (n + 1), and its derivative in a."""

        def fun(x, n, a, flag, key):
            value = n * (x - a) ** 2 + x**2 + jnp.where(flag, jax.random.normal(key), 0)
            return value, {"n": n, "x": x}

        def solve(a, n, flag, key):
            args = (n, a, flag, key)
            return co.minimize(fun, 0.0, SGD, args=args, tol=1e-10, has_aux=True).params

        key = jax.random.key(0)
        for n, derivative in ((3, jax.grad(solve)), (jnp.array(3), jax.jit(jax.jacfwd(solve)))):
            slope = derivative(2.0, n, jnp.array(True), key)
            np.testing.assert_allclose(slope, 3 / 4, rtol=1e-9)

    def test_of_closed_over_tracers_under_jit_and_vmap(self):
        def solve(a):
            return co.minimize(lambda x: 3 * (x - a) ** 2 + x**2, 0.0, SGD, tol=1e-10)

        for out, expected in (("params", 3 / 4), ("value", 3 / 2 * np.array([1.0, 2.0]))):
            slopes = jax.vmap(jax.jit(jax.grad(lambda a: getattr(solve(a), out))))  # noqa: B023
            np.testing.assert_allclose(slopes(jnp.array([1.0, 2.0])), expected, rtol=1e-8)

    def test_everything_else_has_the_derivative_zero(self):
        def solve(x0, a):
            def fun(x, a):
                return (x - a) ** 2, x * a

            return co.minimize(fun, x0, SGD, args=(a,), has_aux=True)

        def derivatives(mode):
            return (
                mode(lambda x0: solve(x0, 1.0).params)(0.0),
                mode(lambda x0: solve(x0, 1.0).value)(0.0),
                mode(lambda a: solve(0.0, a).grad)(1.0),
                mode(lambda a: solve(0.0, a).aux)(1.0),
                mode(lambda a: solve(0.0, a).state.trial.anchor_params)(1.0),
            )

        assert jax.jit(lambda: derivatives(jax.grad))() == (0,) * 5
        assert jax.jit(lambda: derivatives(jax.jacfwd))() == (0,) * 5
        # Where x0 is an argument, too, only the argument counts.
        np.testing.assert_allclose(jax.grad(lambda a: solve(a + 1, a).params)(1.0), 1, rtol=1e-9)

    def test_of_a_warm_start(self):
        def solve(a, b):
            def fun(x, a):
                return 3 * (x - a) ** 2 + x**2

            first = co.minimize(fun, 0.0, ADAM, args=(a,), tol=1e-9)
            return co.minimize(
                fun, first.params, ADAM, args=(b,), tol=1e-9, state=first.state
            ).params

        np.testing.assert_allclose(jax.grad(solve, (0, 1))(1.0, 1.5), (0, 3 / 4), atol=1e-8)

    def test_of_complex_solutions(self):
        """The real and the imaginary parts are coupled: no function of z alone."""
        m = RNG.standard_normal((4, 2)) + 1j * RNG.standard_normal((4, 2))

        def fun(z, a):
            distance = jnp.sum(jnp.abs(m @ z["z"] - (1 + 2j) * a) ** 2)
            return distance + jnp.sum(jnp.abs(z["z"]) ** 4) + a[0] * jnp.sum((z["z"] ** 2).real)

        @jax.jit
        def solve(a):
            start = {"z": jnp.zeros(2, complex)}
            z = co.minimize(fun, start, co.sgd(0.02), args=(a,), tol=1e-12).params["z"]
            return jnp.concatenate([z.real, z.imag])

        a = jnp.array([0.3, 1.0, -0.5, 0.1])
        expected = differences(solve, a)
        np.testing.assert_allclose(jax.jit(jax.jacrev(solve))(a), expected, rtol=1e-6, atol=1e-7)

    def test_in_float32(self):
        """With x64 off: to the accuracy of float32, in its dtype."""
        with jax.enable_x64(False):
            slopes = jax.jit(jax.jacfwd(lambda a: co.minimize(bowl, 0 * a, SGD, args=(a,)).params))(
                jnp.array(X0)
            )
        assert slopes.dtype == jnp.float32
        np.testing.assert_allclose(slopes, np.eye(3), atol=1e-5)


class TestErrors:
    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"tol": float("nan")}, ValueError),
            ({"tol": np.ones(2)}, TypeError),
            ({"tol": jnp.ones(2)}, ValueError),
            ({"atol": -0.1}, ValueError),
            ({"max_evals": 0}, ValueError),
            ({"max_evals": True}, TypeError),
        ],
    )
    def test_bad_number_is_named(self, options, error):
        with pytest.raises(error, match=next(iter(options))):
            co.minimize(bowl, X0, SGD, **options)

    @pytest.mark.parametrize(
        ("fun", "has_aux"),
        [
            (lambda x: jnp.sum(x)[None], False),
            (lambda x: jnp.sum(x) + 1j, False),
            (lambda x: jnp.int32(3), False),
            (lambda x: None, False),
            (lambda x: {"loss": jnp.sum(x)}, False),
            (lambda x: (x, 1), True),
            (lambda x: (bowl(x), 1, 2), True),
            (lambda x: {"value": bowl(x), "aux": 1}, True),
        ],
        ids=["vector of one", "complex", "integer", "None", "dict",
             "aux of a vector", "three results", "dict with aux"],
    )  # fmt: skip
    def test_bad_value_of_the_function(self, fun, has_aux):
        with pytest.raises(TypeError, match="fun must return"):
            co.minimize(fun, X0, SGD, has_aux=has_aux)

    @pytest.mark.parametrize(
        "other",
        [
            lambda: co.lbfgs(3).init(X0),
            lambda: co.lbfgs().init(np.ones(4, np.float32)),
            lambda: co.lbfgs().init({"x": X0}),
        ],
        ids=["another memory", "another shape", "another tree"],
    )
    def test_state_of_another_run(self, other):
        with pytest.raises(ValueError, match="state"):
            co.minimize(bowl, X0, co.lbfgs(), state=other())

    def test_two_line_searches(self):
        with pytest.raises(ValueError, match="trial records"):
            co.minimize(bowl, X0, optax.chain(co.lbfgs(), co.lbfgs()))


# The method, where the caller leaves it open.


def method_of(fun, n):
    return co.minimize(fun, jnp.ones(n), max_evals=1).method


def test_a_cheap_hessian_means_newton():
    assert method_of(lambda x: jnp.sum(x**4), 200) == "newton"
    result = co.minimize(lambda x: jnp.sum((x - 2.0) ** 4), jnp.zeros(3))
    np.testing.assert_allclose(result.params, 2.0, atol=0.1)


def test_many_parameters_mean_lbfgs():
    assert method_of(lambda x: jnp.sum(x**4), 201) == "lbfgs"


def test_an_expensive_hessian_means_lbfgs():
    data = jnp.ones((100_000, 20))  # a product of the Hessian takes some 10^7 operations
    assert method_of(lambda x: jnp.mean(jnp.logaddexp(0, data @ x)), 20) == "lbfgs"


def test_a_loop_counts_with_its_rounds():
    def fun(x):
        def half(x, _):
            return x / 2 + 1e-3 * x**2, None

        return jnp.sum(jax.lax.scan(half, x, length=10_000)[0])

    assert method_of(fun, 100) == "lbfgs"
    assert method_of(lambda x: jnp.sum(x / 2 + 1e-3 * x**2), 100) == "newton"


def test_no_second_derivative_means_lbfgs():
    @jax.custom_vjp
    def fun(x):
        return jnp.sum(x**2)

    fun.defvjp(lambda x: (fun(x), x), lambda x, g: (2 * x * g,))
    assert method_of(fun, 3) == "lbfgs"


def test_the_method_of_a_result():
    def fun(x):
        return jnp.sum(x**2)

    for tx, name in (
        (co.bfgs(), "bfgs"),
        (co.lbfgs(), "lbfgs"),
        (co.newton_cg(), "newton_cg"),
        (co.adam(0.1), ""),
    ):
        assert co.minimize(fun, jnp.ones(2), tx, max_evals=1).method == name


@pytest.mark.parametrize("make", [co.lbfgs, co.bfgs, co.newton])
def test_a_huge_first_gradient_does_not_end_the_run_early(make):
    """CUTEst's VARDIM, with the minimum 0: Σ (xᵢ - 1)² + s² + s⁴, where s = Σ i (xᵢ - 1)."""
    i = np.arange(1.0, 51.0)

    def fun(x):
        s = jnp.sum(i * (x - 1))
        return jnp.sum((x - 1) ** 2) + s**2 + s**4

    with jax.enable_x64(True):
        result = co.minimize(fun, 1 - i / 50, make())
        assert result.success
        assert result.value < 1e-4


def test_the_message_tells_what_is_left_to_gain():
    """Of x⁴/4 from 10⁴: the gradient is small, against the first, long before the value is."""
    result = co.minimize(lambda x: x**4 / 4, 1e4, co.newton(), max_evals=12)
    assert result.status == Status.BUDGET
    assert result.grad_norm <= result.tolerance
    assert "predicts" in result.message
