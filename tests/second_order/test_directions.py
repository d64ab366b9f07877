"""`scale_by_lbfgs` and `scale_by_bfgs` against the textbook's recursions in NumPy, in float64."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

import cs231n_optax as co

M = 5  # pairs kept, fewer than the streams hold
POINTS = 27  # of a stream: past the 20 steps of the first scale
EPS = np.finfo(np.float64).eps

few = settings(max_examples=8, deadline=None)
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(autouse=True, scope="module")
def _float64():
    with jax.enable_x64(True):
        yield


# The recursions, on real vectors: Nocedal and Wright, algorithm 7.4 and eq. 6.17.


class TwoLoops:
    """L-BFGS, with γ = s·s / s·y in the first 20 steps and s·y / y·y from then on."""

    def __init__(self, memory_size):
        self.memory_size, self.pairs, self.scale, self.points = memory_size, [], 1.0, []

    def hear(self, x, g):
        if self.points:
            s, y = x - self.points[-1][0], g - self.points[-1][1]
            if s @ y > EPS * np.linalg.norm(s) * np.linalg.norm(y):
                self.pairs = [*self.pairs, (s, y)][-self.memory_size :]
                self.scale = s @ s / (s @ y) if len(self.points) <= 20 else s @ y / (y @ y)
        self.points.append((x, g))

    def times(self, q):
        alphas = []
        for s, y in reversed(self.pairs):
            alphas.append(s @ q / (s @ y))
            q = q - alphas[-1] * y
        q = self.scale * q
        for (s, y), alpha in zip(self.pairs, reversed(alphas), strict=True):
            q = q + (alpha - y @ q / (s @ y)) * s
        return q

    def restart(self):
        self.pairs, self.scale = [], 1.0


class DenseBfgs:
    """BFGS with an H that the first pair scales, and the next nine may enlarge."""

    def __init__(self, n, damping=0.0):
        self.inverse, self.damping, self.last, self.num_pairs = np.eye(n), damping, None, 0

    def hear(self, x, g):
        if self.last is not None:
            self.pair(x - self.last[0], g - self.last[1], self.last[1])
        self.last = x, g

    def pair(self, s, y, g_before):
        sy, usual = s @ y, s @ y > EPS * np.linalg.norm(s) * np.linalg.norm(y)
        if usual and self.num_pairs == 0:
            self.inverse = self.inverse * (sy / (y @ y))
        elif usual and self.num_pairs < 10:
            hg = self.inverse @ g_before
            self.inverse = self.inverse * max(1.0, (s @ g_before) ** 2 / (g_before @ hg * sy))
        hy = self.inverse @ y
        if self.damping and sy < self.damping * (y @ hy):
            theta = (1 - self.damping) * (y @ hy) / (y @ hy - sy)
            s = theta * s + (1 - theta) * hy
        elif not usual:
            return
        left = np.eye(len(s)) - np.outer(s, y) / (s @ y)
        self.inverse = left @ self.inverse @ left.T + np.outer(s, s) / (s @ y)
        self.num_pairs += 1

    def times(self, q):
        return self.inverse @ q

    def restart(self):
        self.inverse, self.num_pairs = np.eye(len(self.inverse)), 0


# Streams of points and gradients, and the trees in which they come.


def on_a_quadratic(n, seed):
    """Random points of a convex quadratic of condition at most 100, and its gradients."""
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.standard_normal((n, n)))
    matrix = (q * 10.0 ** rng.uniform(0, 2, n)) @ q.T
    points = rng.standard_normal((POINTS, n))
    return points, points @ matrix


def on_rosenbrock(n, seed):
    """What SciPy's BFGS passes through, from a random start; it may stop early."""
    points = [np.random.default_rng(seed).uniform(-2, 2, n)]
    scipy.optimize.minimize(
        scipy.optimize.rosen, points[0], jac=scipy.optimize.rosen_der, method="BFGS",
        callback=lambda x: points.append(x.copy()), options={"gtol": 1e-3, "maxiter": POINTS - 1},
    )  # fmt: skip
    points = np.array([*points, *[points[-1]] * POINTS][:POINTS])
    return points, np.array([scipy.optimize.rosen_der(x) for x in points])


def of_no_function(n, seed):
    """A quadratic's, but for a third of the gradients, which make s · y negative."""
    points, grads = on_a_quadratic(n, seed)
    rng = np.random.default_rng(seed)
    for k in range(1, POINTS):
        if rng.uniform() < 0.3:
            grads[k] = grads[k - 1] - (points[k] - points[k - 1])
    return points, grads


class Leaf(NamedTuple):
    shape: tuple
    dtype: type = np.float64


def is_leaf(node):
    return isinstance(node, Leaf)


def leaves_of(tree):
    return jax.tree.leaves(tree, is_leaf=is_leaf)


def pack(vectors, tree):
    """Vectors (k, n) of real numbers as a tree of (k, *shape); real parts before imaginary ones."""
    position = 0

    def leaf(spec):
        nonlocal position
        size = int(np.prod(spec.shape))
        real = vectors[:, position : (position := position + size)]
        if spec.dtype is np.complex128:
            real = real + 1j * vectors[:, position : (position := position + size)]
        return real.reshape(-1, *spec.shape)

    return jax.tree.map(leaf, tree, is_leaf=is_leaf)


def unpack(tree):
    """The inverse of `pack`."""
    parts = []
    for x in map(np.asarray, jax.tree.leaves(tree)):
        parts += [x.real, x.imag] if np.iscomplexobj(x) else [x]
    return np.concatenate([x.reshape(len(x), -1) for x in parts], axis=1)


def count(tree):
    return sum(
        int(np.prod(x.shape)) * (2 if x.dtype is np.complex128 else 1) for x in leaves_of(tree)
    )


TREES = {
    "3": Leaf((3,)),
    "3 nested": {"w": Leaf((2,)), "b": Leaf(())},
    "3 complex": Leaf((3,), np.complex128),
    "30": Leaf((30,)),
    "30 nested": [{"w": Leaf((4, 6)), "b": Leaf(())}, (Leaf((5,)),)],
    "30 complex": {"z": Leaf((2, 5), np.complex128), "x": Leaf((20,))},
}
every_tree = pytest.mark.parametrize("name", TREES)
streams = st.sampled_from([on_a_quadratic, on_rosenbrock, of_no_function])

LBFGS = co.scale_by_lbfgs(M)
BFGS = co.scale_by_bfgs()
DAMPED = co.scale_by_bfgs(damping=0.2)


@functools.partial(jax.jit, static_argnums=0)
def directions(tx, points, grads, restarts):
    """The directions and states of a run through a stream."""

    def step(state, inputs):
        x, g, restart = inputs
        direction, new = tx.update(g, state, x)
        steepest, new = tx.update(g, new, x, accept=False, restart=restart)
        direction = jax.tree.map(lambda a, b: jnp.where(restart, a, b), steepest, direction)
        return new, (direction, new)

    start = tx.init(jax.tree.map(lambda x: x[0], points))
    return jax.lax.scan(step, start, (points, grads, restarts))[1]


def assert_close(actual, expected, rtol=1e-10):
    for x, y in zip(actual, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=rtol * np.max(np.abs(y)))


NEVER = np.zeros(POINTS, bool)


def expected_directions(reference, points, grads, restarts=NEVER):
    out = []
    for x, g, restart in zip(points, grads, restarts, strict=True):
        reference.hear(x, g)
        if restart:
            reference.restart()
        out.append(reference.times(g))
    return np.array(out)


@every_tree
class TestLbfgs:
    @few
    @given(seed=seeds, stream=streams)
    def test_is_the_two_loop_recursion(self, name, seed, stream):
        """The ring wraps five times, and pairs with s · y < 0 are as if they had never been."""
        points, grads = stream(count(TREES[name]), seed)
        found, _ = directions(LBFGS, pack(points, TREES[name]), pack(grads, TREES[name]), NEVER)
        assert jax.tree.structure(found) == jax.tree.structure(pack(grads, TREES[name]))
        assert_close(unpack(found), expected_directions(TwoLoops(M), points, grads))

    @few
    @given(seed=seeds, at=st.integers(0, POINTS - 1))
    def test_a_restart_forgets_the_pairs(self, name, seed, at):
        points, grads = on_a_quadratic(count(TREES[name]), seed)
        restarts = np.arange(POINTS) == at
        found, _ = directions(LBFGS, pack(points, TREES[name]), pack(grads, TREES[name]), restarts)
        found = unpack(found)
        np.testing.assert_allclose(found[at], grads[at], rtol=1e-14)
        assert_close(found, expected_directions(TwoLoops(M), points, grads, restarts))


BFGS_TREES = ("3", "3 complex", "30 nested", "30 complex")


@pytest.mark.parametrize("name", BFGS_TREES)
class TestBfgs:
    @few
    @given(seed=seeds, stream=streams, at=st.integers(0, 2 * POINTS))
    def test_is_the_dense_recursion(self, name, seed, stream, at):
        points, grads = stream(count(TREES[name]), seed)
        restarts = np.arange(POINTS) == at
        found, states = directions(
            BFGS, pack(points, TREES[name]), pack(grads, TREES[name]), restarts
        )
        reference = DenseBfgs(count(TREES[name]))
        expected = expected_directions(reference, points, grads, restarts)
        assert_close(unpack(found), expected, rtol=1e-8)
        inverse = states.inverse_hessian[-1]
        assert_close([inverse], [reference.inverse], rtol=1e-8)

    @few
    @given(seed=seeds, stream=streams)
    def test_secant_equation_and_positive_definiteness(self, name, seed, stream):
        """After each update H y = s, and H is symmetric with positive eigenvalues."""
        points, grads = stream(count(TREES[name]), seed)
        _, states = directions(BFGS, pack(points, TREES[name]), pack(grads, TREES[name]), NEVER)
        inverses = np.asarray(states.inverse_hessian)
        asymmetry = np.abs(inverses - np.swapaxes(inverses, 1, 2)).max((1, 2))
        largest = np.maximum.accumulate(np.abs(inverses).max((1, 2)))  # which left its rounding
        assert np.all(asymmetry <= 1e-14 * largest)
        eigenvalues = np.linalg.eigvalsh(inverses)
        assert np.all(eigenvalues > -1e-14 * eigenvalues[:, -1:])
        for k in range(1, POINTS):
            s, y = points[k] - points[k - 1], grads[k] - grads[k - 1]
            if s @ y > EPS * np.linalg.norm(s) * np.linalg.norm(y):
                rounding = np.linalg.norm(inverses[k], 2) * np.linalg.norm(y)
                assert np.linalg.norm(inverses[k] @ y - s) <= 1e-9 * rounding
            else:
                np.testing.assert_array_equal(inverses[k], inverses[k - 1])


@few
@given(seed=seeds)
def test_damping_keeps_every_pair(seed):
    """With s · y < 0 in a third of the pairs: y · H y = μ times what it was, and H is definite."""
    points, grads = of_no_function(3, seed)
    _, states = directions(DAMPED, points, grads, NEVER)
    inverses = np.asarray(states.inverse_hessian)
    assert np.all(np.linalg.eigvalsh(inverses)[:, 0] > 0)
    reference = DenseBfgs(3, damping=0.2)
    damped = 0
    for k in range(POINTS):
        before = reference.inverse
        reference.hear(points[k], grads[k])
        assert_close([inverses[k]], [reference.inverse], rtol=1e-7)
        s, y = points[k] - points[k - 1], grads[k] - grads[k - 1]
        if k and s @ y <= 0:
            damped += 1
            np.testing.assert_allclose(y @ inverses[k] @ y, 0.2 * (y @ before @ y), rtol=1e-6)
    assert states.pairs[-1] == POINTS - 1
    assert damped == np.sum(np.sum(np.diff(points, axis=0) * np.diff(grads, axis=0), 1) <= 0)


# What the two promise alike.

SIX = 6


@functools.cache
def update_of(tx):
    return jax.jit(tx.update)


@pytest.mark.parametrize("tx", [LBFGS, BFGS, DAMPED], ids=["lbfgs", "bfgs", "damped"])
@pytest.mark.parametrize("name", ["3 nested", "30 nested"])
def test_a_point_that_is_not_accepted_leaves_the_state_as_it_is(tx, name):
    points, grads = on_a_quadratic(count(TREES[name]), 0)
    points, grads = pack(points, TREES[name]), pack(grads, TREES[name])
    state = tx.init(jax.tree.map(lambda x: x[0], points))
    for k in range(4):
        x, g = (jax.tree.map(lambda x, k=k: x[k], tree) for tree in (points, grads))
        for value in (g, jax.tree.map(lambda x: x * np.nan, g)):
            _, after = update_of(tx)(value, state, x, accept=False)
            for one, other in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True):
                np.testing.assert_array_equal(one, other)
        _, state = update_of(tx)(g, state, x, accept=True)


@pytest.mark.parametrize(
    ("tx", "n"),
    [(co.scale_by_lbfgs(SIX), SIX), (co.scale_by_lbfgs(2 * SIX), 2 * SIX), (BFGS, SIX), (BFGS, 12)],
    ids=["lbfgs 6", "lbfgs 12", "bfgs 6", "bfgs 12"],
)
@few
@given(seed=seeds)
def test_a_quadratic_is_minimised_in_n_exact_steps(tx, n, seed):
    """Their directions are conjugate, whatever scales H (Nocedal and Wright, theorem 6.4)."""
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.standard_normal((n, n)))
    matrix = (q * np.linspace(1, 30, n)) @ q.T
    x = rng.standard_normal(n)
    state = tx.init(jnp.asarray(x))
    norms = []
    for _ in range(n + 1):
        g = matrix @ x
        norms.append(np.linalg.norm(g))
        direction, state = update_of(tx)(jnp.asarray(g), state, jnp.asarray(x))
        d = np.asarray(direction)
        x = x - (g @ d) / (d @ matrix @ d) * d
    assert norms[n] <= 1e-9 * norms[0]
    assert norms[n - 1] > 1e-6 * norms[0]  # it needs them all


def test_memory_of_lbfgs():
    """(2 m + 5) N numbers, the small matrices of the pairs, and a few scalars."""
    n, m = 1000, 10
    state = jax.eval_shape(co.lbfgs(m).init, jax.ShapeDtypeStruct((n,), jnp.float32))
    numbers = sum(x.size for x in jax.tree.leaves(state))
    assert numbers <= (2 * m + 5) * n + m * m + 2 * m + 50
    assert {x.dtype.itemsize for x in jax.tree.leaves(state)} <= {1, 4}


def test_memory_of_bfgs_is_asked_about_first():
    params = jax.ShapeDtypeStruct((200_000,), jnp.float32)
    for tx in (BFGS, co.bfgs()):
        with pytest.raises(ValueError, match=r"200000 x 200000 .* 160,000,000,000 bytes.*lbfgs"):
            jax.eval_shape(tx.init, params)


@pytest.mark.parametrize(
    ("make", "name", "value", "error"),
    [
        (co.scale_by_lbfgs, "memory_size", 0, ValueError),
        (co.lbfgs, "memory_size", -1, ValueError),
        (co.scale_by_lbfgs, "memory_size", 2.5, TypeError),
        (co.scale_by_lbfgs, "memory_size", True, TypeError),
        (co.scale_by_bfgs, "damping", 1.0, ValueError),
        (co.bfgs, "damping", -0.1, ValueError),
        (co.bfgs, "damping", "none", TypeError),
    ],
)
def test_argument_errors(make, name, value, error):
    with pytest.raises(error, match=f"{name} must be .*{value}"):
        make(**{name: value})


@pytest.mark.parametrize("tx", [LBFGS, BFGS], ids=["lbfgs", "bfgs"])
def test_what_they_need(tx):
    x = jnp.ones(3)
    with pytest.raises(ValueError, match=r"update\(grads, state, params\)"):
        tx.update(x, tx.init(x))
    with pytest.raises(TypeError, match="every parameter must be a floating or complex array"):
        tx.init(jnp.arange(3))
