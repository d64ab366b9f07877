"""Orbax: any state in any point of a run, and that of `fit`."""

import jax
import jax.numpy as jnp
import pytest
from frameworks.problem import X, Y
from methods import METHODS
from trials import assert_same_state

import cs231n_optax as co
from cs231n_optax import testing

ocp = pytest.importorskip("orbax.checkpoint", reason="needs pip install -e '.[integration]'")

PARAMS = {"linear": {"w": jnp.ones(4), "b": jnp.zeros(())}, "waves": jnp.ones(4)}
DATA = {"x": X, "y": Y}
TX = co.nesterov(co.step_decay(0.1, every=4))


def loss(params, batch):
    linear = batch["x"] @ params["linear"]["w"] + params["linear"]["b"]
    return jnp.mean((linear + jnp.cos(batch["x"]) @ params["waves"] - batch["y"]) ** 2)


def round_trip(path, tree):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree)
        checkpointer.wait_until_finished()
        return checkpointer.restore(path, jax.eval_shape(lambda: tree))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_restored_state_goes_on_to_the_same_bits(method, tmp_path):
    """With the compiled step of the contract's checks."""
    tx = method.factory(**method.hyperparams)
    step = testing._compiled_step(tx, testing.default_loss)
    params = testing.default_params()
    saved = params, tx.init(params)
    for _ in range(2):
        saved = step(*saved)
    restored = round_trip(tmp_path / "run", saved)
    assert_same_state(restored, saved)
    for _ in range(2):
        saved, restored = step(*saved), step(*restored)
    assert_same_state(restored, saved)


@pytest.mark.parametrize("n", [1, 2, 8, 9])
def test_lbfgs_of_a_few_parameters(n, tmp_path):
    """At most eight parameters have a direction of their own."""

    def fun(x):
        return jnp.sum(jnp.cosh(x - jnp.arange(1, n + 1) / n))

    first = co.minimize(fun, jnp.zeros(n), co.lbfgs(), max_evals=3)
    restored = round_trip(tmp_path / "run", first.state)
    assert_same_state(restored, first.state)
    ends = [
        co.minimize(fun, first.params, co.lbfgs(), state=state) for state in (first.state, restored)
    ]
    assert_same_state(*ends)


def test_fit_goes_on_from_a_restored_state(tmp_path):
    """Its key and its place among the batches are in the state."""

    def fit(steps, state=None):
        return co.fit(
            loss,
            PARAMS,
            TX,
            DATA,
            steps=steps,
            batch_size=5,
            key=jax.random.key(0),
            state=state,
        )

    restored = round_trip(tmp_path / "run", fit(7).state)
    assert_same_state(fit(6, restored).state, fit(13).state)
