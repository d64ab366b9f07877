"""The decays against the lecture's formulas, traced in every argument."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cs231n_optax as co

STEPS = np.arange(0, 1000, 7)

# name -> (schedule factory, arguments, the lecture's formula in NumPy)
DECAYS = {
    "step": (
        co.step_decay,
        {"init_value": 0.3, "every": 90, "factor": 0.5},
        lambda t, init_value, every, factor: init_value * factor ** np.floor(t / every),
    ),
    "exponential": (
        co.exponential_decay,
        {"init_value": 0.3, "rate": 0.004},
        lambda t, init_value, rate: init_value * np.exp(-rate * t),
    ),
    "inverse_time": (
        co.inverse_time_decay,
        {"init_value": 0.3, "rate": 0.04},
        lambda t, init_value, rate: init_value / (1 + rate * t),
    ),
    "cyclic_cosine": (
        co.cyclic_cosine,
        {"init_value": 0.3, "cycle_length": 125},
        lambda t, init_value, cycle_length: (
            init_value / 2 * (np.cos(np.pi * np.mod(t, cycle_length) / cycle_length) + 1)
        ),
    ),
}
every_decay = pytest.mark.parametrize("decay", DECAYS.values(), ids=DECAYS.keys())


@every_decay
def test_formula_in_float64(decay):
    make, arguments, formula = decay
    with jax.enable_x64(True):
        values = make(**arguments)(jnp.asarray(STEPS))
        assert values.dtype == jnp.float64
        np.testing.assert_allclose(values, formula(STEPS, **arguments), rtol=1e-12, atol=1e-17)


@every_decay
def test_every_argument_and_the_step_may_be_traced(decay):
    make, arguments, formula = decay
    values = jax.jit(lambda t, arguments: make(**arguments)(t))(jnp.asarray(STEPS), arguments)
    np.testing.assert_allclose(values, formula(STEPS, **arguments), rtol=1e-5, atol=1e-7)
    lanes = {name: jnp.array([value, 2 * value]) for name, value in arguments.items()}
    lanes = jax.vmap(lambda arguments: make(**arguments)(jnp.int32(200)))(lanes)
    doubled = {name: 2 * value for name, value in arguments.items()}
    expected = [formula(200, **arguments), formula(200, **doubled)]
    np.testing.assert_allclose(lanes, expected, rtol=1e-5)


@every_decay
def test_differentiable_in_its_initial_value(decay):
    make, arguments, formula = decay
    rest = {name: value for name, value in arguments.items() if name != "init_value"}
    slope = jax.grad(lambda init_value: make(init_value, **rest)(jnp.int32(200)))(0.3)
    np.testing.assert_allclose(slope, formula(200, init_value=1.0, **rest), rtol=1e-5)


@every_decay
def test_inside_optax(decay):
    """As a learning rate of Optax's own methods, joined, and injected."""
    make, arguments, formula = decay
    schedule = make(**arguments)
    params = jnp.ones(2)
    joined = optax.join_schedules([optax.constant_schedule(1.0), schedule], [3])
    injected = optax.inject_hyperparams(optax.sgd)(learning_rate=schedule)
    for tx, offset in ((optax.sgd(joined), 3), (injected, 0), (co.sgd(schedule), 0)):
        state = tx.init(params)
        for _ in range(offset + 3):
            updates, state = tx.update(jnp.ones(2), state, params)
        np.testing.assert_allclose(updates, -formula(2, **arguments) * np.ones(2), rtol=1e-6)


def test_whole_steps_are_exact_where_float32_is_not():
    # float32 can't hold 2**24 + 1, nor tell 3 * 5592405 from its neighbours.
    t = 3 * 5592405
    assert co.step_decay(1.0, 5592405)(jnp.int32(t)) == 0.125
    assert co.step_decay(1.0, 5592405)(jnp.int32(t - 1)) == 0.25
    assert co.cyclic_cosine(1.0, 5592405)(jnp.int32(t)) == 1.0


def test_a_fractional_period_is_allowed():
    values = co.step_decay(1.0, every=2.5)(jnp.arange(6))
    np.testing.assert_array_equal(values, [1, 1, 1, 0.5, 0.5, 0.25])


def test_learning_rate_can_be_read_from_the_state():
    tx = co.momentum(co.step_decay(0.4, every=1))
    state = tx.init(jnp.ones(2))
    rates = []
    for _ in range(3):
        _, state = tx.update(jnp.ones(2), state)
        rates.append(float(optax.tree.get(state, "learning_rate")))
    np.testing.assert_allclose(rates, [0.4, 0.2, 0.1], rtol=1e-6)


def test_optaxs_own_schedules_cannot_be_traced():
    """Why these exist. If Optax lifts the limit, a line of docs/differences.md goes."""
    for make in (
        lambda x: optax.exponential_decay(0.1, x, 0.5),
        lambda x: optax.cosine_decay_schedule(0.1, x),
    ):
        with pytest.raises(jax.errors.TracerBoolConversionError):
            jax.jit(lambda x, make=make: make(x)(1))(10.0)
