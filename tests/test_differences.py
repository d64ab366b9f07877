"""Where the library agrees with PyTorch, Optax and the lecture's page, and where it differs.

The figures of PyTorch are data: tests/data/make_pytorch_reference.py made them. Each row of the
table of docs/differences.md is a test here.
"""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from methods import ADAM, EPS

import cs231n_optax as co

REFERENCE = json.loads((pathlib.Path(__file__).parent / "data/pytorch_reference.json").read_text())
PROBLEM = REFERENCE["problem"]
HALVING = {10 * k: 0.5 for k in range(1, 6)}


def torch_runs():
    return {name: np.array(run["iterates"]) for name, run in REFERENCE["runs"].items()}


@functools.cache
def iterates(tx):
    """w_0 ... w_50 on PyTorch's problem."""
    with jax.enable_x64(True):
        a, b, w0 = (jnp.asarray(PROBLEM[name]) for name in ("A", "b", "w0"))

        def loss(w):
            return jnp.mean((a @ w - b) ** 2) / 2 + PROBLEM["quartic"] * jnp.sum(w**4) / 4

        def step(carry, _):
            w, state = carry
            updates, state = tx.update(jax.grad(loss)(w), state, w)
            w = optax.apply_updates(w, updates)
            return (w, state), w

        run = jax.jit(lambda w: jax.lax.scan(step, (w, tx.init(w)), length=50)[1])
        return np.concatenate([[w0], run(w0)])


def difference(one, other):
    return np.max(np.abs(one - other))


EQUAL_TO_PYTORCH = {
    "sgd": co.sgd(0.5),
    "sgd_step_decay": co.sgd(co.step_decay(0.5, every=10)),
    "momentum": co.momentum(0.1, 0.9),
    "momentum_step_decay": co.momentum(co.step_decay(0.1, every=10), 0.9),
    "nesterov": co.nesterov(0.1, 0.9),
    "adagrad": co.adagrad(0.5),
    "rmsprop": co.rmsprop(0.05),
    "rmsprop_pytorch_defaults": co.rmsprop(0.05, 0.99, eps=1e-8),
    "adam": co.adam(0.1),
    "adam_pytorch_defaults": co.adam(0.1, eps=1e-8),
}


@pytest.mark.parametrize("name", EQUAL_TO_PYTORCH)
def test_equal_to_pytorch(name):
    np.testing.assert_allclose(
        iterates(EQUAL_TO_PYTORCH[name]), torch_runs()[name], rtol=1e-12, atol=1e-13
    )


def test_every_run_of_pytorch_is_compared():
    assert set(EQUAL_TO_PYTORCH) | {"nesterov_step_decay"} == set(REFERENCE["runs"])


def test_nesterov_has_its_rate_inside_the_velocity():
    """Table: the same until α changes, at step 10; then PyTorch's and Optax's α stand outside."""
    schedule = co.step_decay(0.1, every=10)
    ours, torch = iterates(co.nesterov(schedule, 0.9)), torch_runs()["nesterov_step_decay"]
    assert difference(ours[:11], torch[:11]) < 1e-14
    assert difference(ours[11], torch[11]) > 0.05
    assert 0.3 < difference(ours, torch) < 0.4
    # The other order of the chain is PyTorch's rule, and Optax's.
    swapped = optax.chain(co.scale_by_nesterov(0.9), optax.scale_by_learning_rate(schedule))
    np.testing.assert_allclose(iterates(swapped), torch, rtol=1e-12, atol=1e-13)
    theirs = optax.sgd(optax.piecewise_constant_schedule(0.1, HALVING), 0.9, nesterov=True)
    np.testing.assert_allclose(iterates(theirs), torch, rtol=1e-12, atol=1e-13)


def test_momentum_has_its_rate_outside_the_velocity():
    """Table: equal to Optax and PyTorch; the order of the chain is the difference to Nesterov."""
    schedule = co.step_decay(0.1, every=10)
    inside = optax.chain(optax.scale_by_learning_rate(schedule), co.scale_by_momentum(0.9))
    ours = iterates(co.momentum(schedule, 0.9))
    assert difference(ours[:11], iterates(inside)[:11]) < 1e-14
    assert difference(ours, iterates(inside)) > 0.1


def test_adagrad_starts_at_zero_with_eps_outside_the_root():
    """Table: Optax starts its sum at 0.1 and has eps inside the root."""
    ours = iterates(co.adagrad(0.5))
    assert difference(ours, iterates(optax.adagrad(0.5))) > 0.2
    inside = iterates(optax.adagrad(0.5, initial_accumulator_value=0.0, eps=EPS))
    assert 1e-8 < difference(ours, inside) < 1e-6
    # A first gradient of 1e-5 shows the place of eps: g / (|g| + eps) or g / sqrt(g² + eps).
    first = {}
    for name, tx in (("ours", co.adagrad(1.0)), ("optax", optax.adagrad(1.0, 0.0, EPS))):
        first[name], _ = tx.update(jnp.array([1e-5]), tx.init(jnp.zeros(1)))
    np.testing.assert_allclose(first["ours"], -0.990099, rtol=1e-5)
    np.testing.assert_allclose(first["optax"], -0.031607, rtol=1e-4)


def test_rmsprop_has_eps_outside_the_root():
    """Table: Optax has eps = 1e-8 inside the root; PyTorch's defaults are 0.99 and 1e-8."""
    ours = iterates(co.rmsprop(0.05))
    assert 1e-8 < difference(ours, iterates(optax.rmsprop(0.05))) < 1e-5
    assert difference(ours, iterates(optax.rmsprop(0.05, eps=EPS, eps_in_sqrt=False))) < 1e-13
    assert difference(ours, torch_runs()["rmsprop_pytorch_defaults"]) > 0.5


def test_adam_has_eps_1e_7():
    """Table: Optax and PyTorch have 1e-8; otherwise the rule is one."""
    ours = iterates(co.adam(0.1))
    assert 1e-8 < difference(ours, iterates(optax.adam(0.1))) < 1e-6
    assert difference(ours, iterates(optax.adam(0.1, **ADAM))) < 1e-13


def test_adams_bias_correction_keeps_its_digits_in_float32():
    """Table: the first step is α g / (|g| + ε) to 2e-7; Optax's 1 - b2**t loses 6e-6."""
    errors = {}
    for name, tx in (("ours", co.adam(1.0)), ("optax", optax.adam(1.0, **ADAM))):
        step, _ = tx.update(jnp.array([3.0]), tx.init(jnp.zeros(1)))
        errors[name] = abs(float(step[0]) + 1)
    assert errors["ours"] < 2e-7 < 3e-6 < errors["optax"]


def test_zero_gradients_in_float16():
    """Table: Optax's Adam gives NaN, since 1e-8 is zero in float16."""
    x = jnp.ones(2, jnp.float16)
    for tx, finite in ((co.adam(0.1), True), (optax.adam(0.1), False)):
        step, _ = tx.update(0 * x, tx.init(x))
        assert bool(jnp.all(jnp.isfinite(step))) is finite


def test_the_pages_listings_differ():
    """Table: three slips of the lecture's page, each transcribed as printed."""
    x, g, learning_rate, rho = 1.0, 2.0, 0.1, 0.9
    # 7-1-3, momentum: the listing adds the velocity, and climbs f = x².
    vx = rho * 0.0 + g
    printed = x + learning_rate * vx
    step, _ = co.momentum(learning_rate, rho).update(jnp.array(g), co.momentum(0.1).init(x))
    assert printed > x > x + float(step)
    # 7-1-3, Nesterov: "+ (1 + rho) v_t + 1" moves by 1 even where all is at rest.
    v = 0.0
    assert x - rho * v + (1 + rho) * v + 1 == x + 1
    step, _ = co.nesterov(learning_rate, rho).update(jnp.array(0.0), co.nesterov(0.1).init(x))
    assert float(step) == 0
    # 7-1-7, Adam: t starts at 0, and the correction divides by zero.
    t = 0
    with pytest.raises(ZeroDivisionError):
        ((1 - 0.9) * g) / (1 - 0.9**t)
