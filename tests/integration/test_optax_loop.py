"""The loop that Optax's documentation gives for `optax.lbfgs`, with a method of ours in its place.

It takes value and gradient from `optax.value_and_grad_from_state`, and reads the fields ``count``
and ``grad`` of the state to see whether to go on.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trials import MINIMISERS

import cs231n_optax as co

METHODS = MINIMISERS | {"optax": optax.lbfgs}
every_method = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)


def solve(tx, fun, start, *, max_count, tol, conjugate=False):
    """Updates until the gradient is small or there were enough, in one `jax.lax.while_loop`."""
    evaluate = optax.value_and_grad_from_state(fun)

    def goes_on(carry):
        _, state = carry
        count, grads = optax.tree.get(state, "count"), optax.tree.get(state, "grad")
        return (count == 0) | ((count < max_count) & (optax.tree.norm(grads) >= tol))

    def step(carry):
        params, state = carry
        value, grads = evaluate(params, state=state)
        if conjugate:
            grads = jax.tree.map(jnp.conj, grads)
        updates, state = tx.update(grads, state, params, value=value, grad=grads, value_fn=fun)
        return optax.apply_updates(params, updates), state

    return jax.lax.while_loop(goes_on, step, (start, tx.init(start)))


def valley(params):
    """The minimum is at (1, 1), in a curved valley."""
    x, y = params["x"], params["y"]
    return (1 - x) ** 2 + 10 * (y - x**2) ** 2


@every_method
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_it_finds_the_minimum(make, dtype):
    with jax.enable_x64(dtype == "float64"):
        start = {"x": jnp.asarray(-1.2, dtype), "y": jnp.asarray(1.0, dtype)}
        params, state = jax.jit(
            lambda start: solve(make(), valley, start, max_count=3000, tol=1e-4)
        )(start)
        assert optax.tree.norm(optax.tree.get(state, "grad")) < 1e-4
        assert 2 < optax.tree.get(state, "count") < 3000
        for answer in params.values():
            assert answer.dtype == dtype
            np.testing.assert_allclose(answer, 1, atol=5e-3)


@every_method
def test_the_loop_in_python(make):
    tx, params = make(), {"x": jnp.array(-1.2), "y": jnp.array(1.0)}
    evaluate = optax.value_and_grad_from_state(valley)

    @jax.jit
    def step(params, state):
        value, grads = evaluate(params, state=state)
        updates, state = tx.update(grads, state, params, value=value, grad=grads, value_fn=valley)
        grad_norm = optax.tree.norm(optax.tree.get(state, "grad"))
        return optax.apply_updates(params, updates), state, grad_norm

    state = tx.init(params)
    for _ in range(500):
        params, state, grad_norm = step(params, state)
        if grad_norm < 1e-4:
            break
    for answer in params.values():
        np.testing.assert_allclose(answer, 1, atol=5e-3)


@pytest.mark.parametrize("make", MINIMISERS.values(), ids=MINIMISERS)
def test_it_ends_where_the_gradient_can_not_be_so_small(make):
    """A run that has ended takes no further step: the count of updates still ends the loop."""
    params, state = jax.jit(lambda start: solve(make(), bumpy, start, max_count=200, tol=1e-30))(
        jnp.array([3.0, -2.0])
    )
    assert optax.tree.get(state, "count") >= 200
    np.testing.assert_allclose(params, [0.1, 0.2], atol=1e-2)


def bumpy(x):
    return 1e3 + jnp.sum(jnp.cosh(x - jnp.array([0.1, 0.2])))


@pytest.mark.parametrize("make", [co.lbfgs, co.bfgs], ids=["lbfgs", "bfgs"])
def test_complex_parameters(make):
    """With the conjugate gradients that complex parameters need, in Optax too."""
    target = jnp.array([1 + 2j, -3 + 1j])

    def fun(z):
        return jnp.sum(jnp.abs(z - target) ** 2)

    params, state = jax.jit(
        lambda start: solve(make(), fun, start, max_count=50, tol=1e-4, conjugate=True)
    )(jnp.zeros(2, jnp.complex64))
    assert optax.tree.get(state, "grad").dtype == jnp.complex64
    np.testing.assert_allclose(params, target, rtol=1e-4)
