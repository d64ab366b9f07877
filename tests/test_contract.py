"""Every method of the table against its oracles and the contract of `cs231n_optax.testing`."""

import contextlib
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sample
from methods import METHODS, Method

from cs231n_optax import testing

NUM_STEPS = 60
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
every_rule = pytest.mark.parametrize(
    "method", [method for method in METHODS if method.oracle], ids=lambda method: method.name
)


@functools.cache
def case(name):
    method = next(method for method in METHODS if method.name == name)
    return testing.Case(
        tx=method.factory(**method.hyperparams),
        make=method.factory,
        hyperparams=method.hyperparams,
        params=testing.default_params(),
        loss=testing.default_loss,
        dtypes=method.dtypes,
    )


def build(name):
    return case(name).tx


# Checks that can't be made under JAX's strictest settings, each with the reason; of one method
# alone, with its name.
LENIENT = {
    "donation": "debug_nans switches donation off",
    "extreme_gradients-newton_cg": "1e30 squared overflows: the step's record holds a NaN",
    "multi_steps": "Optax's own arithmetic is not strict",
    "apply_if_finite": "hands in a NaN",
    "reduce_on_plateau": "Optax's own arithmetic is not strict",
}


@sample.product(
    check={check.__name__: check for check in testing.CHECKS},
    method={method.name: method for method in METHODS},
    x64={"x32": False, "x64": True},
)
def test_contract(method: Method, check, x64):
    """With no implicit promotion, and no NaN anywhere. The parameters are float32 in both."""
    if check.__name__ in method.unsupported:
        pytest.skip(method.unsupported[check.__name__])
    with contextlib.ExitStack() as settings:
        settings.enter_context(jax.enable_x64(x64))
        if not {check.__name__, f"{check.__name__}-{method.name}"} & LENIENT.keys():
            settings.enter_context(jax.numpy_dtype_promotion("strict"))
            settings.enter_context(jax.debug_nans(True))
        check(case(method.name))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize("n", [1, 2, 8, 9])
def test_no_array_of_a_state_is_empty(method, n):
    """Orbax can't save an array of size zero."""
    tx = build(method.name)
    for params in (jnp.ones(n), {"x": jnp.ones(n), "y": jnp.ones((2, 3))}):
        for leaf in jax.tree.leaves(jax.eval_shape(tx.init, params)):
            assert leaf.size > 0


# Oracles.


def gradient_stream(dtype):
    """(steps, 3) gradients whose sizes span 1e-4 ... 1e2 and change from step to step."""
    t = np.arange(1, NUM_STEPS + 1)[:, None]
    k = np.arange(3)
    stream = np.sin(1.3 * t + k) * 10.0 ** (3 * k - 4) * (1 + 0.5 * np.cos(0.37 * t * (k + 1)))
    if np.issubdtype(dtype, np.complexfloating):
        stream = stream * np.exp(1j * t * (k + 0.5))
    return stream.astype(dtype)


def updates_of(tx, stream):
    def step(state, grads):
        updates, state = tx.update(grads, state, jnp.zeros_like(grads))
        return state, updates

    return jax.jit(lambda stream: jax.lax.scan(step, tx.init(stream[0]), stream)[1])(stream)


def relative_error(actual, expected):
    """The largest error of a coordinate, over its largest value."""
    assert actual.dtype == expected.dtype
    return np.max(np.max(np.abs(actual - expected), 0) / np.max(np.abs(expected), 0))


@every_rule
def test_a_jitted_loop_and_a_scan_give_the_same_bits(method):
    """Of a first-order method on the contract's loss.

    Not of all: XLA compiles a sum, or a product and a sum, inside a scan to other instructions.
    """
    tx, params = build(method.name), testing.default_params()

    def step(carry, _=None):
        params, state = carry
        updates, state = tx.update(jax.grad(testing.default_loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    jitted, carry = jax.jit(step), (params, tx.init(params))
    start = carry
    for _ in range(6):
        carry, _ = jitted(carry)
    scanned, _ = jax.jit(lambda carry: jax.lax.scan(step, carry, length=6))(start)
    chex.assert_trees_all_equal(carry, scanned)


@every_rule
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [("float64", 1e-12), ("complex128", 1e-12), ("float32", 2e-6), ("complex64", 2e-6)],
)
def test_updates_are_the_lectures(method, dtype, tolerance):
    with jax.enable_x64(dtype in ("float64", "complex128")):
        stream = gradient_stream(dtype)
        step = method.oracle(**method.hyperparams)
        expected = np.stack([step(g) for g in stream.astype(np.result_type(dtype, "float64"))])
        actual = np.asarray(updates_of(build(method.name), jnp.asarray(stream)))
    assert relative_error(actual, expected.astype(dtype)) <= tolerance


@pytest.mark.parametrize(
    "method", [method for method in METHODS if method.optax], ids=lambda method: method.name
)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-5)])
def test_equals_the_matching_optax(method, dtype, tolerance):
    # In float32 Optax's 1 - b2**t has lost digits at small t (5e-6 of the first steps).
    with jax.enable_x64(dtype == "float64"):
        stream = jnp.asarray(gradient_stream(dtype))
        actual = np.asarray(updates_of(build(method.name), stream))
        expected = np.asarray(updates_of(method.optax, stream))
    assert relative_error(actual, expected) <= tolerance


# Numbers at the edges, and states on disk.


@every_rule
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_low_precision_rounds_only_the_finished_update(method, dtype):
    stream = jnp.asarray(gradient_stream("float32") / 100, dtype)
    actual = updates_of(build(method.name), stream)
    expected = updates_of(build(method.name), stream.astype(jnp.float32))
    assert actual.dtype == dtype
    np.testing.assert_array_equal(actual, expected.astype(dtype))


@pytest.mark.parametrize("name", ["adagrad", "rmsprop", "adam", "adam_uncorrected"])
def test_a_gradient_of_1e30_freezes_its_coordinate(name):
    """As documented: its square is infinite in float32, and so is the accumulator from then on."""
    tx = build(name)
    state = tx.init(jnp.zeros(2))
    _, state = tx.update(jnp.array([1e30, 1.0]), state)
    for _ in range(3):
        updates, state = tx.update(jnp.ones(2), state)
        assert updates[0] == 0
        assert updates[1] < 0


def test_update_takes_and_ignores_what_other_methods_need():
    """One loop drives every method, so all of them accept value=, grad= and value_fn=."""
    for method in METHODS:
        tx = build(method.name)
        assert isinstance(tx, optax.GradientTransformationExtraArgs)


@every_method
@pytest.mark.parametrize("x64", [False, True], ids=["x32", "x64"])
def test_no_tracer_leaks_and_dtypes_mix(method, x64):
    """JAX's own strictest settings, on a tree of three dtypes, with traced hyperparameters.

    Under x64 the step is traced and not run.
    """
    dtypes = {"a": "float32", "c": "complex64", "h": "bfloat16"}
    x = {k: jnp.ones(2, dtype) for k, dtype in dtypes.items() if dtype in method.dtypes}
    hyperparams = {name: jnp.float32(value) for name, value in method.hyperparams.items()}

    def value_fn(x):
        return sum(jnp.sum(jnp.abs(leaf).astype(jnp.float32) ** 2) for leaf in x.values())

    def run(hyperparams):
        tx = method.factory(**hyperparams)
        state = tx.init(x)
        loss = {"value": jnp.ones(()), "value_fn": value_fn}
        _, state = tx.update(x, state, x, **loss)
        return tx.update(x, state, x, **loss)[0]

    with contextlib.ExitStack() as settings:
        settings.enter_context(jax.enable_x64(x64))
        settings.enter_context(jax.numpy_dtype_promotion("strict"))
        settings.enter_context(jax.debug_nans(True))
        settings.enter_context(jax.checking_leaks())
        updates = jax.eval_shape(run, hyperparams) if x64 else jax.jit(run)(hyperparams)
    assert jax.tree.map(lambda u: u.dtype, updates) == jax.tree.map(lambda g: g.dtype, x)
