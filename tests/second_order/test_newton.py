"""`scale_by_newton`, `newton` and its subproblem: against closed forms, NumPy and SciPy.

Under x64, with each test's own dtype. One program serves all functions of so many numbers.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
import trials
from hypothesis import given, settings
from hypothesis import strategies as st
from trials import anchor, assert_same_bits, value_and_grad

import cs231n_optax as co
from cs231n_optax import Status
from cs231n_optax.problems import landscapes
from cs231n_optax.second_order.subproblem import minimize_in_ball

NEWTON = co.newton()
STAYING = co.newton(leave_saddles=False)
DIRECTION = co.scale_by_newton()
SADDLE_FREE = co.scale_by_newton(saddle_free=True)

few = settings(max_examples=12, deadline=None)
seeds = st.integers(0, 2**32 - 1)
both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


pytestmark = pytest.mark.usefixtures("x64")


# The subproblem, in the eigenbasis: N = 5.

BALL = jax.jit(minimize_in_ball)
EXTENDED = np.longdouble
ROUNDS = 300  # of the bisection


def exact_in_ball(eigenvalues, c, radius):
    """The least value, by bisection on the height of the shift above -λ₁, in long doubles."""
    lowest = eigenvalues.min()
    gap = eigenvalues - lowest

    def length(height):
        return np.sqrt(np.sum((c / (gap + height)) ** 2))

    def value(u):
        return c @ u + np.sum(eigenvalues * u * u) / 2

    if lowest > 0 and length(lowest) <= radius:
        return value(-c / eigenvalues)
    others, bottom = gap > 0, gap == 0
    if np.all(c[bottom] == 0) and lowest <= 0:  # perhaps the hard case
        u = np.where(others, -c / np.where(others, gap, 1), 0)
        if np.sqrt(u @ u) <= radius:
            u[np.flatnonzero(bottom)[0]] = np.sqrt(radius**2 - u @ u)
            return value(u)
    low, high = max(lowest, EXTENDED(0)), np.sqrt(c @ c) / radius
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        low, high = (middle, high) if length(middle) > radius else (low, middle)
    return value(-c / (gap + high))


def check_ball(eigenvalues, c, radius):
    """The optimality conditions and the values, to rounding."""
    found = jax.device_get(BALL(eigenvalues, c, radius))
    eps = np.finfo(c.dtype).eps
    assert found.u.dtype == c.dtype
    assert np.all(np.isfinite(found.u))
    assert found.decrease >= 0
    eigenvalues, c, u = (np.asarray(x, EXTENDED) for x in (eigenvalues, c, found.u))
    radius, decrease, length = EXTENDED(radius), EXTENDED(found.decrease), np.sqrt(u @ u)
    assert abs(found.length - length) <= 10 * eps * length
    assert length <= 1.001 * (1 + 10 * eps) * radius

    # (Λ + σ I) u = -c, σ >= 0, Λ + σ I >= 0, σ (Δ - ‖u‖) = 0
    size, slope = np.max(np.abs(eigenvalues)), np.sqrt(c @ c)
    shift = -(u @ (eigenvalues * u + c)) / (u @ u)
    rounding = 100 * eps * (size + slope / length)
    assert np.linalg.norm(((eigenvalues + shift) * u + c).astype(float)) <= rounding * length
    assert shift >= -rounding
    assert eigenvalues.min() + shift >= -rounding
    assert shift <= rounding or abs(length / radius - 1) <= 1.1e-3

    # m(u), what it says of it, and the least in the ball, and in one that is larger by 0.1 %
    value = c @ u + np.sum(eigenvalues * u * u) / 2
    terms = slope * length + size * length**2
    assert abs(-value - decrease) <= 50 * eps * terms
    least = exact_in_ball(eigenvalues, c, radius)
    assert value <= least + 50 * eps * terms
    assert value >= 1.001**2 * (1 + 50 * eps) * least - 50 * eps * terms


def spectrum(seed, dtype, decades, kind):
    """Eigenvalues in order, a gradient and a radius, each over so many decades."""
    rng = np.random.default_rng(seed)
    signs = {"positive": [1], "negative": [-1], "both": [-1, 1]}[kind]
    eigenvalues = np.sort(rng.choice(signs, 5) * 10 ** rng.uniform(-decades, decades, 5))
    c = rng.standard_normal(5) * 10 ** rng.uniform(-decades, decades, 5)
    radius = 10 ** rng.uniform(-decades, decades)
    return eigenvalues.astype(dtype), c.astype(dtype), dtype(radius)


kinds = st.sampled_from(["positive", "negative", "both"])


class TestMinimizeInBall:
    @both_dtypes
    @settings(max_examples=80, deadline=None)
    @given(seed=seeds, decades=st.sampled_from([0.0, 1.0, 3.0, 8.0]), kind=kinds)
    def test_any_spectrum(self, dtype, seed, decades, kind):
        decades = min(decades, 4.0) if dtype is np.float32 else decades
        check_ball(*spectrum(seed, dtype, decades, kind))

    @both_dtypes
    @settings(max_examples=40, deadline=None)
    @given(seed=seeds, decades=st.sampled_from([0.0, 2.0]), kind=kinds, double=st.booleans())
    def test_hard_case(self, dtype, seed, decades, kind, double):
        """The hard case, where the radius is large enough; once or twice the lowest eigenvalue."""
        eigenvalues, c, radius = spectrum(seed, dtype, decades, kind)
        c[0] = 0
        if double:
            eigenvalues[1], c[1] = eigenvalues[0], 0
        check_ball(eigenvalues, c, radius)

    @both_dtypes
    @settings(max_examples=40, deadline=None)
    @given(seed=seeds, which=st.integers(0, 4), kind=kinds)
    def test_zero_in_the_gradient(self, dtype, seed, which, kind):
        eigenvalues, c, radius = spectrum(seed, dtype, 1.0, kind)
        c[which] = 0
        check_ball(eigenvalues, c, radius)

    @both_dtypes
    @pytest.mark.parametrize("lowest", [-1.0, -1e-2, -100.0])
    @pytest.mark.parametrize("radius", [1e-3, 1.0, 1e3])
    def test_zero_gradient(self, dtype, lowest, radius):
        """At a saddle: along the lowest eigenvector to the boundary, for ½ |λ₁| Δ² of decrease."""
        eigenvalues = np.array([lowest, 1, 2, 3, 4], dtype)
        found = BALL(eigenvalues, np.zeros(5, dtype), dtype(radius))
        rtol = 2e-3 + 10 * np.finfo(dtype).eps * 100
        np.testing.assert_allclose(np.abs(found.u[0]), radius, rtol=1e-3)
        np.testing.assert_array_equal(found.u[1:], np.zeros(4))
        np.testing.assert_allclose(found.decrease, -lowest * radius**2 / 2, rtol=rtol)

    @both_dtypes
    @few
    @given(seed=seeds, radius=st.sampled_from([1e6, np.inf]))
    def test_interior_solution_is_newtons_step(self, dtype, seed, radius):
        eigenvalues, c, _ = spectrum(seed, dtype, 1.0, "positive")
        found = BALL(eigenvalues, c, dtype(radius))
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(found.u, -c / eigenvalues, rtol=10 * eps)
        expected = np.sum(c.astype(float) ** 2 / eigenvalues) / 2
        np.testing.assert_allclose(found.decrease, expected, rtol=20 * eps)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("kind", ["positive", "negative", "both"])
    @pytest.mark.parametrize("function_scale", [-1, 0, 1])
    @pytest.mark.parametrize("length_scale", [-1, 0, 1])
    def test_huge_and_tiny_scales(self, dtype, kind, function_scale, length_scale):
        """With λ, c and Δ in other units the step and the decrease are the same in theirs."""
        eigenvalues, c, radius = spectrum(3, np.float64, 0.5, kind)
        exponent = 12 if dtype is np.float32 else 120
        f, x = 10.0 ** (exponent * function_scale), 10.0 ** (exponent // 2 * length_scale)
        found = BALL((eigenvalues * f / x**2).astype(dtype), (c * f / x).astype(dtype),
                     dtype(radius * x))  # fmt: skip
        expected = BALL(eigenvalues, c, radius)
        # Rounded eigenvalues: the secular equation ends in other places within the 0.1 %.
        rtol = 5e-3
        np.testing.assert_allclose(found.u / x, expected.u, rtol=rtol, atol=rtol)
        np.testing.assert_allclose(found.decrease / f, expected.decrease, rtol=rtol)

    def test_batch_of_subproblems(self):
        """Each lane agrees with its single run; the slowest sets the length of the loop."""
        problems = [spectrum(seed, np.float64, 3.0, "both") for seed in range(50)]
        together = jax.jit(jax.vmap(minimize_in_ball))(*map(np.array, zip(*problems, strict=True)))
        for k, problem in enumerate(problems):
            alone = BALL(*problem)
            np.testing.assert_allclose(together.u[k], alone.u, rtol=1e-9)
            np.testing.assert_allclose(together.decrease[k], alone.decrease, rtol=1e-9)

    def test_empty_tree(self):
        found = minimize_in_ball(jnp.zeros(0), jnp.zeros(0), jnp.ones(()))
        assert found.u.shape == (0,)
        assert found.decrease == found.length == 0


# Counting the evaluations of an objective, also those in a Hessian.


def counted(fun):
    """The function, and another one that gives how often compiled programs evaluated it."""
    calls = []

    def counting(x):
        jax.debug.callback(lambda: calls.append(1))
        return fun(x)

    def count():
        jax.effects_barrier()
        return len(calls)

    return counting, count


# The direction.

N = 6


def symmetric(seed, n=N):
    """Indefinite, of condition at most 100, with its eigenvalues and eigenvectors."""
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.standard_normal((n, n)))
    eigenvalues = np.where(np.arange(n) % 2, -1, 1) * 10 ** rng.uniform(-1, 1, n)
    return (q * eigenvalues) @ q.T, eigenvalues, q


def as_tree(x):
    """Six real numbers as a tree, in the order of its leaves."""
    return {"b": x[0], "w": x[1:4].reshape(3, 1), "z": jax.lax.complex(x[4], x[5])}


def as_vector(tree):
    z = tree["z"]
    return jnp.concatenate(
        [tree["b"].reshape(1), tree["w"].reshape(-1), z.real.reshape(1), z.imag.reshape(1)]
    )


def quadratic(x, matrix, center):
    return (x - center) @ matrix @ (x - center) / 2


@functools.cache
def newton_step(tx, trees):
    """One jitted update of a quadratic's direction: of vectors, or of trees of six numbers."""

    def step(x, matrix, center):
        def loss(params):
            return quadratic(as_vector(params) if trees else params, matrix, center)

        g = matrix @ (x - center)
        params, grads = (as_tree(x), as_tree(g)) if trees else (x, g)
        direction, state = tx.update(grads, tx.init(params), params, value_fn=loss)
        return (as_vector(direction) if trees else direction), state

    return jax.jit(step)


class TestScaleByNewton:
    @pytest.mark.parametrize("trees", [False, True], ids=["vector", "tree"])
    @few
    @given(seed=seeds, scale=st.sampled_from([1e-6, 1.0, 1e6]))
    def test_one_step_to_the_stationary_point(self, trees, seed, scale):
        """Of an indefinite quadratic: to rounding."""
        matrix, _, _ = symmetric(seed)
        x, center = np.random.default_rng(seed + 1).standard_normal((2, N))
        direction, state = newton_step(DIRECTION, trees)(x, scale * matrix, center)
        np.testing.assert_allclose(x - direction, center, rtol=0, atol=1e-12)
        assert state.num_hessians == 1

    @few
    @given(seed=seeds, damping=st.sampled_from([1e-3, 0.5, 100.0]), saddle_free=st.booleans())
    def test_damping(self, seed, damping, saddle_free):
        matrix, eigenvalues, q = symmetric(seed)
        g = np.random.default_rng(seed + 1).standard_normal(N)
        found = damped(saddle_free)(damping, matrix, g)
        values = np.abs(eigenvalues) if saddle_free else eigenvalues
        gap = np.min(np.abs(values + damping))
        expected = q @ (q.T @ g / (values + damping))
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11 * np.linalg.norm(g) / gap)

    @few
    @given(seed=seeds)
    def test_saddle_free(self, seed):
        """|H|⁻¹ g of NumPy's |H|, which always ascends."""
        matrix, eigenvalues, q = symmetric(seed)
        x, center = np.random.default_rng(seed + 1).standard_normal((2, N))
        direction, _ = newton_step(SADDLE_FREE, False)(x, matrix, center)
        absolute = (q * np.abs(eigenvalues)) @ q.T
        g = matrix @ (x - center)
        np.testing.assert_allclose(direction, np.linalg.solve(absolute, g), rtol=0, atol=1e-11)
        assert g @ direction > 0

    def test_given_hessian_in_every_form(self):
        """As a matrix, as the tree that `jax.hessian` gives, and as the objective: all the same."""
        matrix, _, _ = symmetric(0)
        params = {"a": jnp.array(1.0), "b": [jnp.arange(4.0).reshape(2, 2), jnp.array([-1.0])]}

        def flat(p):
            return jnp.concatenate([p["a"].reshape(1), p["b"][0].reshape(-1), p["b"][1]])

        def loss(p):
            return quadratic(flat(p), matrix, jnp.ones(N)) + jnp.sum(flat(p) ** 4)

        grads, state = jax.jit(jax.grad(loss))(params), DIRECTION.init(params)
        hessian = matrix + np.diag(12 * np.asarray(flat(params)) ** 2)
        expected = np.linalg.solve(hessian, flat(grads))
        skew = np.triu(np.ones((N, N)), 1)
        for extra in (
            {"value_fn": loss},
            {"hessian": hessian},
            {"hessian": jax.jit(jax.hessian(loss))(params)},
            {"hessian": hessian + skew - skew.T},  # made symmetric
            {"hessian": hessian, "value_fn": None},
        ):
            direction, after = jax.jit(lambda g, extra=extra: DIRECTION.update(
                g, state, params, **extra))(grads)  # fmt: skip
            assert jax.tree.structure(direction) == jax.tree.structure(params)
            np.testing.assert_allclose(flat(direction), expected, rtol=1e-12)
            assert after.num_hessians == 1

    def test_given_hessian_of_an_array(self):
        """What `jax.hessian` gives for parameters (2, 3): an array (2, 3, 2, 3)."""
        matrix, _, _ = symmetric(1)
        x = np.arange(6.0).reshape(2, 3)
        direction, _ = DIRECTION.update(x, DIRECTION.init(x), x, hessian=matrix.reshape(2, 3, 2, 3))
        expected = np.linalg.solve(matrix, x.reshape(6)).reshape(2, 3)
        np.testing.assert_allclose(direction, expected, rtol=1e-12)

    @pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
    def test_narrow_dtypes(self, dtype):
        x = jnp.array([3.0, -2.0, 1.0], dtype)
        matrix = np.diag([1.0, 2.0, -4.0])
        direction, _ = DIRECTION.update(x, DIRECTION.init(x), x, hessian=matrix)
        assert direction.dtype == dtype
        np.testing.assert_array_equal(direction.astype(float), [3.0, -1.0, -0.25])

    @pytest.mark.parametrize("tx", [DIRECTION, SADDLE_FREE], ids=["plain", "saddle free"])
    def test_batch(self, tx):
        matrices = np.array([symmetric(seed)[0] for seed in range(4)])
        x, center = np.random.default_rng(0).standard_normal((2, 4, N))
        found, _ = jax.jit(jax.vmap(newton_step(tx, False)))(x, matrices, center)
        for k in range(4):
            alone, _ = newton_step(tx, False)(x[k], matrices[k], center[k])
            np.testing.assert_allclose(found[k], alone, rtol=1e-10, atol=1e-12)

    def test_rejected_point_costs_no_hessian(self):
        loss, count = counted(lambda x: jnp.sum(x**4))
        update = jax.jit(lambda x, state, accept: DIRECTION.update(
            4 * x**3, state, x, value_fn=loss, accept=accept))  # fmt: skip
        x = jnp.array([1.0, 2.0])
        state = DIRECTION.init(x)
        _, state = update(x, state, False)
        assert count() == state.num_hessians == 0
        direction, state = update(x, state, True)
        np.testing.assert_allclose(direction, x / 3, rtol=1e-14)
        assert state.num_hessians == 1
        before = count()
        assert before > 0
        _, state = update(x, state, False)
        assert (count(), state.num_hessians) == (before, 1)

    @pytest.mark.parametrize("tx", [DIRECTION, SADDLE_FREE], ids=["plain", "saddle free"])
    def test_with_a_line_search(self, tx):
        valley = landscapes.rosenbrock(4)
        search = co.with_line_search(tx, unit_step=True)
        start = jnp.array([0.5, 1.0, 0.8, 1.2])
        result = jax.jit(lambda x: co.minimize(valley.fun, x, search, tol=1e-9))(start)
        assert result.status == Status.CONVERGED
        np.testing.assert_allclose(result.params, np.ones(4), rtol=1e-7)
        counted_hessians = optax.tree.get(result.state, "num_hessians")
        assert result.num_steps <= counted_hessians <= result.num_evals


@functools.cache
def damped(saddle_free):
    """The direction, with a traced damping."""

    def direction(damping, matrix, g):
        tx = co.scale_by_newton(damping, saddle_free=saddle_free)
        return tx.update(g, tx.init(g), g, hessian=matrix)[0]

    return jax.jit(direction)


@pytest.mark.parametrize("tx", [DIRECTION, NEWTON], ids=["direction", "newton"])
@pytest.mark.parametrize(
    "hessian",
    [np.eye(4), np.ones(3), np.ones(9), {"a": np.eye(2), "b": np.eye(1)}, [1.0]],
    ids=["larger", "vector", "ravelled", "tree of matrices", "list"],
)
def test_hessian_that_does_not_fit(tx, hessian):
    x = {"a": jnp.ones(2), "b": jnp.ones(1)}
    with pytest.raises(ValueError, match="hessian"):
        jax.eval_shape(lambda: tx.update(x, tx.init(x), x, value=jnp.ones(()), hessian=hessian))


# The method.


def check_run(steps):
    """Anchors change with accepted points alone, never rise, and cost one Hessian each."""
    before, eps = None, np.finfo(steps[0].value.dtype).eps
    for k, step in enumerate(steps, 1):
        trial = step.trial
        assert trial.num_evals == k
        assert np.all(np.isfinite(step.updates))
        if trial.accepted:
            norm = np.max(np.abs(step.grads))
            assert_same_bits(anchor(trial), (step.params, step.value, step.grads, norm))
            if before is not None:
                old = before.trial.anchor_value
                assert step.value <= old + 10 * eps * abs(old)
                assert step.num_hessians == before.num_hessians + 1
        elif before is not None:
            assert_same_bits(anchor(trial), anchor(before.trial))
            assert step.num_hessians - before.num_hessians in (0, 1)
        before = step


VALLEY = landscapes.rosenbrock()
BEALE = landscapes.beale()
HILLS = landscapes.himmelblau()
SADDLE = landscapes.saddle()
every_landscape = pytest.mark.parametrize(
    "landscape", [VALLEY, BEALE, HILLS, SADDLE], ids=lambda landscape: landscape.name
)
CENTER = np.array([1.0, -2.0, 3.0])
CURVATURE = np.array([[2.0, 1.0, 0.0], [1.0, 3.0, 0.5], [0.0, 0.5, 10.0]])


def bowl(x):
    d = x - CENTER.astype(x.dtype)
    return d @ CURVATURE.astype(x.dtype) @ d / 2


def exponential_bowl(x):
    """Minimum 3 at `CENTER`, with the Hessian CURVATURE + I there, and third derivatives."""
    d = x - CENTER.astype(x.dtype)
    return jnp.sum(jnp.exp(d) - d) + bowl(x)


def hilltop(x):
    """A maximum at 0, minima of -1/4 each at ±1/√2."""
    return jnp.sum(x**4 - x**2)


def log_barrier(x):
    """Minimum 3 at 1, of three numbers; NaN for x < 0."""
    return jnp.sum(x - jnp.log(x))


def rough(x):
    """½ x² - ¾ x + |x|^1.5: from 1 Newton's step leads to 0, with a Hessian that is not finite."""
    return jnp.sum(x**2 / 2 - 0.75 * x + jnp.abs(x) ** 1.5)


ROUGH_MINIMUM = ((np.sqrt(1.5**2 + 4 * 0.75) - 1.5) / 2) ** 2  # x + 1.5 √x = 0.75


def two_logistics(x):
    return jnp.sum(jnp.logaddexp(0.0, -x) + jnp.logaddexp(0.0, x - 3))


def linear(x):
    return x[0] + 2 * x[1]


def half_linear(x):
    return x[0] + x[1] ** 2


def inverted_bowl(x):
    return -jnp.sum(x**2)


FUNCTIONS = {  # by how many numbers they take
    1: (rough, two_logistics, hilltop),
    2: (VALLEY.fun, BEALE.fun, HILLS.fun, SADDLE.fun, hilltop, linear, half_linear, inverted_bowl),
    3: (bowl, exponential_bowl, log_barrier, hilltop),
}


def objective(x, index):
    return jax.lax.switch(index, FUNCTIONS[x.size], x)


@functools.partial(jax.jit, static_argnums=0)
def solve(tx, x, index, tol, max_evals):
    return co.minimize(objective, x, tx, args=(index,), tol=tol, max_evals=max_evals)


def solver(fun, tx=NEWTON, tol=1e-5, max_evals=300):
    return lambda x: solve(tx, x, FUNCTIONS[jnp.size(x)].index(fun), tol, max_evals)


@functools.partial(jax.jit, static_argnums=0)
def update(tx, index, grads, state, params, value):
    return tx.update(grads, state, params, value=value, value_fn=lambda x: objective(x, index))


def update_of(tx, fun=None):
    """As of `trials`, but for the functions above."""
    sizes = [n for n in FUNCTIONS if fun in FUNCTIONS[n]]
    if not sizes:
        return trials.update_of(tx, fun)
    return lambda grads, state, params, value: update(
        tx, FUNCTIONS[params.size].index(fun), grads, state, params, value
    )


def run(tx, fun, x0, **options):
    return trials.run(
        tx, fun, x0, update=None if "hessian" in options else update_of(tx, fun), **options
    )


def nearest(x, points):
    return np.min(np.linalg.norm(np.asarray(points) - np.asarray(x), axis=1))


class TestMinima:
    @both_dtypes
    @pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
    def test_quadratic_takes_one_step(self, dtype, scale):
        start = (CENTER + scale * np.array([1.0, -3.0, 2.0])).astype(dtype)
        result = solver(bowl)(start)
        assert (result.status, result.num_evals, result.num_steps) == (Status.CONVERGED, 2, 1)
        eps = np.finfo(dtype).eps
        np.testing.assert_allclose(result.params, CENTER, rtol=0, atol=100 * eps * (scale + 3))

    @both_dtypes
    @every_landscape
    def test_landscapes(self, dtype, landscape):
        """They end CONVERGED at a minimum, in float32, too."""
        result = solver(landscape.fun, tol=1e-5 if dtype is np.float32 else 1e-9)(
            landscape.x0.astype(dtype)
        )
        assert result.status == Status.CONVERGED
        assert result.params.dtype == dtype
        accuracy = 5e-3 if dtype is np.float32 else 1e-6
        assert nearest(result.params, landscape.minimizers) < accuracy
        assert result.num_evals <= 40
        assert optax.tree.get(result.state, "num_hessians") == result.num_steps + 1

    @every_landscape
    @few
    @given(seed=seeds)
    def test_random_starts(self, landscape, seed):
        """CONVERGED means a small gradient and no negative curvature."""
        start = np.random.default_rng(seed).uniform(-4, 4, 2)
        result = solver(landscape.fun, tol=1e-8)(start)
        assert result.value <= landscape.fun(start)
        if result.status == Status.CONVERGED:
            curvatures = np.linalg.eigvalsh(hessian_of(landscape.fun)(result.params))
            assert curvatures[0] >= -1e-6 * abs(curvatures[1])
        elif landscape is not BEALE:  # whose value also falls towards infinity
            raise AssertionError(Status(int(result.status)))

    @few
    @given(seed=seeds)
    def test_every_update(self, seed):
        rng = np.random.default_rng(seed)
        for landscape in (VALLEY, BEALE, HILLS):
            steps = run(NEWTON, landscape.fun, rng.uniform(-3, 3, 2), max_evals=40)
            check_run(steps)

    def test_convergence_is_quadratic(self):
        """e₊ <= C e² with C = ½ sup |f'''| / min λ, here below 1, down to rounding."""
        steps = run(NEWTON, exponential_bowl, CENTER + np.array([0.8, 1.5, -1.0]), max_evals=30)
        check_run(steps)
        points = [step.params for step in steps if step.trial.accepted]
        errors = np.array([np.linalg.norm(x - CENTER) for x in points])
        errors = errors[: np.argmax(errors < 1e-14) + 1] if np.any(errors < 1e-14) else errors
        assert len(errors) >= 5
        assert errors[-1] < 1e-12
        small = errors[-4:]
        assert small[0] < 0.5
        assert np.all(small[1:] <= small[:-1] ** 2 + 1e-15)

    def test_callback(self):
        reports = []
        result = co.minimize(
            exponential_bowl, CENTER + 1, NEWTON, tol=1e-12, callback=reports.append
        )
        jax.effects_barrier()
        assert [int(p.num_evals) for p in reports] == list(range(1, int(result.num_evals) + 1))
        values = [float(p.value) for p in reports]
        assert values == sorted(values, reverse=True)
        np.testing.assert_array_equal(reports[-1].params, result.params)

    def test_complex_parameters(self):
        """Σ w |z - t|² + |z|⁴ is least at z = s t, where w (s - 1) + 2 s³ |t|² = 0."""
        weights, targets = np.array([1.0, 50.0]), np.array([1 + 2j, -0.5 + 1j])

        def fun(z):
            squares = z.real**2 + z.imag**2
            return jnp.sum(weights * jnp.abs(z - targets) ** 2 + squares**2)

        result = jax.jit(lambda z: co.minimize(fun, z, NEWTON, tol=1e-9))(jnp.zeros(2, complex))
        assert result.status == Status.CONVERGED
        for z, w, t in zip(result.params, weights, targets, strict=True):
            roots = np.roots([2 * abs(t) ** 2, 0, w, -w])
            s = roots[np.abs(roots.imag) < 1e-12].real[0]
            np.testing.assert_allclose(z, s * t, rtol=1e-8)

    def test_nested_trees_of_two_dtypes(self):
        """The same minimum as with a vector; each leaf keeps its own dtype."""

        def fun(tree):
            (a,), b = tree["x"], tree["y"]
            return exponential_bowl(jnp.concatenate([a.reshape(1), b.astype(a.dtype)]))

        tree = {"x": [jnp.array(2.0)], "y": jnp.array([-1.0, 2.0], jnp.float32)}
        result = jax.jit(lambda x: co.minimize(fun, x, NEWTON))(tree)
        assert result.status == Status.CONVERGED
        assert jax.tree.structure(result.params) == jax.tree.structure(tree)
        assert result.params["y"].dtype == jnp.float32
        np.testing.assert_allclose(result.params["x"][0], CENTER[0], atol=1e-4)
        np.testing.assert_allclose(result.params["y"], CENTER[1:], atol=1e-4)

    @pytest.mark.parametrize("tree", [jnp.zeros(0), {"a": jnp.zeros((2, 0)), "b": []}, {}], ids=str)
    def test_empty_tree(self, tree):
        def fun(tree):
            return sum((jnp.sum(x) for x in jax.tree.leaves(tree)), jnp.ones(()))

        result = co.minimize(fun, tree, NEWTON)
        assert (result.status, result.num_evals, result.value) == (Status.CONVERGED, 1, 1.0)

    def test_constant_function(self):
        result = co.minimize(lambda x: 0 * jnp.sum(x) + 2, jnp.ones(3), NEWTON)
        assert (result.status, result.num_evals) == (Status.CONVERGED, 1)

    @both_dtypes
    @pytest.mark.parametrize("start", [-20.0, -200.0, -800.0])
    def test_underflown_curvature(self, dtype, start):
        """log(1 + e⁻ˣ) + log(1 + eˣ⁻³) is linear far out, and least at 3/2 by symmetry."""
        result = solver(two_logistics, max_evals=60)(np.full(1, start, dtype))
        assert result.status == Status.CONVERGED
        np.testing.assert_allclose(result.params, 1.5, atol=1e-3)

    @both_dtypes
    def test_unbounded_function(self, dtype):
        """Linear in one coordinate, or with negative curvature: it says so, finite to the end."""
        for fun in (linear, half_linear, inverted_bowl):
            result = solver(fun, max_evals=500)(np.ones(2, dtype))
            assert result.status == Status.UNBOUNDED
            assert np.all(np.isfinite(result.params))
            assert np.isfinite(result.value)
            assert result.value < -1e6


@functools.cache
def hessian_of(fun):
    return jax.jit(jax.hessian(fun))


class TestSaddles:
    @both_dtypes
    @pytest.mark.parametrize("start", [[0.0, 0.0], [1.0, 0.0], [-3.0, 0.0], [0.0, 1e-12]], ids=str)
    def test_saddle_is_left(self, dtype, start):
        result = solver(SADDLE.fun)(np.array(start, dtype))
        assert result.status == Status.CONVERGED
        assert nearest(result.params, SADDLE.minimizers) < 1e-4
        np.testing.assert_allclose(result.value, -1, rtol=1e-6)

    @both_dtypes
    def test_saddle_may_be_the_end(self, dtype):
        for fun in (SADDLE.fun, hilltop):
            result = solver(fun, STAYING)(np.zeros(2, dtype))
            assert (result.status, result.num_evals) == (Status.SADDLE, 1)
            np.testing.assert_array_equal(result.params, np.zeros(2))

    def test_saddle_may_be_the_end_of_a_loop(self):
        """Where no tolerance is, the gradient has to be exactly zero."""
        steps = run(STAYING, SADDLE.fun, np.zeros(2))
        assert len(steps) == 1
        assert steps[0].status == Status.SADDLE
        np.testing.assert_array_equal(steps[0].updates, np.zeros(2))

    def test_minimum_is_no_saddle(self):
        result = solver(bowl, STAYING)(CENTER + 1)
        assert result.status == Status.CONVERGED
        result = solver(bowl, STAYING)(CENTER)
        assert (result.status, result.num_evals) == (Status.CONVERGED, 1)

    @both_dtypes
    @pytest.mark.parametrize("n", [1, 3])
    def test_maximum_is_left(self, dtype, n):
        result = solver(hilltop)(np.zeros(n, dtype))
        assert result.status == Status.CONVERGED
        np.testing.assert_allclose(np.abs(result.params), np.full(n, np.sqrt(0.5)), atol=1e-4)
        np.testing.assert_allclose(result.value, -n / 4, rtol=1e-6)


class TestRejectedTrials:
    @pytest.mark.parametrize("landscape", [VALLEY, HILLS], ids=lambda landscape: landscape.name)
    def test_rejected_trial_costs_no_hessian(self, landscape):
        objective, count = counted(landscape.fun)
        x = jnp.asarray(landscape.x0)
        state, rejected, before, hessians = NEWTON.init(x), 0, 0, 0
        for _ in range(25):
            value, grads = value_and_grad(landscape.fun)(x)
            updates, state = update_of(NEWTON, objective)(grads, state, x, value)
            if co.status(state) != Status.RUNNING:
                break
            if co.accepted(state):
                hessians += 1
                assert count() > before
            else:
                rejected += 1
                assert count() == before
            assert optax.tree.get(state, "num_hessians") == hessians
            before = count()
            x = optax.apply_updates(x, updates)
        assert rejected >= 2

    def test_batch_of_rejected_trials_costs_no_hessian(self):
        objective, count = counted(VALLEY.fun)
        x = jnp.asarray(np.random.default_rng(0).uniform(-2, 2, (3, 2)))
        state = jax.vmap(NEWTON.init)(x)
        update = jax.jit(jax.vmap(lambda g, s, x, v: NEWTON.update(
            g, s, x, value=v, value_fn=objective)))  # fmt: skip
        values, grads = jax.vmap(value_and_grad(VALLEY.fun))(x)
        updates, state = update(grads, state, x, values)
        before = count()
        assert before > 0
        for bad in ([np.inf] * 3, [np.nan] * 3):
            x = optax.apply_updates(x, updates)
            updates, state = update(grads, state, x, jnp.array(bad))
        assert count() == before
        np.testing.assert_array_equal(optax.tree.get(state, "num_hessians"), [1, 1, 1])
        x = optax.apply_updates(x, updates)
        value, grad = value_and_grad(VALLEY.fun)(x[1])
        _, state = update(grads.at[1].set(grad), state, x, jnp.array([np.inf, value, np.inf]))
        np.testing.assert_array_equal(co.accepted(jax.tree.map(lambda x: x, state)), [0, 1, 0])
        np.testing.assert_array_equal(optax.tree.get(state, "num_hessians"), [1, 2, 1])

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("where", ["value", "gradient"])
    def test_nonfinite_trial_shortens_the_step(self, bad, where):
        """Ten times shorter, along some line; and finite numbers only ever after."""

        def evaluate(x, k):
            value, grads = value_and_grad(exponential_bowl)(x)
            if 1 <= k <= 3:
                return (bad, grads) if where == "value" else (-1e9, grads.at[1].set(bad))
            return value, grads

        steps = run(NEWTON, exponential_bowl, CENTER + 1, evaluate=evaluate)
        check_run(steps)
        lengths = [np.linalg.norm(step.params - steps[0].params) for step in steps[1:5]]
        assert not any(step.trial.accepted for step in steps[1:4])
        assert steps[3].num_hessians == 1
        for longer, shorter in itertools.pairwise(lengths):
            assert 0 < shorter <= 0.51 * longer
        np.testing.assert_allclose(steps[-1].trial.anchor_params, CENTER, atol=1e-7)

    def test_edge_of_the_domain(self):
        steps = run(NEWTON, log_barrier, np.array([0.01, 30.0, 1.5]))
        check_run(steps)
        assert not np.all(np.isfinite([step.value for step in steps]))
        np.testing.assert_allclose(steps[-1].trial.anchor_params, np.ones(3), atol=1e-7)
        assert steps[-1].status in (Status.CONVERGED, Status.STALLED)

    @both_dtypes
    def test_nonfinite_hessian_rejects_the_trial(self, dtype):
        """Although the value falls."""
        assert not np.all(np.isfinite(hessian_of(rough)(np.zeros(1, dtype))))
        steps = run(NEWTON, rough, np.ones(1, dtype))
        check_run(steps)
        assert steps[1].params == 0
        assert steps[1].value < steps[0].value
        assert not steps[1].trial.accepted
        accuracy = 100 * np.finfo(dtype).eps
        np.testing.assert_allclose(steps[-1].trial.anchor_params, ROUGH_MINIMUM, rtol=accuracy)
        result = solver(rough)(np.ones(1, dtype))
        assert result.status == Status.CONVERGED

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_given_nonfinite_hessian_rejects_the_trial(self, bad):
        def hessian(x):
            return np.full((2, 2), bad) if abs(x[0]) < 0.3 else scipy.optimize.rosen_hess(x)

        steps = run(NEWTON, VALLEY.fun, VALLEY.x0, hessian=hessian, max_evals=100)
        assert np.all(np.isfinite([step.params for step in steps]))
        accepted = np.array([step.params[0] for step in steps if step.trial.accepted])
        assert np.all(np.abs(accepted) >= 0.3)
        for before, step in itertools.pairwise(steps):
            if not step.trial.accepted:
                assert_same_bits(anchor(step.trial), anchor(before.trial))


class TestEnds:
    @pytest.mark.parametrize(("value", "slope"), [(np.nan, 1.0), (-np.inf, 1.0), (1.0, np.inf)])
    def test_nonfinite_start_fails(self, value, slope):
        x = CENTER + 1
        steps = run(NEWTON, bowl, x, evaluate=lambda x, k: (value, slope * x))
        assert len(steps) == 1
        check_final(steps[0], Status.FAILED, bowl)
        np.testing.assert_array_equal(steps[0].trial.anchor_params, x)

    def test_nonfinite_hessian_at_the_start_fails(self):
        steps = run(NEWTON, rough, np.zeros(1))
        assert len(steps) == 1
        check_final(steps[0], Status.FAILED, rough)
        result = solver(rough)(np.zeros(1))
        assert (result.status, result.num_evals, result.params) == (Status.FAILED, 1, 0.0)

    def test_converged(self):
        step = run(NEWTON, bowl, CENTER)[-1]
        check_final(step, Status.CONVERGED, bowl)

    def test_saddle(self):
        step = run(STAYING, SADDLE.fun, np.zeros(2))[-1]
        check_final(step, Status.SADDLE, SADDLE.fun, STAYING)

    @pytest.mark.parametrize("after", [optax.scale(0.5), optax.clip(1e-3)], ids=["scale", "clip"])
    def test_misplaced(self, after):
        """The first point, and five that are not where they were sent; then back to the first."""
        tx = optax.chain(NEWTON, after)
        steps = run(tx, bowl, CENTER + 1)
        assert len(steps) == 6
        assert steps[-1].status == Status.MISPLACED
        assert steps[-1].num_hessians == 1
        np.testing.assert_array_equal(steps[-1].trial.anchor_params, CENTER + 1)

    @pytest.mark.parametrize("size", [1.0, 1e8])
    def test_all_trials_rejected(self, size):
        """It ends at the anchor, within 80 evaluations."""

        def evaluate(x, k):
            value, grads = value_and_grad(bowl)(x)
            return (value, grads) if k == 0 else (size * (k + 1000), grads)

        steps = run(NEWTON, bowl, CENTER + 1, evaluate=evaluate)
        assert len(steps) < 80
        assert steps[-1].status in (Status.FAILED, Status.STALLED)
        assert steps[-1].num_hessians == 1
        np.testing.assert_array_equal(steps[-1].trial.anchor_params, CENTER + 1)
        np.testing.assert_allclose(steps[-1].params + steps[-1].updates, CENTER + 1, rtol=1e-15)

    @both_dtypes
    @every_landscape
    def test_without_a_tolerance(self, dtype, landscape):
        """It ends at the minimum, to rounding, within 100 evaluations."""
        steps = run(NEWTON, landscape.fun, landscape.x0.astype(dtype), max_evals=100)
        check_run(steps)
        assert steps[-1].status in (Status.CONVERGED, Status.STALLED)
        accuracy = 1e-3 if dtype is np.float32 else 1e-7
        assert nearest(steps[-1].trial.anchor_params, landscape.minimizers) < accuracy


def check_final(step, status, fun, tx=NEWTON):
    """Better values, NaN and other parameters change nothing."""
    assert step.status == status
    np.testing.assert_array_equal(step.updates, np.zeros_like(step.updates))
    x, state = jnp.asarray(step.params), step.state
    update = update_of(tx, fun)
    for value, slope in ((-1.0, 1.0), (np.nan, 1.0), (1.0, np.nan), (1.0, 0.0)):
        value, grads = jnp.asarray(value, x.dtype), slope * jnp.ones_like(x)
        updates, after = update(grads, state, x, value)
        np.testing.assert_array_equal(updates, np.zeros_like(x))
        assert_same_bits(after, state)
    updates, after = update(jnp.ones_like(x), state, x + 1, jnp.ones((), x.dtype))
    np.testing.assert_allclose(updates, -np.ones_like(x), rtol=1e-15)
    assert_same_bits(after, state)


class TestRuns:
    def test_batch_agrees_with_single_runs(self):
        starts = np.random.default_rng(0).uniform(-3, 3, (200, 2))
        together = jax.jit(jax.vmap(lambda x: co.minimize(VALLEY.fun, x, NEWTON, tol=1e-9)))(starts)
        for k, start in enumerate(starts):
            alone = solver(VALLEY.fun, tol=1e-9)(start)
            assert together.status[k] == alone.status == Status.CONVERGED
            np.testing.assert_allclose(together.params[k], alone.params, atol=1e-6)
            np.testing.assert_allclose(together.value[k], alone.value, atol=1e-12)
            np.testing.assert_allclose(together.params[k], np.ones(2), atol=1e-4)

    def test_one_trace_for_a_shape(self):
        traces = []

        @jax.jit
        def update(grads, state, params, value):
            traces.append(params.shape)
            return NEWTON.update(grads, state, params, value=value, value_fn=VALLEY.fun)

        x = jnp.asarray(VALLEY.x0)
        state = NEWTON.init(x)
        for _ in range(10):
            value, grads = value_and_grad(VALLEY.fun)(x)
            updates, state = update(grads, state, x, value)
            x = optax.apply_updates(x, updates)
        assert traces == [(2,)]
        solver(VALLEY.fun)(np.array([1.0, 2.0]))
        size = solve._cache_size()
        solver(VALLEY.fun)(np.array([-3.0, 0.0]))
        assert solve._cache_size() == size

    @pytest.mark.parametrize("nested", [False, True], ids=["matrix", "tree"])
    def test_loop_with_scipys_hessian(self, nested):
        """Given as a matrix, or as the tree of blocks that `jax.hessian` gives."""
        shape = {"a": 0.0, "b": np.zeros(1)}

        def tree(x):
            return {"a": x[0], "b": x[1:]}

        def blocks(h):
            return {"a": {"a": h[0, 0], "b": h[0, 1:]}, "b": {"a": h[1:, 0], "b": h[1:, 1:]}}

        to, hess = (tree, blocks) if nested else (lambda x: x, lambda h: h)
        params = to(jnp.asarray(VALLEY.x0))
        state = NEWTON.init(params)
        expected = run(NEWTON, VALLEY.fun, VALLEY.x0, max_evals=25)
        for step in expected:
            x = np.concatenate([np.atleast_1d(leaf) for leaf in jax.tree.leaves(params)])
            np.testing.assert_allclose(x, step.params, rtol=1e-6, atol=1e-9)
            value, grads = scipy.optimize.rosen(x), scipy.optimize.rosen_der(x)
            hessian = jax.tree.map(jnp.asarray, hess(scipy.optimize.rosen_hess(x)))
            updates, state = update_of(NEWTON, None)(
                to(jnp.asarray(grads)), state, params, jnp.asarray(value), hessian=hessian
            )
            params = optax.apply_updates(params, updates)
        assert jax.tree.structure(params) == jax.tree.structure(shape if nested else 0.0)

    def test_second_run_from_a_state(self):
        """The number of Hessians goes on; that of evaluations starts anew."""
        first = solver(VALLEY.fun, max_evals=5)(VALLEY.x0)
        assert first.status == Status.BUDGET
        hessians = optax.tree.get(first.state, "num_hessians")
        again = jax.jit(lambda x, state: co.minimize(VALLEY.fun, x, NEWTON, tol=1e-9, state=state))
        second = again(first.params, first.state)
        assert second.status == Status.CONVERGED
        np.testing.assert_allclose(second.params, np.ones(2), atol=1e-6)
        more = optax.tree.get(second.state, "num_hessians") - hessians
        assert more == second.num_steps + 1
        third = again(second.params, second.state)
        assert (third.status, third.num_evals) == (Status.CONVERGED, 1)

    def test_other_arguments(self):
        """A start at the solution of a neighbour; a derivative by the implicit function theorem."""

        def fun(x, a):
            return jnp.sum((x - a) ** 2 + 0.1 * x**4)

        def minimum(a):
            return co.minimize(fun, jnp.zeros(2), NEWTON, args=(a,), tol=1e-12).params

        a = jnp.array([1.0, 2.0])
        x, slopes = jax.jit(lambda a: (minimum(a), jax.jacobian(minimum)(a)))(a)
        np.testing.assert_allclose(2 * (x - a) + 0.4 * x**3, 0, atol=1e-10)
        np.testing.assert_allclose(slopes, np.diag(2 / (2 + 1.2 * np.asarray(x) ** 2)), atol=1e-8)


def test_memory():
    """N² numbers and a few times N."""
    n = 100
    state = jax.eval_shape(NEWTON.init, jax.ShapeDtypeStruct((n,), jnp.float32))
    numbers = sum(x.size for x in jax.tree.leaves(state))
    assert n * n <= numbers <= n * n + 6 * n + 50
