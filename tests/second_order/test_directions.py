"""`scale_by_lbfgs` and `scale_by_bfgs` against the textbook's recursions in NumPy, in float64.

The scale of H₀ and its growth in the first updates are our own: here they are given, and tested
on their own in cases that can be worked out by hand.
"""

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
NEVER = np.zeros(POINTS, bool)
EPS = np.finfo(np.float64).eps

few = settings(max_examples=8, deadline=None)
seeds = st.integers(0, 2**32 - 1)


pytestmark = pytest.mark.usefixtures("x64")


# The textbook's rules, on real vectors: Nocedal and Wright, chapters 6, 7 and 18.


def is_curved(s, y):
    """Whether a pair keeps H positive definite, to rounding."""
    return s @ y > EPS * np.linalg.norm(s) * np.linalg.norm(y)


def two_loops(pairs, gamma, q):
    """H q by algorithm 7.4, with H₀ = γ I and the pairs (s, y) from the oldest to the newest."""
    alphas = []
    for s, y in reversed(pairs):
        alphas.append(s @ q / (s @ y))
        q = q - alphas[-1] * y
    q = gamma * q
    for (s, y), alpha in zip(pairs, reversed(alphas), strict=True):
        q = q + (alpha - y @ q / (s @ y)) * s
    return q


def bfgs_update(inverse, s, y):
    """Eq. 6.17."""
    left = np.eye(len(s)) - np.outer(s, y) / (s @ y)
    return left @ inverse @ left.T + np.outer(s, s) / (s @ y)


def damped_step(inverse, s, y, damping):
    """Powell's damping, procedure 18.2, of s and H in place of y and B."""
    yhy = y @ inverse @ y
    if s @ y >= damping * yhy:
        return s
    theta = (1 - damping) * yhy / (yhy - s @ y)
    return theta * s + (1 - theta) * inverse @ y


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


def run_through(tx, stream, name, seed, restart_at=None):
    """The points and gradients of a stream as vectors, and the run's directions and states."""
    points, grads = stream(count(TREES[name]), seed)
    restarts = np.arange(POINTS) == restart_at
    found, states = directions(tx, pack(points, TREES[name]), pack(grads, TREES[name]), restarts)
    assert jax.tree.structure(found) == jax.tree.structure(pack(grads, TREES[name]))
    return points, grads, unpack(found), states


def assert_close(actual, expected, rtol):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=rtol * np.max(np.abs(expected)))


restart_positions = st.integers(0, 2 * POINTS)  # the later half of which never comes


class TestLbfgs:
    @every_tree
    @few
    @given(seed=seeds, stream=streams, restart_at=restart_positions)
    def test_direction_is_the_two_loop_recursion(self, name, seed, stream, restart_at):
        """The ring wraps five times, pairs with s · y < 0 are left out, a restart forgets all."""
        points, grads, found, states = run_through(LBFGS, stream, name, seed, restart_at)
        pairs = []
        for k in range(POINTS):
            if k:
                s, y = points[k] - points[k - 1], grads[k] - grads[k - 1]
                pairs = [*pairs, (s, y)][-M:] if is_curved(s, y) else pairs
            if k == restart_at:
                pairs = []
                np.testing.assert_allclose(found[k], grads[k], rtol=1e-14)
            assert_close(found[k], two_loops(pairs, states.scale[k], grads[k]), rtol=1e-10)

    @pytest.mark.parametrize("name", ["3 nested", "3 complex", "30 complex"])
    @pytest.mark.parametrize("restart_at", [None, 3, 12])
    def test_pairs_are_those_of_the_stream(self, name, restart_at):
        """The oldest first, without those with s · y < 0, and none from before a restart."""
        points, grads, _, states = run_through(LBFGS, of_no_function, name, 0, restart_at)
        read = jax.jit(jax.vmap(co.lbfgs_pairs))(states)
        pairs, most = [], 0
        for k in range(POINTS):
            if k:
                s, y = points[k] - points[k - 1], grads[k] - grads[k - 1]
                pairs = [*pairs, (s, y)][-M:] if is_curved(s, y) else pairs
            if k == restart_at:
                pairs = []
            here = jax.tree.map(lambda x, k=k: x[k], read)
            assert here.num == len(pairs)
            most = max(most, len(pairs))
            for rows, i in ((here.s, 0), (here.y, 1)):
                expected = np.zeros((M, len(points[0])))
                for row, pair in enumerate(pairs):
                    expected[row] = pair[i]
                np.testing.assert_allclose(unpack(rows), expected, rtol=1e-12)
        assert most == M

    def test_pairs_of_a_run_hold_its_curvature(self):
        """On a quadratic y = A s, wherever the state is."""
        matrix = jnp.diag(jnp.arange(1.0, 13.0)).at[0, 1].set(0.5).at[1, 0].set(0.5)
        result = co.minimize(lambda x: x @ matrix @ x / 2, jnp.ones(12), co.lbfgs(4))
        pairs = co.lbfgs_pairs({"state": [result.state]})
        assert pairs.s.shape == pairs.y.shape == (4, 12)
        assert pairs.num == 4
        np.testing.assert_allclose(pairs.y, pairs.s @ matrix, rtol=1e-6, atol=1e-12)

    def test_scale_is_the_long_barzilai_borwein_step_and_later_the_short_one(self):
        """With the curvatures 1 and 4 and the step (1, 1), s·s / s·y = 2/5 and s·y / y·y = 5/17."""
        points = np.arange(POINTS)[:, None] * np.ones(2)
        _, states = directions(LBFGS, points, points * [1, 4], NEVER)
        np.testing.assert_allclose(states.scale[0], 1)
        np.testing.assert_allclose(states.scale[1:21], 2 / 5)
        np.testing.assert_allclose(states.scale[21:], 5 / 17)
        _, states = directions(LBFGS, points, points * [1, 4], np.arange(POINTS) == 5)
        np.testing.assert_allclose(states.scale[4:7], [2 / 5, 1, 2 / 5])


bfgs_trees = pytest.mark.parametrize("name", ["3", "3 complex", "30 nested", "30 complex"])


class TestBfgs:
    @bfgs_trees
    @few
    @given(seed=seeds, stream=streams, restart_at=restart_positions)
    def test_inverse_is_updated_by_the_textbook(self, name, seed, stream, restart_at):
        """Eq. 6.17 of the last H or, in the first ten updates, of a multiple of it."""
        points, grads, found, states = run_through(BFGS, stream, name, seed, restart_at)
        inverses, num_pairs = np.asarray(states.inverse_hessian), np.asarray(states.num_updates)
        rng = np.random.default_rng(seed)
        for k in range(POINTS):
            assert_close(found[k], inverses[k] @ grads[k], rtol=1e-8)
            if k in (0, restart_at):
                np.testing.assert_array_equal(inverses[k], np.eye(len(points[0])))
                assert num_pairs[k] == 0
                continue
            before, s, y = inverses[k - 1], points[k] - points[k - 1], grads[k] - grads[k - 1]
            if not is_curved(s, y):
                np.testing.assert_array_equal(inverses[k], before)
                continue
            if num_pairs[k - 1] == 0:
                scale = s @ y / (y @ y)  # eq. 6.20
            elif num_pairs[k - 1] < 10:
                v = rng.standard_normal(len(s))
                v -= s @ v / (s @ s) * s  # v·Hv stays as it is by eq. 6.17
                scale = (v @ inverses[k] @ v) / (v @ before @ v)
                assert scale >= 1 - 1e-8
            else:
                scale = 1
            assert_close(inverses[k], bfgs_update(scale * before, s, y), rtol=1e-8)
            rounding = np.linalg.norm(inverses[k], 2) * np.linalg.norm(y)
            assert np.linalg.norm(inverses[k] @ y - s) <= 1e-9 * rounding

    @bfgs_trees
    @few
    @given(seed=seeds, stream=streams)
    def test_inverse_is_symmetric_and_positive_definite(self, name, seed, stream):
        *_, states = run_through(BFGS, stream, name, seed)
        inverses = np.asarray(states.inverse_hessian)
        asymmetry = np.abs(inverses - np.swapaxes(inverses, 1, 2)).max((1, 2))
        largest = np.maximum.accumulate(np.abs(inverses).max((1, 2)))  # which left its rounding
        assert np.all(asymmetry <= 1e-14 * largest)
        eigenvalues = np.linalg.eigvalsh(inverses)
        assert np.all(eigenvalues > -1e-14 * eigenvalues[:, -1:])

    @pytest.mark.parametrize(("curvature", "growth"), [(1.0, 4.0), (16.0, 1.0)])
    def test_inverse_grows_where_it_underrates_the_step(self, curvature, growth):
        """After a step along the first axis, of curvature 4, H = I / 4; then one along the second.

        There g = (0, c) before the step, so (s·g)² / (g·Hg s·y) = 4 / c.
        """
        points = np.array([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
        grads = np.array([[4.0, curvature], [0.0, curvature], [0.0, 0.0]])
        state = BFGS.init(jnp.zeros(2))
        for x, g in zip(points, grads, strict=True):
            _, state = update_of(BFGS)(jnp.asarray(g), state, jnp.asarray(x))
        np.testing.assert_allclose(
            state.inverse_hessian, np.diag([growth / 4, 1 / curvature]), atol=1e-15
        )

    @few
    @given(seed=seeds)
    def test_damping_keeps_every_pair(self, seed):
        """With s · y < 0 in a third of the pairs: y · H y = μ times what it was, H is definite."""
        points, grads, _, states = run_through(DAMPED, of_no_function, "3", seed)
        inverses = np.asarray(states.inverse_hessian)
        assert np.all(np.linalg.eigvalsh(inverses)[:, 0] > 0)
        for k in range(1, POINTS):
            before, s, y = inverses[k - 1], points[k] - points[k - 1], grads[k] - grads[k - 1]
            if s @ y <= 0 or k > 10:  # H is not multiplied by anything
                expected = bfgs_update(before, damped_step(before, s, y, 0.2), y)
                assert_close(inverses[k], expected, rtol=1e-7)
            if s @ y <= 0:
                np.testing.assert_allclose(y @ inverses[k] @ y, 0.2 * (y @ before @ y), rtol=1e-6)
        assert states.num_updates[-1] == POINTS - 1


# What the two promise alike.

SIX = 6


@functools.cache
def update_of(tx):
    return jax.jit(tx.update)


@pytest.mark.parametrize("tx", [LBFGS, BFGS, DAMPED], ids=["lbfgs", "bfgs", "damped"])
@pytest.mark.parametrize("name", ["3 nested", "30 nested"])
def test_rejected_point_leaves_the_state_as_it_is(tx, name):
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


def conjugate_gradients(matrix, x):
    """The first n points of the method (Nocedal and Wright, algorithm 5.2) for x·A x / 2."""
    points, residual = [], matrix @ x
    p = -residual
    for _ in range(len(x)):
        points.append(x)
        step = residual @ residual / (p @ matrix @ p)
        x = x + step * p
        new = residual + step * (matrix @ p)
        p = -new + new @ new / (residual @ residual) * p
        residual = new
    return points


@pytest.mark.parametrize(
    ("tx", "n"),
    [(co.scale_by_lbfgs(SIX), SIX), (co.scale_by_lbfgs(2 * SIX), 2 * SIX), (BFGS, SIX), (BFGS, 12)],
    ids=["lbfgs 6", "lbfgs 12", "bfgs 6", "bfgs 12"],
)
@few
@given(seed=seeds)
def test_quadratic_is_minimised_in_n_exact_steps(tx, n, seed):
    """By the points of conjugate gradients, whatever scales H (Nocedal and Wright, theorem 6.4)."""
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.standard_normal((n, n)))
    matrix = (q * np.linspace(1, 30, n)) @ q.T
    x = rng.standard_normal(n)
    points = conjugate_gradients(matrix, x)
    state = tx.init(jnp.asarray(x))
    first = np.linalg.norm(matrix @ x)
    for point in points:
        np.testing.assert_allclose(x, point, rtol=0, atol=1e-12 * first)
        g = matrix @ x
        direction, state = update_of(tx)(jnp.asarray(g), state, jnp.asarray(x))
        d = np.asarray(direction)
        x = x - (g @ d) / (d @ matrix @ d) * d
    assert np.linalg.norm(matrix @ x) <= 1e-12 * first


def test_memory_of_lbfgs():
    """(2 m + 5) N numbers, the small matrices of the pairs, and a few scalars."""
    n, m = 1000, 10
    state = jax.eval_shape(co.lbfgs(m).init, jax.ShapeDtypeStruct((n,), jnp.float32))
    numbers = sum(x.size for x in jax.tree.leaves(state))
    assert numbers <= (2 * m + 5) * n + m * m + 2 * m + 50
    assert {x.dtype.itemsize for x in jax.tree.leaves(state)} <= {1, 4}
