"""Algebra that the rules obey for any gradients, trees and hyperparameters, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cs231n_optax as co

STEPS = 8
# A few shapes, so that few programs are compiled; the numbers are free.
TREES = ({"w": (2, 3), "b": (3,)}, ((), (4,)), {"nested": [(1, 2), {"x": (2,)}]})

decays = st.floats(0.0, 0.999)
rates = st.floats(1e-4, 2.0)
seeds = st.integers(0, 2**32 - 1)
trees = st.sampled_from(TREES)
identity = settings(max_examples=30, deadline=None)


pytestmark = pytest.mark.usefixtures("x64")


def draw_stream(shapes, seed):
    """A tree of (STEPS, ...) gradients with sizes from 1e-3 to 1e3."""
    rng = np.random.default_rng(seed)

    def leaf(shape):
        return rng.standard_normal((STEPS, *shape)) * 10.0 ** rng.uniform(-3, 3, (STEPS, *shape))

    return jax.tree.map(leaf, shapes, is_leaf=lambda node: is_shape(node))


def is_shape(node):
    return isinstance(node, tuple) and all(isinstance(n, int) for n in node)


@functools.partial(jax.jit, static_argnums=0)
def states_and_updates(make, hyperparams, stream):
    """All states and updates of a run; compiled once per factory and tree."""
    tx = make(**hyperparams)

    def step(state, grads):
        updates, state = tx.update(grads, state)
        return state, (state, updates)

    start = tx.init(jax.tree.map(lambda x: x[0], stream))
    return jax.lax.scan(step, start, stream)[1]


def assert_close(actual, expected, rtol=1e-11):
    for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        y = np.asarray(y)
        np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol * np.max(np.abs(y), initial=0))


@identity
@given(shapes=trees, seed=seeds, rho=decays)
def test_velocity_is_a_weighted_sum_of_gradients(shapes, seed, rho):
    stream = draw_stream(shapes, seed)
    states, _ = states_and_updates(co.scale_by_momentum, {"rho": rho}, stream)
    age = np.arange(STEPS)[:, None] - np.arange(STEPS)
    weights = np.where(age >= 0, rho ** np.maximum(age, 0.0), 0.0)
    assert_close(states.velocity, jax.tree.map(lambda g: np.tensordot(weights, g, 1), stream))


@identity
@given(
    seed=seeds,
    rhos=st.lists(decays, min_size=STEPS, max_size=STEPS),
    constant=st.booleans(),
    learning_rate=st.floats(1e-3, 0.3),
)
def test_both_forms_of_nesterov(seed, rhos, constant, learning_rate):
    """The page's first form, x += v with the gradient at x + rho v, gives x = x~ - rho v."""
    rng = np.random.default_rng(seed)
    curvature, start = rng.uniform(0.1, 2.0, 5), rng.standard_normal(5)
    rhos = rhos[:1] * STEPS if constant else rhos

    look_ahead = jnp.asarray(start)
    state = co.nesterov(learning_rate).init(look_ahead)
    x, v, rho = start.copy(), np.zeros(5), 0.0
    for next_rho in rhos:
        updates, state = nesterov_update(learning_rate, next_rho, curvature * look_ahead, state)
        look_ahead = look_ahead + updates
        v = rho * v - learning_rate * curvature * (x + rho * v)
        x = x + v
        rho = next_rho
        assert_close(co.nesterov_iterate(state, look_ahead), x)
        assert_close(look_ahead, x + rho * v)


@jax.jit
def nesterov_update(learning_rate, rho, grads, state):
    return co.nesterov(learning_rate, rho).update(grads, state)


@identity
@given(shapes=trees, seed=seeds)
def test_adagrads_accumulator_never_falls(shapes, seed):
    stream = draw_stream(shapes, seed)
    states, _ = states_and_updates(co.scale_by_adagrad, {"eps": 1e-7}, stream)
    for s, g in zip(jax.tree.leaves(states.grad_squared), jax.tree.leaves(stream), strict=True):
        assert np.all(np.diff(np.asarray(s), axis=0) >= 0)
        np.testing.assert_allclose(s[-1], np.sum(g**2, 0), rtol=1e-12)


@identity
@given(
    shapes=trees,
    seed=seeds,
    learning_rate=rates,
    b1=decays,
    b2=decays,
    eps=st.floats(1e-9, 1e-3),
)
def test_adams_first_step(shapes, seed, learning_rate, b1, b2, eps):
    stream = draw_stream(shapes, seed)
    hyperparams = {"learning_rate": learning_rate, "b1": b1, "b2": b2, "eps": eps}
    for make, m, s in (
        (co.adam, 1.0, 1.0),
        (adam_uncorrected, 1 - b1, np.sqrt(1 - b2)),
    ):
        _, updates = states_and_updates(make, hyperparams, stream)
        expected = jax.tree.map(
            lambda g, m=m, s=s: -learning_rate * m * g[0] / (s * np.abs(g[0]) + eps), stream
        )
        assert_close(jax.tree.map(lambda u: u[0], updates), expected, rtol=1e-10)


def adam_uncorrected(**hyperparams):
    return co.adam(**hyperparams, bias_correction=False)


@identity
@given(shapes=trees, seed=seeds, decay=decays, scale=st.floats(0.5, 100.0))
def test_rmsprop_and_adam_do_not_see_the_gradients_unit(shapes, seed, decay, scale):
    """Scaling the gradients and eps alike changes nothing: the directions have no unit."""
    stream = draw_stream(shapes, seed)
    scaled = jax.tree.map(lambda g: scale * g, stream)
    for make, rest in ((co.scale_by_rmsprop, {"decay": decay}), (co.scale_by_adam, {"b2": decay})):
        _, updates = states_and_updates(make, {**rest, "eps": 1e-5}, stream)
        _, same = states_and_updates(make, {**rest, "eps": scale * 1e-5}, scaled)
        assert_close(same, updates, rtol=1e-9)
