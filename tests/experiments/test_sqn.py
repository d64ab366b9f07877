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

    def __init__(self, x, learning_rate, weight, memory_size, every):
        self.x, self.learning_rate, self.weight = x, learning_rate, weight
        self.memory_size, self.every = memory_size, every
        self.m = self.s = np.zeros_like(x)
        self.mean, self.last_mean = x.copy(), None
        self.t, self.pairs = 0, []
        self.events = {"damped": 0, "kept": 0, "cut": 0}

    def inverse(self, diagonal):
        """The BFGS inverse by its update (Nocedal and Wright, eq. 6.17)."""
        h = np.diag(1 / diagonal)
        for u, y in self.pairs:
            v = np.eye(len(u)) - np.outer(y, u) / (u @ y)
            h = v.T @ h @ v + np.outer(u, u) / (u @ y)
        return h

    def add_pair(self, u, y, diagonal):
        y = diagonal * u + self.weight * y
        least = 0.5 * u @ (diagonal * u)
        if u @ y < least:
            theta = least / (2 * least - u @ y)
            y = theta * y + (1 - theta) * diagonal * u
            np.testing.assert_allclose(u @ y, least)
            self.events["damped"] += 1
        self.pairs = [*self.pairs, (u, y)][-self.memory_size :]
        self.events["kept"] += 1

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


def batch_gradient(seed, noise, lowest=0.01):
    """``gradient(k)(x)`` of batch k of a quadratic: A x - b, both with noise."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    a = basis * np.array([lowest, 0.03, 0.1, 0.5, 2.0, 10.0]) @ basis.T
    b = rng.normal(size=6)
    a_noise, b_noise = noise * rng.normal(size=(100, 6, 6)), noise * rng.normal(size=(100, 6))
    return lambda k: lambda x: (a + a_noise[k]) @ x - b - b_noise[k]


@pytest.mark.usefixtures("x64")
def test_iterates_are_the_papers():
    """60 steps: every point, which of them are evaluated, damped pairs and cut directions."""
    happened = dict.fromkeys(("damped", "kept", "cut"), 0)
    update_with = jax.jit(
        lambda weight, *args, **kwargs: sqn(
            0.05, curvature_weight=weight, memory_size=3, every=4
        ).update(*args, **kwargs)
    )
    for seed, noise, weight, lowest in (
        (0, 0.0, 0.7, 0.01),
        (1, 0.05, 0.7, 0.01),
        (2, 0.5, 0.7, 0.01),
        (3, 2.0, 50.0, 0.01),
        (4, 0.0, 0.7, -3.0),
    ):
        gradient = batch_gradient(seed, noise, lowest)
        x0 = np.random.default_rng(seed).normal(size=6)
        reference = Reference(x0, 0.05, weight, memory_size=3, every=4)
        params, state = jnp.asarray(x0), sqn(memory_size=3).init(jnp.asarray(x0))
        for k in range(60):
            for i in range(evaluations := reference.step(gradient(k))):
                grads = jnp.asarray(gradient(k)(np.asarray(params)))
                updates, state = update_with(weight, grads, state, params, value=jnp.ones(()))
                assert cs231n_optax.accepted(state) == (i == evaluations - 1)
                params = optax.apply_updates(params, updates)
            np.testing.assert_allclose(params, reference.x, rtol=1e-9, atol=1e-9)
        happened = {name: happened[name] + n for name, n in reference.events.items()}
    assert all(happened.values()), happened
    assert happened["kept"] > 5 * 3  # the ring is written over


def small_direction(b1, b2, eps, curvature_weight):
    return scale_by_sqn(b1, b2, eps, curvature_weight=curvature_weight, memory_size=2)


def small(learning_rate, every, curvature_weight):
    return sqn(learning_rate, curvature_weight=curvature_weight, memory_size=2, every=every)


@pytest.mark.parametrize(
    ("make", "numbers", "options"),
    [
        (small_direction, {"b1": 0.9, "b2": 0.999, "eps": 1e-7, "curvature_weight": 0.5}, {}),
        (
            small,
            {"learning_rate": 0.1, "every": 1.0, "curvature_weight": 0.5},  # two pairs in six steps
            {
                "dtypes": ("float32", "float64", "complex64"),
                "skip": {"multi_steps": "hands on neither value= nor a point that stays"},
            },
        ),
    ],
    ids=["scale_by_sqn", "sqn"],
)
def test_the_contract(make, numbers, options):
    """That of the public methods, 19 checks in three dtypes or more, so over five seconds."""
    testing.check_transformation(make(**numbers), make=make, hyperparams=numbers, **options)


# Without a pair.


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
def test_without_a_pair_it_is_adam_bit_for_bit(dtype, compiled):
    if jax.__version_info__ < (0, 12):
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
    """B₀ = I at the first step of gradients ±1. Along u, H is 1 / (1 + weight · curvature)."""
    grads, u = jnp.array([1.0, 1.0, -1.0]), jnp.array([0.5, 0.0, 0.0])

    @jax.jit
    def direction_of(weight, curvature):
        tx = scale_by_sqn(eps=1e-30, curvature_weight=weight)
        return tx.update(grads, tx.init(grads), displacement=u, grad_change=curvature * u)

    for weight, curvature, expected in (
        (0.5, 6.0, 1 / 4),
        (0.1, 6.0, 1 / 1.6),
        (0.5, 0.0, 1.0),
        (0.5, -0.6, 1 / 0.7),
        (0.5, -6.0, 2.0),  # damped
        (0.0, 6.0, 1.0),
    ):
        direction, state = direction_of(weight, curvature)
        np.testing.assert_allclose(direction, [expected, 1, -1], rtol=1e-5)
        assert jnp.any(state.pairs.uy > 0)
    direction, state = direction_of(0.5, np.inf)
    np.testing.assert_allclose(direction, [1, 1, -1])
    assert not jnp.any(state.pairs.uy > 0)


def test_units():
    """With parameters, rate and weight in other units, the points are the same."""
    factor = 1024.0
    x = jnp.array([1.0, -2.0, 0.5])
    points = []
    for scale in (1.0, factor):
        tx = sqn(0.01 * scale, eps=1e-30, curvature_weight=0.3 * scale, every=2)
        result = cs231n_optax.fit(
            lambda x, batch, scale=scale: quadratic(x / scale, batch),
            scale * x,
            tx,
            DATA[:, :3],
            steps=40,
            batch_size=8,
            key=jax.random.key(0),
        )
        points.append(result.params / scale)
    np.testing.assert_allclose(points[0], points[1], rtol=1e-4)


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
            adam = state.inner[0].adam
            b0 = jnp.sqrt(adam.second_moment / (1 - 0.999**adam.count)) + 1e-7
            expected = b0 * u + 0.03 * 2 / 8 * batch.T @ (batch @ u)
            np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-6)
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
        for tx in (sqn(schedule, curvature_weight=0.9), cs231n_optax.adam(schedule))
    )
    assert ours < adams / 3


# Errors.


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"every": 0}, "every"),
        ({"memory_size": 0}, "memory_size"),
        ({"b1": 1.0}, "b1"),
        ({"curvature_weight": -1.0}, "curvature_weight"),
    ],
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
