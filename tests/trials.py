"""The ordinary loop of a method with trials, in Python: an evaluation and an update at a time."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cs231n_optax._trial import Status, Trial, find_trial


class Step(NamedTuple):
    """What one update was given, and what it answered; NumPy arrays but for the state."""

    params: np.ndarray
    value: np.ndarray
    grads: np.ndarray
    updates: np.ndarray
    trial: Trial
    state: object

    @property
    def status(self):
        return Status(int(self.trial.status))

    @property
    def num_hessians(self):
        return int(optax.tree.get(self.state, "num_hessians"))


@functools.cache
def value_and_grad(fun):
    return jax.jit(jax.value_and_grad(fun))


@functools.cache
def update_of(tx, fun=None):
    """The jitted update, with the objective or with what else it is given."""
    return jax.jit(
        lambda grads, state, params, value, **given: tx.update(
            grads, state, params, value=value, value_fn=fun, **given
        )
    )


def run(tx, fun, x0, *, dtype=None, evaluate=None, hessian=None, objective=None, max_evals=300):
    """Updates until a final status.

    ``evaluate(x, k)``, in place of a function, gives a value and a gradient; ``hessian(x)``, in
    place of the objective, a Hessian.
    """
    params = jnp.asarray(np.asarray(x0, dtype))
    real, state, steps = np.finfo(params.dtype).dtype, tx.init(params), []
    update = update_of(tx, None if hessian else objective or fun)
    for k in range(max_evals):
        value, grads = evaluate(params, k) if evaluate else value_and_grad(fun)(params)
        value, grads = jnp.asarray(value, real), jnp.asarray(grads, params.dtype)
        given = {"hessian": hessian(np.asarray(params))} if hessian else {}
        updates, state = update(grads, state, params, value, **given)
        seen = jax.device_get((params, value, grads, updates, find_trial(state)))
        steps.append(Step(*seen, state))
        params = optax.apply_updates(params, updates)
        if steps[-1].status != Status.RUNNING:
            break
    return steps


def assert_same_bits(one, other):
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(x, y)


def assert_same_state(one, other):
    """The same tree of the same dtypes and bits; of random keys, too."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert x.dtype == y.dtype
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


def anchor(trial):
    return trial.anchor_params, trial.anchor_value, trial.anchor_grad, trial.grad_norm
