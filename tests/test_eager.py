"""Calls outside of any trace: each program is compiled once."""

import contextlib

import jax
import jax.numpy as jnp
import methods
import numpy as np
import optax
import pytest
from trials import MINIMISERS

import cs231n_optax as co

COMPILATIONS = []


def listen(event, duration, **kwargs):
    if event == "/jax/core/compile/backend_compile_duration":
        COMPILATIONS.append(kwargs)


jax.monitoring.register_event_duration_secs_listener(listen)


@contextlib.contextmanager
def compilations():
    """Yields a list that gets an entry for each program that XLA compiles."""
    found = []
    before = len(COMPILATIONS)
    yield found
    found += COMPILATIONS[before:]


def loss(x):
    return jnp.sum((x - 3.0) ** 4)


def run(tx, steps=5):
    """The first updates of a loop without `jax.jit`."""
    params = jnp.zeros(3)
    state = tx.init(params)
    for _ in range(steps):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params, value=value, value_fn=loss)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("name", MINIMISERS)
def test_an_update_compiles_once(name):
    tx = MINIMISERS[name]()
    run(tx)
    with compilations() as found:
        run(tx)
    assert not found


@pytest.mark.parametrize("method", methods.METHODS, ids=lambda method: method.name)
def test_an_update_is_the_compiled_one(method):
    """It takes the path of a jitted loop."""
    if not set(method.dtypes) >= {"float32"}:
        pytest.skip("float32 is not supported")
    tx = method.factory(**method.hyperparams)
    params = jnp.array([1.0, -2.0, 0.5])
    states = [tx.init(params)] * 2
    for k in range(4):
        x = params + 0.1 * k
        extra = {"value": jnp.sum(x**2), "value_fn": lambda x: jnp.sum(x**2)}

        def update(g, s, p, extra=extra):
            return optax.with_extra_args_support(tx).update(g, s, p, **extra)

        eager, jitted = update(2 * x, states[0], x), jax.jit(update)(2 * x, states[1], x)
        states = [eager[1], jitted[1]]
        for a, b in zip(jax.tree.leaves(eager), jax.tree.leaves(jitted), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


def test_python_numbers_are_inputs():
    """Another value, a Python number, does not compile again."""
    tx, params = co.lbfgs(), jnp.ones(2)
    state = tx.init(params)
    tx.update(params, state, params, value=1.0)
    with compilations() as found:
        tx.update(params, state, params, value=2.0)
    assert not found


def test_hyperparameters_under_vmap_are_not_kept():
    """A transformation made inside a trace, with concrete gradients, stays inside it."""
    g = jnp.ones(2)

    def first_step(rate):
        tx = co.sgd(rate)
        return tx.update(g, tx.init(g))[0]

    rates = jnp.array([0.5, 2.0])
    np.testing.assert_allclose(jax.vmap(first_step)(rates), -rates[:, None] * g)
    np.testing.assert_allclose(jax.jacobian(first_step)(0.5), -g)


def test_minimize_compiles_once():
    def fun(x, a):
        return jnp.sum((x - a) ** 2 + (x - a) ** 4)

    tx = co.bfgs()

    def solve(start, a, tol):
        return co.minimize(fun, start, tx, args=(a,), tol=tol, max_evals=40)

    ones, center = jnp.ones(2), jnp.array([2.0, 5.0])
    solve(jnp.zeros(2), ones, 1e-3)
    with compilations() as found:
        result = solve(ones, center, 1e-5)
    assert not found
    np.testing.assert_allclose(result.params, [2.0, 5.0], atol=1e-3)
    with compilations() as found:
        co.minimize(lambda x: fun(x, 1.0), ones, tx)  # another function
    assert found


def test_minimize_reads_a_function_that_changes_with_its_method():
    """A bound method is a new object each time, so an attribute that has changed is seen."""

    class Problem:
        target = 1.0

        def fun(self, x):
            return jnp.sum((x - self.target) ** 2)

    problem, tx = Problem(), co.bfgs()
    for target in (1.0, 4.0):
        problem.target = target
        result = co.minimize(problem.fun, jnp.zeros(2), tx)
        np.testing.assert_allclose(result.params, [target, target], rtol=1e-4)


def test_errors_are_those_of_the_update():
    tx, params = co.lbfgs(), jnp.ones(2)
    state = tx.init(params)
    with pytest.raises(TypeError, match="value"):
        tx.update(params, state, params)
    with pytest.raises(ValueError, match="params"):
        tx.update(params, state, value=1.0)
