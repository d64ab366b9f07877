"""Parameters frozen by `optax.partition`: results hold the whole tree."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trials import MINIMISERS, assert_same_state

import cs231n_optax as co

FROZEN = {"scale": jnp.array([1.0, 2.0, 0.5]), "order": jnp.array([2, 0, 1])}
PARAMS = {"w": jnp.zeros(3), **FROZEN}
LABELS = {"w": "train", "scale": "freeze", "order": "freeze"}
SOLUTION = np.array([0.5, 1.0, 2.0])
every_method = pytest.mark.parametrize("make", MINIMISERS.values(), ids=MINIMISERS)
FIRST_ORDER = {"adam": lambda: co.adam(0.1), "optax": lambda: optax.sgd(0.2)}
every_tx = pytest.mark.parametrize(
    "make", (MINIMISERS | FIRST_ORDER).values(), ids=MINIMISERS | FIRST_ORDER
)


def partition(tx):
    return optax.partition({"train": tx, "freeze": optax.set_to_zero()}, LABELS)


def fun(params, batch=1.0):
    """The minimum is at w = scale[order], that is `SOLUTION`."""
    target = params["scale"][params["order"]]
    return jnp.mean(batch) * jnp.sum((params["w"] - target) ** 2 * jnp.array([1.0, 2.0, 3.0]))


def assert_solved(params, rtol=1e-3):
    assert params.keys() == PARAMS.keys()
    for name, frozen in FROZEN.items():
        assert params[name].dtype == frozen.dtype
        np.testing.assert_array_equal(params[name], frozen)
    np.testing.assert_allclose(params["w"], SOLUTION, rtol=rtol)


@every_tx
def test_minimize(make):
    heard = []
    result = co.minimize(fun, PARAMS, partition(make()), tol=1e-4, callback=heard.append)
    jax.effects_barrier()
    assert co.Status(int(result.status)) == co.Status.CONVERGED
    assert_solved(result.params)
    assert jax.tree.structure(result.grad) == jax.tree.structure(PARAMS)
    assert_solved(heard[-1].params)


@every_method
def test_a_frozen_gradient_is_zero_in_the_result(make):
    result = co.minimize(fun, {**PARAMS, "w": jnp.ones(3)}, partition(make()), max_evals=1)
    np.testing.assert_allclose(result.grad["w"], 2 * (1 - SOLUTION) * [1, 2, 3])
    for name in FROZEN:
        np.testing.assert_array_equal(result.grad[name], np.zeros(3))


def test_minimize_goes_on_and_averages():
    tx = partition(co.lbfgs())
    first = co.minimize(fun, PARAMS, tx, max_evals=2)
    assert_solved(co.minimize(fun, first.params, tx, state=first.state).params)
    params = {name: PARAMS[name] for name in ("w", "scale")}

    def floating(params):
        return fun({**params, "order": FROZEN["order"]})

    tx = optax.partition({"train": co.lbfgs(), "freeze": optax.set_to_zero()}, params_labels)
    result = co.minimize(floating, params, tx, averaging=co.polyak_average(0.5))
    average = co.averaged_params(result.state)
    np.testing.assert_allclose(average["scale"], FROZEN["scale"])
    assert 0 < np.max(np.abs(average["w"] - SOLUTION)) < 1


def params_labels(params):
    return {name: LABELS[name] for name in params}


def test_derivatives_of_a_solution():
    """Those of the trained leaves alone: the Hessian of all leaves is singular."""

    def solve(target):
        def fun(params):
            pull = params["w"] - params["scale"] * target
            return jnp.sum(pull**2) + jnp.sum(params["w"] ** 4)

        return co.minimize(fun, PARAMS, partition(co.lbfgs()), tol=1e-7).params

    target = jnp.array([1.0, -0.5, 2.0])
    params, slopes = jax.jvp(solve, (target,), (jnp.ones(3),))
    # From 2 (w - scale target) + 4 w³ = 0.
    expected = FROZEN["scale"] / (1 + 6 * params["w"] ** 2)
    np.testing.assert_allclose(slopes["w"], expected, rtol=1e-4)
    np.testing.assert_array_equal(slopes["scale"], np.zeros(3))
    gradient = jax.jit(jax.grad(lambda target: jnp.sum(solve(target)["w"])))(target)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4)


def test_minimize_in_a_batch():
    def solve(w):
        return co.minimize(fun, {**PARAMS, "w": w}, partition(co.lbfgs())).params["w"]

    starts = jnp.array([[0.0, 0, 0], [1, 1, 1], [-2, 3, 1]])
    np.testing.assert_allclose(jax.vmap(solve)(starts), np.tile(SOLUTION, (3, 1)), rtol=1e-3)


@every_tx
def test_fit(make):
    result = co.fit(fun, PARAMS, partition(make()), jnp.ones(4), steps=100)
    assert_solved(result.params, rtol=0.02)
    assert_solved(result.state.params, rtol=0.02)


def test_fit_goes_on():
    data, tx = jnp.linspace(0.5, 1.5, 12), partition(co.lbfgs())
    arguments = {"batch_size": 6, "key": jax.random.key(0)}
    whole = co.fit(fun, PARAMS, tx, data, steps=12, **arguments)
    part = co.fit(fun, PARAMS, tx, data, steps=5, **arguments)
    part = co.fit(fun, PARAMS, tx, data, steps=7, batch_size=6, state=part.state)
    assert_same_state(part.state, whole.state)


@every_method
def test_a_loop_of_ones_own(make):
    """JAX has no gradients of integers: a zero of their dtype is one that can be added."""
    tx = partition(make())

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(fun, allow_int=True)(params)
        grads = jax.tree.map(
            lambda g, p: jnp.zeros_like(p) if g.dtype == jax.dtypes.float0 else g, grads, params
        )

        def value_fn(trained):  # only Newton's methods call it
            return fun({**params, "w": trained["w"]})

        updates, state = tx.update(grads, state, params, value=value, value_fn=value_fn)
        return optax.apply_updates(params, updates), state

    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(25):
        params, state = step(params, state)
    assert isinstance(co.accepted_params(state)["scale"], optax.MaskedNode)
    assert_solved(co.accepted_params(state, params))
    with pytest.raises(ValueError, match="params"):
        co.accepted_params(state, [1.0])


MASK = {name: label == "train" for name, label in LABELS.items()}
RUNS = {
    "minimize": lambda tx: co.minimize(fun, PARAMS, tx),
    "fit": lambda tx: co.fit(fun, PARAMS, tx, jnp.ones(4), steps=3),
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
@every_method
def test_a_mask_alone_is_refused(make, run):
    """It would add the gradient to the parameters that it hides from the method."""
    with pytest.raises(ValueError, match=r"optax.masked .*optax.partition") as raised:
        run(optax.masked(make(), MASK))
    assert any(name in str(raised.value) for name in FROZEN)


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_a_mask_with_the_rest_set_to_zero_is_a_partition(run):
    rest = optax.masked(optax.set_to_zero(), {name: not train for name, train in MASK.items()})
    result = run(optax.chain(optax.masked(co.lbfgs(), MASK), rest))
    for name, frozen in FROZEN.items():
        np.testing.assert_array_equal(result.params[name], frozen)


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
@every_tx
def test_an_integer_that_is_not_frozen_is_refused(make, run):
    with pytest.raises(TypeError, match=r"\['order'\] is int32.*optax.partition"):
        run(make())
