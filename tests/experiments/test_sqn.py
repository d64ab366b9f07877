"""`sqn` against a transcription in NumPy, and what it promises of pairs, batches and bad losses."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cs231n_optax
from cs231n_optax import testing
from cs231n_optax.experiments.minibatch.sqn import (
    ScaleBySqnState,
    scale_by_sqn,
    sqn,
    with_curvature_pairs,
)

# A transcription of the method.


class Reference:
    """Byrd et al.'s method over Adam's diagonal, by dense matrices: H is formed."""

    def __init__(self, x, learning_rate, memory_size, every):
        self.x, self.learning_rate, self.memory_size, self.every = (
            x,
            learning_rate,
            memory_size,
            every,
        )
        self.m = self.s = np.zeros_like(x)
        self.mean, self.last_mean = x.copy(), None
        self.t, self.pairs = 0, []
        self.events = {"damped": 0, "refused": 0, "kept": 0, "cut": 0}

    def inverse(self, diagonal):
        """The BFGS inverse by its update (Nocedal and Wright, eq. 6.17)."""
        h = np.diag(1 / diagonal)
        for u, y in self.pairs:
            v = np.eye(len(u)) - np.outer(y, u) / (u @ y)
            h = v.T @ h @ v + np.outer(u, u) / (u @ y)
        return h

    def add_pair(self, u, y, diagonal):
        curvature = u @ (diagonal * u)
        if u @ y < 0.1 * curvature:
            theta = 0.9 * curvature / (curvature - u @ y)
            y = theta * y + (1 - theta) * diagonal * u
            np.testing.assert_allclose(u @ y, 0.1 * curvature)
            self.events["damped"] += 1
        if y @ (y / diagonal) <= 20 * (u @ y):
            self.pairs = [*self.pairs, (u, y)][-self.memory_size :]
            self.events["kept"] += 1
        else:
            self.events["refused"] += 1

    def step(self, gradient):
        """One step, with ``gradient(x)`` on its batch; returns the number of evaluations."""
        self.t += 1
        g = gradient(self.x)
        self.mean = 0.9 * self.mean + 0.1 * self.x
        self.m = 0.9 * self.m + 0.1 * g
        self.s = 0.999 * self.s + 0.001 * g**2
        m_hat, s_hat = self.m / (1 - 0.9**self.t), self.s / (1 - 0.999**self.t)
        diagonal = np.sqrt(s_hat) + 1e-7
        num_evals = 1
        if self.t % self.every == 0:
            if self.last_mean is not None:
                u = self.mean - self.last_mean
                self.add_pair(u, gradient(self.x + u) - g, diagonal)
                num_evals = 2
            self.last_mean = self.mean
        p = self.inverse(diagonal) @ m_hat
        longest = 5 * np.sqrt(m_hat @ (m_hat / diagonal))
        if np.sqrt(p @ (diagonal * p)) > longest:
            p = p * longest / np.sqrt(p @ (diagonal * p))
            self.events["cut"] += 1
        self.x = self.x - self.learning_rate * p
        return num_evals


def batch_gradient(seed, noise):
    """``gradient(k)(x)`` of batch k of a least-squares problem: A x - b, both with noise."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    a, b = basis * 10.0 ** np.linspace(-2, 1, 6) @ basis.T, rng.normal(size=6)
    a_noise, b_noise = noise * rng.normal(size=(100, 6, 6)), noise * rng.normal(size=(100, 6))
    return lambda k: lambda x: (a + a_noise[k]) @ x - b - b_noise[k]


@pytest.mark.usefixtures("x64")
def test_iterates_are_the_papers():
    """60 steps: every point, which of them are evaluated, and every way that a pair may go."""
    happened = dict.fromkeys(("damped", "refused", "kept", "cut"), 0)
    tx = sqn(0.05, memory_size=3, every=4)
    update = jax.jit(tx.update)
    for seed, noise in ((0, 0.0), (1, 0.05), (2, 0.5), (3, 2.0), (4, None)):
        # The last starts where the gradient is small, and the curvature large beside it.
        gradient = batch_gradient(seed, noise or 0.0)
        x0 = np.random.default_rng(seed).normal(size=6)
        if noise is None:
            a = np.stack([gradient(0)(e) - gradient(0)(0 * e) for e in np.eye(6)], axis=1)
            x0 = 0.01 * x0 - np.linalg.solve(a, gradient(0)(np.zeros(6)))
        reference = Reference(x0, learning_rate=0.05, memory_size=3, every=4)
        params, state = jnp.asarray(x0), tx.init(jnp.asarray(x0))
        for k in range(60):
            for i in range(evaluations := reference.step(gradient(k))):
                grads = jnp.asarray(gradient(k)(np.asarray(params)))
                updates, state = update(grads, state, params, value=jnp.ones(()))
                assert cs231n_optax.accepted(state) == (i == evaluations - 1)
                params = optax.apply_updates(params, updates)
            np.testing.assert_allclose(params, reference.x, rtol=1e-9, atol=1e-9)
        happened = {name: happened[name] + n for name, n in reference.events.items()}
    assert all(happened.values())
    assert happened["kept"] > 4 * 3  # the ring is written over


# Without a pair.


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
def test_without_a_pair_it_is_adam_bit_for_bit(dtype, compiled):
    if compiled and jax.__version_info__ < (0, 12):
        pytest.skip("XLA ignores a barrier, and rounds products and sums as its fusions have it")
    jit = jax.jit if compiled else lambda f: f
    with jax.enable_x64(dtype == "float64"):
        params = jax.tree.map(lambda x: x.astype(dtype), testing.default_params())

        @jax.jit
        def evaluate(params):
            value, grads = jax.value_and_grad(testing.default_loss)(params)
            return value, jax.tree.map(jnp.conj, grads)

        def updates_of(tx, params):
            state, update = tx.init(params), jit(tx.update)
            for _ in range(19):  # the first probe comes after the 20th evaluation
                value, grads = evaluate(params)
                updates, state = update(grads, state, params, value=value)
                params = optax.apply_updates(params, updates)
                yield updates

        ours = updates_of(sqn(0.03, 0.8, 0.99, 1e-6), params)
        for expected in updates_of(cs231n_optax.adam(0.03, 0.8, 0.99, 1e-6), params):
            chex.assert_trees_all_equal(next(ours), expected)


def test_alone_it_is_adams_direction():
    """In a chain without `with_curvature_pairs`, no one hands it pairs."""
    x = jnp.array([1.0, -2.0])
    ours, adams = scale_by_sqn(), cs231n_optax.scale_by_adam()
    updates, _ = jax.jit(ours.update)(x, ours.init(x))
    chex.assert_trees_all_equal(updates, jax.jit(adams.update)(x, adams.init(x))[0])


# The direction, by hand.


def test_a_direction_of_one_pair():
    """H₀ = I at the first step of gradients ±1. In the direction of u, H is 1 / curvature."""
    grads = jnp.array([1.0, 1.0, -1.0])
    tx = scale_by_sqn(eps=1e-30)
    update = jax.jit(tx.update)
    for curvature, expected in ((4.0, 0.25), (0.5, 2.0), (0.01, 10.0), (19.0, 1 / 19), (21.0, 1.0)):
        u = jnp.array([0.5, 0.0, 0.0])
        direction, state = update(grads, tx.init(grads), displacement=u, grad_change=curvature * u)
        expected = np.array([expected, 1, -1])
        # Damped to a curvature of 1/10, it is 10 times as long, and cut to √3 · 5.
        expected = expected * min(1, 5 * np.sqrt(3) / np.linalg.norm(expected))
        np.testing.assert_allclose(direction, expected, rtol=1e-5)
        assert bool(jnp.any(state.pairs.uy > 0)) == (curvature < 20)


# Batches, losses that are not finite, and states.


def quadratic(params, batch):
    return jnp.mean((batch @ params - 1) ** 2)


DATA = jax.random.normal(jax.random.key(0), (96, 4))


def test_evaluations_a_step():
    """1 + 1 / every, from the first probe on, after two cycles; `fit` keeps the batch for it."""
    steps = 200

    @jax.jit
    def run(every):
        tx = sqn(0.01, every=every)
        return cs231n_optax.fit(
            quadratic, jnp.zeros(4), tx, DATA, steps=steps, batch_size=8, key=jax.random.key(0)
        ).state

    for every in (4, 10):
        state = run(every)
        batches = int(state.batch)
        assert steps - batches == batches // every - 1
        assert state.opt_state.inner[0].adam.count == batches  # it and a schedule count the steps


def test_both_gradients_are_of_one_batch():
    """With a batch that changes its sign, y would be far from H u otherwise."""
    tx = sqn(0.01, every=3)
    evaluate, update = jax.jit(jax.value_and_grad(quadratic)), jax.jit(tx.update)
    params, k = jnp.zeros(4), 0
    state = tx.init(params)
    for _ in range(24):
        batch = DATA[8 * k : 8 * k + 8]
        value, grads = evaluate(params, batch)
        before, state = state, update(grads, state, params, value=value)
        updates, state = state
        if before.is_probe:
            slot = int(before.inner[0].pairs.slot)
            u, y = (rows[slot] for rows in state.inner[0].pairs[:2])
            np.testing.assert_allclose(y, 2 / 8 * batch.T @ (batch @ u), rtol=1e-3, atol=1e-5)
        params = optax.apply_updates(params, updates)
        k += int(cs231n_optax.accepted(state))
    assert k == 24 - 5  # the first probe after 6 steps, then after 3


def run_with(values, *, every=2, learning_rate=0.1):
    """The states and points of a run on a quadratic whose values are given."""
    tx = sqn(learning_rate, every=every)
    update, params = jax.jit(tx.update), jnp.array([1.0, -2.0])
    state = tx.init(params)
    for value in values:
        before = params
        updates, state = update(
            params * jnp.array([1.0, 0.5]), state, params, value=jnp.float32(value)
        )
        params = optax.apply_updates(params, updates)
        yield before, params, state


def has_pairs(state):
    (found,) = (x for x in jax.tree.leaves(state, is_leaf=is_sqn) if is_sqn(x))
    return bool(jnp.any(found.pairs.uy > 0))


def is_sqn(node):
    return isinstance(node, ScaleBySqnState)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 50.0])
def test_a_bad_loss_discards_the_pairs_and_returns(bad):
    """Points 0 to 3, the probe of point 3, and point 4, whose loss is bad: back to point 3."""
    *_, (third, _, _), (_, fourth, before), (_, after, state) = run_with([4, 3, 3, 2, 2, bad])
    assert has_pairs(before)
    assert not has_pairs(state)
    assert not cs231n_optax.accepted(state)
    del third, fourth
    np.testing.assert_allclose(after, cs231n_optax.accepted_params(before))
    assert cs231n_optax.status(state) == cs231n_optax.Status.RUNNING


def test_after_a_return_any_finite_loss_is_accepted():
    *_, (_, _, state) = run_with([4, 3, 3, 2, 2, np.nan, 50])
    assert cs231n_optax.accepted(state)


def test_a_probe_that_is_not_finite_gives_no_pair():
    """And its batch stays; the step is taken from the point before."""
    *_, (_, _, before), (_, after, state) = run_with([4, 3, 3, 2, np.nan])
    assert before.is_probe
    assert not has_pairs(state)
    assert not cs231n_optax.accepted(state)
    assert not jnp.array_equal(after, cs231n_optax.accepted_params(state))
    assert cs231n_optax.status(state) == cs231n_optax.Status.RUNNING


def test_a_loss_that_is_not_finite_ends_fit_as_with_adam():
    def loss(params, batch):
        return jnp.where(jnp.max(jnp.abs(params)) > 0.15, jnp.nan, quadratic(params, batch))

    for tx in (sqn(0.1), cs231n_optax.adam(0.1)):
        with pytest.warns(cs231n_optax.DivergenceWarning):
            result = cs231n_optax.fit(
                loss, jnp.zeros(4), tx, DATA, steps=40, batch_size=96, key=jax.random.key(0)
            )
        assert np.isfinite(result.params).all()
        step = int(result.state.nonfinite_step)
        assert 0 < step < 20


def test_minimize():
    solution = np.linalg.lstsq(np.asarray(DATA), np.ones(96))[0]
    result = cs231n_optax.minimize(
        functools.partial(quadratic, batch=DATA), jnp.zeros(4), sqn(0.05), max_evals=2000
    )
    assert result.status == cs231n_optax.Status.CONVERGED
    np.testing.assert_allclose(result.params, solution, atol=1e-4)

    diverging = cs231n_optax.minimize(lambda x: jnp.log(x), jnp.float32(1.0), sqn(0.3))
    assert diverging.status == cs231n_optax.Status.FAILED
    assert jnp.isfinite(diverging.params)


def test_an_average_takes_each_accepted_point_once():
    """Not the probes: the uniform mean of the points after the first."""
    points = []
    tx = sqn(0.1, every=2)
    result = cs231n_optax.fit(
        quadratic,
        jnp.zeros(4),
        tx,
        DATA,
        steps=15,
        averaging=cs231n_optax.polyak_average(uniform=True),
    )
    evaluate, update = jax.jit(jax.value_and_grad(quadratic)), jax.jit(tx.update)
    params = jnp.zeros(4)
    state = tx.init(params)
    for _ in range(15):
        value, grads = evaluate(params, DATA)
        updates, state = update(grads, state, params, value=value)
        params = optax.apply_updates(params, updates)
        if cs231n_optax.accepted(state):
            points.append(cs231n_optax.accepted_params(state))
    average = cs231n_optax.averaged_params(result.state)
    np.testing.assert_allclose(average, np.mean(points[1:], axis=0), rtol=1e-5)


def test_memory():
    """(2 m + 6) N numbers, and scalars."""
    params = jnp.zeros(1000)
    state = sqn(memory_size=5).init(params)
    numbers = sum(x.size for x in jax.tree.leaves(state))
    assert 16 * 1000 < numbers < 16 * 1000 + 100


def test_learns_the_curvature_that_adam_lacks():
    """A rotated valley, without noise: the diagonal can't hold it."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(20, 20)))[0]
    hessian = jnp.asarray(basis * np.geomspace(1e-3, 1, 20) @ basis.T, jnp.float32)

    def fun(x):
        return x @ hessian @ x / 2

    x0 = jnp.asarray(rng.normal(size=20), jnp.float32)
    schedule = optax.cosine_decay_schedule(0.03, 500)
    ours, adams = (
        cs231n_optax.minimize(fun, x0, tx, max_evals=550, tol=0).value
        for tx in (sqn(schedule), cs231n_optax.adam(schedule))
    )
    assert ours < adams / 3


# Errors.


@pytest.mark.parametrize(
    ("arguments", "name"),
    [({"every": 0}, "every"), ({"memory_size": 0}, "memory_size"), ({"b1": 1.0}, "b1")],
)
def test_arguments_out_of_range(arguments, name):
    with pytest.raises(ValueError, match=name):
        sqn(**arguments)


def test_clear_errors():
    tx, x = sqn(), jnp.ones(2)
    state = tx.init(x)
    with pytest.raises(TypeError, match="value="):
        tx.update(x, state, x)
    with pytest.raises(ValueError, match="parameters"):
        tx.update(x, state, value=1.0)
    with pytest.raises(TypeError, match="state"):
        tx.update(x, cs231n_optax.adam().init(x), x, value=1.0)
    with pytest.raises(TypeError, match="float32"):
        tx.init(x.astype(jnp.bfloat16))
    with pytest.raises(ValueError, match="scale_by_sqn"):
        with_curvature_pairs(cs231n_optax.adam()).init(x)
    direction = scale_by_sqn()
    with pytest.raises(ValueError, match="grad_change"):
        direction.update(x, direction.init(x), displacement=x, grad_change=jnp.ones(3))
