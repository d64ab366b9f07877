"""What several tests share: a training loop of one evaluation and one update, and comparisons."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import cs231n_optax as co
from cs231n_optax.globalization.trial import Status, Trial, find_trial

MINIMISERS = {
    "lbfgs": co.lbfgs,
    "bfgs": co.bfgs,
    "newton": co.newton,
    "newton_cg": co.newton_cg,
    "gradient_descent": lambda: co.with_line_search(optax.identity()),
}


class Step(NamedTuple):
    """The input and the output of one update: NumPy arrays, but for the state."""

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


apply_updates = jax.jit(optax.apply_updates)


def run(
    tx, fun, x0, *, dtype=None, evaluate=None, update=None, hessian=None, max_evals=300, **given
):
    """Updates until a final status.

    ``evaluate(x, k)``, in place of a function, gives a value and a gradient; ``hessian(x)``, in
    place of the objective, a Hessian. Whatever else is given goes to each update.
    """
    params = jnp.asarray(np.asarray(x0, dtype))
    real, state, steps = np.finfo(params.dtype).dtype, tx.init(params), []
    update = update or update_of(tx, None if hessian else fun)
    for k in range(max_evals):
        value, grads = evaluate(params, k) if evaluate else value_and_grad(fun)(params)
        value, grads = jnp.asarray(value, real), jnp.asarray(grads, params.dtype)
        if hessian:
            given["hessian"] = hessian(np.asarray(params))
        updates, state = update(grads, state, params, value, **given)
        evaluated = jax.device_get((params, value, grads, updates, find_trial(state)))
        steps.append(Step(*evaluated, state))
        params = apply_updates(params, updates)
        if steps[-1].status != Status.RUNNING:
            break
    return steps


def assert_same_bits(one, other):
    """The same tree, of the same numbers."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(x, y)


def assert_close(one, other, **tolerance):
    """The same tree, of numbers that agree to a tolerance."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


def member(tree, i):
    """One lane of a batch, or a slice of them."""
    return jax.tree.map(lambda x: x[i], tree)


def assert_same_state(one, other):
    """The same tree of the same dtypes and bits; of random keys, too."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert x.dtype == y.dtype
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_array_equal(x, y)


def anchor(trial):
    return trial.anchor_params, trial.anchor_value, trial.grad, trial.grad_norm
