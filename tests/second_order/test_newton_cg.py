"""`newton_cg` and its inner iteration, against NumPy: in float64, unless it says otherwise."""

import functools
import json
import os
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

import cs231n_optax as co
from cs231n_optax import Status
from cs231n_optax.second_order.newton_cg import _products, truncated_cg

CG = co.newton_cg()
N = 5  # of the inner iterations here
FAR = 1e10  # a radius that limits nothing

few = settings(max_examples=30, deadline=None)
seeds = st.integers(0, 2**32 - 1)


pytestmark = pytest.mark.usefixtures("x64")


# The inner iteration.


class Steihaug(NamedTuple):
    step: np.ndarray
    count: int
    negative: bool
    interior: bool


def steihaug(h, g, radius, forcing, max_products):
    """Nocedal and Wright, algorithm 7.2, with the root τ >= 0 that Steihaug's paper takes."""
    z, r, d = np.zeros_like(g), g, -g
    for j in range(1, max_products + 1):
        curvature = d @ h @ d
        a, b, c = d @ d, 2 * z @ d, z @ z - radius**2
        tau = (-b + np.sqrt(b**2 - 4 * a * c)) / (2 * a)
        if curvature <= 0:
            return Steihaug(z + tau * d, j, True, False)
        alpha = r @ r / curvature
        if np.linalg.norm(z + alpha * d) >= radius:
            return Steihaug(z + tau * d, j, False, False)
        z, old, r = z + alpha * d, r, r + alpha * h @ d
        if np.linalg.norm(r) <= forcing * np.linalg.norm(g):
            break
        d = -r + (r @ r) / (old @ old) * d
    return Steihaug(z, j, False, True)


@jax.jit
def _inner(h, g, radius, forcing, max_products):
    return minimum(lambda v: h @ v, g, radius, forcing, max_products)


def minimum(product, g, radius, forcing, max_products):
    """With no radius, the length of the first step."""
    return truncated_cg(
        product,
        g,
        radius,
        choose_radius=radius == 0,
        forcing=forcing,
        max_products=max_products,
    )


def inner(h, g, radius=FAR, forcing=1e-10, max_products=50):
    numbers = jnp.float64(radius), jnp.float64(forcing), jnp.int32(max_products)
    return jax.device_get(_inner(jnp.asarray(h), jnp.asarray(g), *numbers))


def symmetric(eigenvalues, rng):
    q = np.linalg.qr(rng.standard_normal((len(eigenvalues),) * 2))[0]
    return (q * eigenvalues) @ q.T


def a_system(seed, definite=True):
    """H of condition at most 100, and g."""
    rng = np.random.default_rng(seed)
    signs = 1.0 if definite else rng.choice([-1.0, 1.0], N)
    return symmetric(signs * 10 ** rng.uniform(-1, 1, N), rng), rng.standard_normal(N)


class TestTruncatedCg:
    @few
    @given(seed=seeds, size=st.sampled_from([1e-160, 1e-8, 1.0, 1e8, 1e160]))
    def test_newtons_step(self, seed, size):
        h, g = a_system(seed)
        end = inner(h, size * g, radius=size * FAR)
        np.testing.assert_allclose(end.step / size, -np.linalg.solve(h, g), rtol=1e-7, atol=1e-7)
        assert end.is_finite
        assert not end.negative
        assert end.count <= 2 * N

    @few
    @given(
        seed=seeds,
        definite=st.booleans(),
        radius=st.sampled_from([1e-3, 0.3, 1.0, 3.0, 30.0]),
        forcing=st.sampled_from([0.5, 0.1, 1e-5]),
        max_products=st.sampled_from([1, 3, 50]),
    )
    def test_against_steihaug(self, seed, definite, radius, forcing, max_products):
        h, g = a_system(seed, definite)
        end = inner(h, g, radius, forcing, max_products)
        expected = steihaug(h, g, radius, forcing, max_products)
        np.testing.assert_allclose(end.step, expected.step, rtol=1e-6, atol=1e-6)
        assert end.count == expected.count
        assert end.negative == expected.negative
        assert end.is_finite
        np.testing.assert_allclose(end.residual, g + h @ end.step, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(end.radius, radius, rtol=1e-12)
        if not expected.interior:
            np.testing.assert_allclose(np.linalg.norm(end.step), radius, rtol=1e-9)
        elif end.count < max_products:
            assert np.linalg.norm(end.residual) <= forcing * np.linalg.norm(g)

    @few
    @given(seed=seeds, radius=st.sampled_from([1e-2, 0.5, 2.0]))
    def test_step_is_cut_at_the_boundary(self, seed, radius):
        """The model falls all along the way there, and with it at least as far as along -g."""
        h, g = a_system(seed)
        end = inner(h, g, radius)
        length = np.linalg.norm(end.step)
        if np.linalg.norm(np.linalg.solve(h, g)) >= radius:
            np.testing.assert_allclose(length, radius, rtol=1e-9)
        else:
            assert length < radius
        cauchy = -min(g @ g / (g @ h @ g), radius / np.linalg.norm(g)) * g
        model = [g @ p + p @ h @ p / 2 for p in (end.step, cauchy)]
        assert model[0] <= model[1] + 1e-12

    @pytest.mark.parametrize("curvature", [-2.0, 0.0])
    def test_nonpositive_curvature_leads_to_the_boundary(self, curvature):
        g = np.array([3.0, 0, 0, 0, 4.0])
        end = inner(curvature * np.eye(N), g, radius=2.0)
        assert end.negative
        assert end.count == 1
        np.testing.assert_allclose(end.step, -2 * g / 5, rtol=1e-12)

    @pytest.mark.parametrize("sign", [1, -1])
    def test_first_inner_step_gives_the_radius(self, sign):
        h, g = a_system(0)
        end = inner(sign * h, g, radius=0.0)
        length = np.linalg.norm(g) ** 3 / (g @ h @ g)
        np.testing.assert_allclose(end.radius, length, rtol=1e-12)
        np.testing.assert_allclose(end.step, -g / np.linalg.norm(g) * length, rtol=1e-6)
        assert end.negative == (sign < 0)

    @pytest.mark.parametrize("max_products", [0, 1, 2, 4])
    def test_budget_of_products(self, max_products):
        h, g = a_system(1)
        end = inner(h, g, forcing=0.0, max_products=max_products)
        assert end.count == max_products
        # Conjugate gradients: the residual is orthogonal to all earlier ones, to the first first.
        if max_products:
            assert abs(end.residual @ g) < 1e-10
        else:
            np.testing.assert_array_equal(end.step, np.zeros(N))

    def test_zero_gradient_costs_no_product(self):
        end = inner(np.eye(N), np.zeros(N), radius=1.0)
        assert (end.count, end.is_finite, end.negative) == (0, True, False)
        np.testing.assert_array_equal(end.step, np.zeros(N))

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_nonfinite_products(self, bad):
        h, g = a_system(2)
        h[1, 2] = bad
        end = inner(h, g)
        assert not end.is_finite
        assert not end.negative
        assert end.count == 1
        assert np.all(np.isfinite(end.step))

    def test_nonfinite_later_product(self):
        """Only the first direction, -g, has an element of one."""
        g = jnp.array([1.0, 0.5])

        def product(v):
            return jnp.where(jnp.abs(v[0]) == 1, jnp.array([1.0, 4.0]) * v, jnp.nan)

        end = minimum(product, g, jnp.float64(FAR), jnp.float64(1e-8), jnp.int32(9))
        assert (end.count, end.is_finite) == (2, False)
        np.testing.assert_allclose(end.step, -np.array([1.0, 0.5]) * 1.25 / 2, rtol=1e-12)

    @pytest.mark.parametrize("definite", [True, False])
    def test_trees_and_complex_leaves(self, definite):
        """Of a complex leaf, the real and the imaginary part are coordinates."""
        h, g = a_system(3, definite)

        def pack(x):
            return {"a": (x[:2], None), "s": x[2], "z": jax.lax.complex(x[3:4], x[4:5])}

        def unpack(tree):
            z = tree["z"]
            return jnp.concatenate([tree["a"][0], tree["s"][None], z.real, z.imag])

        numbers = jnp.float64(2.0), jnp.float64(1e-8), jnp.int32(20)
        end = minimum(lambda v: pack(h @ unpack(v)), pack(jnp.asarray(g)), *numbers)
        expected = steihaug(h, g, 2.0, 1e-8, 20)
        np.testing.assert_allclose(unpack(end.step), expected.step, rtol=1e-7, atol=1e-9)
        assert end.count == expected.count
        assert end.step["z"].dtype == jnp.complex128


# The method, in the ordinary loop.


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def beale(p):
    x, y = p
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def saddle(p):
    x, y = p
    return x**2 - y**2 + y**4 / 4


QUADRATIC = symmetric(np.logspace(0, 2, 6), np.random.default_rng(4))
TARGET = np.arange(6.0) - 2


def quadratic(x):
    return (x - TARGET) @ QUADRATIC @ (x - TARGET) / 2 + 3


Q12 = np.linalg.qr(np.random.default_rng(0).standard_normal((12, 12)))[0]


def exponentials(x):
    """Strictly convex, with its minimum 0 at 0, where the Hessian has the condition 100."""
    u = Q12 @ x
    return jnp.sum(np.logspace(0, 2, 12) * (jnp.expm1(u) - u))


STARTS = {
    "quadratic": (quadratic, np.zeros(6)),
    "rosenbrock-2": (rosenbrock, np.array([-1.2, 1.0])),
    "rosenbrock-100": (rosenbrock, np.array([-1.2, 1.0] * 50)),
    "beale": (beale, np.array([1.0, 1.0])),
    "saddle": (saddle, np.array([1.0, 1e-5])),
    "exponentials": (exponentials, 0.5 * np.random.default_rng(1).standard_normal(12)),
}


def step_of(fun, tx, value_fn):
    def step(params, state):
        value, grads = jax.value_and_grad(fun)(params)
        grads = jax.tree.map(jnp.conj, grads)
        extra = {} if value_fn is None else {"value_fn": value_fn}
        updates, state = tx.update(grads, state, params, value=value, **extra)
        return optax.apply_updates(params, updates), state, value, grads

    return step


@functools.cache
def jitted_step(fun, tx, value_fn):
    return jax.jit(step_of(fun, tx, value_fn))


class Step(NamedTuple):
    params: object
    value: float
    grads: object
    accepted: bool
    status: Status
    num_hvps: int
    state: object


def run(fun, x0, tx=CG, *, value_fn=..., tol=1e-10, max_evals=300):
    """Updates until a final status or a small gradient at an accepted point."""
    params = jax.tree.map(jnp.asarray, x0)
    state, steps = tx.init(params), []
    step = jitted_step(fun, tx, fun if value_fn is ... else value_fn)
    for _ in range(max_evals):
        at = params
        params, state, value, grads = step(params, state)
        trial = jax.device_get(state.trial)
        status, num_hvps = Status(int(trial.status)), int(optax.tree.get(state, "num_hvps"))
        accepted = bool(trial.accepted)
        steps.append(Step(at, float(value), grads, accepted, status, num_hvps, state))
        if status != Status.RUNNING or (accepted and trial.grad_norm <= tol):
            break
    return steps


@functools.cache
def ran(name):
    return run(*STARTS[name])


class TestMinima:
    @pytest.mark.parametrize("name", STARTS)
    def test_ends_at_a_minimum(self, name):
        end = ran(name)[-1]
        x = np.asarray(end.params)
        assert end.accepted
        if name == "quadratic":
            np.testing.assert_allclose(x, TARGET, rtol=1e-9, atol=1e-9)
        elif name == "rosenbrock-2":
            np.testing.assert_allclose(x, 1, rtol=1e-9)
        elif name == "rosenbrock-100":
            grad, hessian = scipy.optimize.rosen_der(x), scipy.optimize.rosen_hess(x)
            assert np.max(np.abs(grad)) <= 1e-9
            assert np.linalg.eigvalsh(hessian)[0] > 0.1
        elif name == "beale":
            np.testing.assert_allclose(x, [3, 0.5], rtol=1e-9)
        elif name == "saddle":
            np.testing.assert_allclose(x, [0, np.sqrt(2)], rtol=1e-9, atol=1e-9)
        else:
            np.testing.assert_allclose(x, 0, atol=1e-9)

    @pytest.mark.parametrize("name", STARTS)
    def test_accepted_values_never_rise(self, name):
        values = np.array([step.value for step in ran(name) if step.accepted])
        noise = 10 * np.finfo(float).eps * np.abs(values[:-1])
        assert np.all(np.diff(values) <= noise)

    def test_no_more_products_than_scipy(self):
        """Of both its methods with products, on Rosenbrock's function of 100 variables."""
        x0 = STARTS["rosenbrock-100"][1]
        counts = []
        for method in ("trust-ncg", "Newton-CG"):
            count = 0

            def hessp(x, v):
                nonlocal count
                count += 1
                return scipy.optimize.rosen_hess_prod(x, v)

            scipy.optimize.minimize(
                scipy.optimize.rosen, x0, jac=scipy.optimize.rosen_der, hessp=hessp,
                method=method, options={"gtol": 1e-8} if method == "trust-ncg" else {"xtol": 1e-8},
            )  # fmt: skip
            counts.append(count)
        assert ran("rosenbrock-100")[-1].num_hvps <= 1.1 * min(counts)

    def test_order_of_convergence(self):
        """Exponents p of e₊ ≈ C eᵖ: 1.6 is promised, and the first ones are not yet near."""
        errors = [np.linalg.norm(s.params) for s in ran("exponentials") if s.accepted]
        errors = np.array([e for e in errors if e > 1e-14])
        orders = np.log(errors[2:] / errors[1:-1]) / np.log(errors[1:-1] / errors[:-2])
        assert len(orders) >= 3
        assert np.all(orders[-3:] > 1.5)

    def test_in_float32(self):
        fun, x0 = STARTS["rosenbrock-2"]
        steps = run(fun, np.float32(x0), tol=1e-4)
        assert steps[-1].params.dtype == steps[-1].grads.dtype == jnp.float32
        np.testing.assert_allclose(steps[-1].params, 1, atol=1e-3)
        assert all(x.dtype != jnp.float64 for x in jax.tree.leaves(steps[-1].state))

    def test_complex_parameters(self):
        """As if the real and the imaginary parts were parameters of their own."""
        target, weights = np.array([1 + 2j, -1j]), np.array([1.0, 3.0])

        def fun(z):
            d = z - target
            return jnp.sum(weights * (d.real**2 + d.imag**2) + d.real * d.imag / 2 + d.real**4)

        def real_fun(x):
            return fun(jax.lax.complex(x[:2], x[2:]))

        got = run(fun, np.array([3 + 1j, 1 - 1j]))
        expected = run(real_fun, np.array([3.0, 1, 1, -1]))
        assert len(got) == len(expected)
        assert got[-1].num_hvps == expected[-1].num_hvps
        for one, other in zip(got, expected, strict=True):
            z = np.asarray(one.params)
            np.testing.assert_allclose(np.concatenate([z.real, z.imag]), other.params, atol=1e-8)
        np.testing.assert_allclose(got[-1].params, target, rtol=1e-8)

    @pytest.mark.parametrize("tree", [{}, {"a": np.zeros((0, 3))}, (None,)])
    def test_empty_tree(self, tree):
        (step,) = run(lambda x: jnp.float64(7), tree)
        assert (step.status, step.num_hvps) == (Status.CONVERGED, 0)


class TestCost:
    def test_rejected_trial_costs_no_product(self):
        for name in ("rosenbrock-2", "rosenbrock-100"):
            steps = ran(name)
            rejected = [not step.accepted for step in steps]
            more = np.diff([0, *(step.num_hvps for step in steps)])
            assert sum(rejected) >= 3
            assert np.all((more == 0) == rejected)

    def test_rejected_trial_does_not_differentiate_the_objective(self):
        count = 0

        def hear():
            nonlocal count
            count += 1

        def counted(x):
            jax.debug.callback(hear)
            return rosenbrock(x)

        params = jnp.array([-1.2, 1.0])
        state, seen = CG.init(params), set()
        step = jitted_step(rosenbrock, CG, counted)
        for _ in range(20):
            before = count
            params, state, *_ = step(params, state)
            jax.effects_barrier()
            seen.add((bool(state.trial.accepted), count > before))
        assert seen == {(True, True), (False, False)}

    def test_memory_is_linear(self):
        """Of a whole step; 40 N numbers are generous, and a matrix would be N of them."""

        def numbers(n):
            x = jax.ShapeDtypeStruct((n,), jnp.float64)
            step = jax.jit(step_of(rosenbrock, CG, rosenbrock))
            memory = step.lower(x, jax.eval_shape(CG.init, x)).compile().memory_analysis()
            sizes = memory.temp_size_in_bytes, memory.argument_size_in_bytes
            return sum(sizes, memory.output_size_in_bytes) / 8

        small, large = numbers(20_000), numbers(40_000)
        assert large < 40 * 40_000
        assert 1.9 < large / small < 2.1

    def test_one_trace_for_each_shape(self):
        step = jax.jit(step_of(rosenbrock, CG, rosenbrock))
        for n in (2, 3):
            params = jnp.array([0.5] * n)
            state = CG.init(params)
            for _ in range(6):
                params, state, *_ = step(params, state)
        assert step._cache_size() == 2


@jax.jit
def first_update(value, slope, curvature):
    x = jnp.ones(2)
    return CG.update(
        slope * x, CG.init(x), x, value=value, value_fn=lambda x: curvature * jnp.sum(x**2)
    )


class TestNotFinite:
    def test_nonfinite_products_reject_the_trial(self):
        """Of √(1 + x²), whose Newton step from x leads to -x³, with a Hessian that is bad there."""

        def fun(x):
            return jnp.sum(jnp.sqrt(1 + x**2))

        def bad_hessian(x):
            return fun(x) * jnp.where(jax.lax.stop_gradient(x[0]) < -0.5, jnp.nan, 1.0)

        steps = run(fun, np.array([0.9]), value_fn=bad_hessian)
        np.testing.assert_allclose(steps[1].params, [-(0.9**3)], rtol=1e-6)
        assert steps[1].value < steps[0].value
        assert not steps[1].accepted
        assert all(step.params[0] >= -0.5 for step in steps if step.accepted)
        assert steps[-1].accepted
        np.testing.assert_allclose(steps[-1].params, 0, atol=1e-9)

    @pytest.mark.parametrize(
        ("value", "slope", "curvature"),
        [(np.nan, 1.0, 1.0), (1.0, np.inf, 1.0), (1.0, 1.0, np.nan)],
    )
    def test_nonfinite_start_fails(self, value, slope, curvature):
        updates, state = first_update(value, slope, curvature)
        assert Status(int(co.status(state))) == Status.FAILED
        np.testing.assert_array_equal(updates, 0)

    def test_products_that_are_finite_at_the_start_only(self):
        def fun(x):
            return jnp.sum(jnp.cosh(x))

        def value_fn(x):
            at_start = jnp.all(jax.lax.stop_gradient(x) == np.array([2.0, 1.0]))
            return jnp.where(at_start, 1.0, jnp.nan) * fun(x)

        steps = run(fun, np.array([2.0, 1.0]), value_fn=value_fn)
        assert steps[-1].status in (Status.FAILED, Status.STALLED)
        assert all(np.all(step.params == np.array([2, 1])) for step in steps if step.accepted)
        np.testing.assert_array_equal(co.accepted_params(steps[-1].state), [2, 1])


class TestBatches:
    def test_lanes_agree_with_single_runs(self):
        starts = np.array([[-1.2, 1.0, -1.2, 1.0], [0, 0, 0, 0], [2, -1, 0.5, 3], [1, 1, 1, 1.0]])

        def solve(x):
            result = co.minimize(rosenbrock, x, CG, tol=1e-9)
            numbers = result.num_evals, optax.tree.get(result.state, "num_hvps")
            return result.params, result.value, result.status, numbers

        batch, single = jax.jit(jax.vmap(solve))(starts), jax.jit(solve)
        for i, x0 in enumerate(starts):
            params, value, status, numbers = single(x0)
            assert batch[2][i] == status == Status.CONVERGED
            np.testing.assert_allclose(batch[0][i], params, rtol=1e-6)
            np.testing.assert_allclose(batch[1][i], value, atol=1e-12)
            assert [int(n[i]) for n in batch[3]] == [int(n) for n in numbers]


@pytest.mark.parametrize("pair", [(jnp.sum,), (jnp.sum, 1), (jnp.sum,) * 3, 3, "ab", (None, None)])
def test_gauss_newton_takes_two_functions(pair):
    with pytest.raises(TypeError, match="gauss_newton"):
        co.newton_cg(gauss_newton=pair)


# Gauss and Newton's products.

TIMES = np.linspace(0, 2, 9)
DATA = 2 * np.exp(-1.5 * TIMES) + 0.01 * np.sin(9 * TIMES)


def decay(p):
    return p[0] * jnp.exp(-p[1] * TIMES)


def decay_jacobian(p):
    e = np.exp(-p[1] * TIMES)
    return np.stack([e, -p[0] * TIMES * e], -1)


def half_squares(outputs):
    return jnp.sum((outputs - DATA) ** 2) / 2


X, Y = np.random.default_rng(2).standard_normal((7, 4)), np.array([0, 1, 2, 2, 1, 0, 1])


def logits(w):
    return jnp.tanh(X @ w)


def cross_entropy(outputs):
    return jnp.mean(jax.nn.logsumexp(outputs, -1) - outputs[np.arange(7), Y])


class TestGaussNewton:
    def test_first_step_of_least_squares(self):
        """Where JᵀJ is a multiple of I, the first inner step is (JᵀJ)⁻¹ Jᵀ r already."""
        basis = 3 * np.linalg.qr(np.random.default_rng(5).standard_normal((8, 3)))[0]
        start, data = np.array([0.3, -0.2, 0.1]), np.linspace(-1, 2, 8)

        def model(p):  # whose derivative at the start is the basis
            d = p - start
            return basis @ d + jnp.sin(basis @ d) ** 2

        def loss(outputs):
            return jnp.sum((outputs - data) ** 2) / 2

        tx = co.newton_cg(gauss_newton=(model, loss))
        steps = run(lambda p: loss(model(p)), start, tx, value_fn=None, max_evals=2)
        expected = np.linalg.lstsq(basis, data)[0]
        np.testing.assert_allclose(steps[1].params - start, expected, rtol=1e-7)

    def test_fit_without_an_objective(self):
        """The last steps leave a residual of JᵀJ p = -g as small as was promised."""
        tx = co.newton_cg(gauss_newton=(decay, half_squares))
        steps = run(lambda p: half_squares(decay(p)), np.ones(2), tx, value_fn=None, tol=1e-8)
        expected = scipy.optimize.least_squares(
            lambda p: p[0] * np.exp(-p[1] * TIMES) - DATA, [1.0, 1.0], xtol=1e-14, ftol=1e-14,
            gtol=1e-14,
        )  # fmt: skip
        assert steps[-1].accepted
        np.testing.assert_allclose(steps[-1].params, expected.x, rtol=1e-6)
        points = [np.asarray(step.params) for step in steps if step.accepted]
        for here, there in zip(points[-4:-1], points[-3:], strict=True):
            j = decay_jacobian(here)
            g = j.T @ (here[0] * np.exp(-here[1] * TIMES) - DATA)
            p = there - here
            assert np.linalg.norm(j.T @ j @ p + g) <= 0.101 * np.linalg.norm(g)

    def test_products_of_cross_entropy(self):
        """JᵀLJ v, with J and L written out: diag(p) - p pᵀ of each row of outputs."""
        rng = np.random.default_rng(6)
        w, v = rng.standard_normal((4, 3)), rng.standard_normal((4, 3))
        out = np.tanh(X @ w)
        j = np.einsum("nc,nf,ck->ncfk", 1 - out**2, X, np.eye(3)).reshape(21, 12)
        p = np.exp(out) / np.exp(out).sum(1, keepdims=True)
        blocks = [np.diag(row) - np.outer(row, row) for row in p]
        curvature = np.zeros((21, 21))
        for i, block in enumerate(blocks):
            curvature[3 * i : 3 * i + 3, 3 * i : 3 * i + 3] = block / 7
        expected = (j.T @ curvature @ j @ v.reshape(-1)).reshape(4, 3)
        product = _products(jnp.asarray(w), None, (logits, cross_entropy))
        np.testing.assert_allclose(product(jnp.asarray(v)), expected, rtol=1e-10)

    def test_complex_parameters_and_outputs(self):
        """Of |A z - b|²/2 the products are Aᴴ A v, the Hessian itself."""
        rng = np.random.default_rng(7)
        a = rng.standard_normal((5, 2)) + 1j * rng.standard_normal((5, 2))
        v = jnp.asarray(rng.standard_normal(2) + 1j * rng.standard_normal(2))

        def loss(outputs):
            return jnp.sum(jnp.abs(outputs - 1) ** 2) / 2

        z = jnp.asarray([0.3 + 1j, 1.0])
        for product in (
            _products(z, None, (lambda z: a @ z, loss)),
            _products(z, lambda z: loss(a @ z), None),
        ):
            np.testing.assert_allclose(product(v), a.conj().T @ a @ v, rtol=1e-10)


# On a network, in float32, on one device and on eight.

DIGITS = """
import json, jax, jax.numpy as jnp, numpy as np, optax, cs231n_optax as co
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from cs231n_optax.problems import datasets, networks

data = datasets.digits()
batch = data.x_train[:160], data.y_train[:160]
net = networks.cnn((8, 8, 1), num_classes=10)
tx = co.newton_cg()

@jax.jit
def step(params, state, batch):
    def loss(params):
        return networks.cross_entropy(net.apply(params, batch[0]), batch[1])

    value, grads = jax.value_and_grad(loss)(params)
    updates, state = tx.update(grads, state, params, value=value, value_fn=loss)
    return optax.apply_updates(params, updates), state, value

def run(params, batch):
    state, record = tx.init(params), []
    for _ in range(14):
        params, state, value = step(params, state, batch)
        trial = state.trial
        record.append((float(value), bool(trial.accepted), float(trial.anchor_value)))
    places = {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(state)}
    return record, sorted(places), int(optax.tree.get(state, "num_hvps"))

params = net.init(jax.random.key(0))
mesh = Mesh(np.array(jax.devices()), ("batch",))
whole, rows = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("batch",)))
one = run(params, jax.tree.map(jnp.asarray, batch))
eight = run(jax.device_put(params, whole), jax.device_put(batch, rows))
print(json.dumps([one, eight]))
"""


@pytest.mark.slow
def test_the_digits_cnn_on_one_device_and_on_eight():
    pytest.importorskip("sklearn")
    flags = "--xla_force_host_platform_device_count=8"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", DIGITS],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    one, eight = json.loads(result.stdout)
    for record, places, num_hvps in (one, eight):
        values = [value for value, accepted, _ in record if accepted]
        assert np.all(np.diff(values) < 0)
        assert values[0] > 2.3 > 0.5 > values[-1]  # log 10 is chance
        assert num_hvps < 100
        assert places in ([1], [8])
    assert eight[1] == [8]
    ours, theirs = (np.array([row[2] for row in record]) for record, *_ in (one, eight))
    np.testing.assert_allclose(ours[:8], theirs[:8], rtol=1e-3)
    np.testing.assert_allclose(ours, theirs, rtol=0.5)
