"""Equinox: a partitioned model in a filtered step; checkpoints by ``tree_serialise_leaves``."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from frameworks.problem import X, mean_squared_error


class TwoLayers(eqx.Module):
    linear: eqx.nn.Linear
    waves: eqx.nn.Linear

    def __init__(self, dtype):
        key, other_key = jax.random.split(jax.random.key(0))
        self.linear = eqx.nn.Linear(4, 1, key=key, dtype=dtype)
        self.waves = eqx.nn.Linear(4, 1, use_bias=False, key=other_key, dtype=dtype)

    def __call__(self, x):
        return self.linear(x) + self.waves(jnp.cos(x))


def compute_in(dtype, tree):
    return jax.tree.map(lambda leaf: leaf.astype(dtype) if eqx.is_array(leaf) else leaf, tree)


@functools.cache
def step_of(tx, dtype):
    """What one compilation is for."""
    traces = []

    @eqx.filter_jit(donate="all")
    def step(params, rest, opt_state):
        traces.append(None)

        def loss_fn(params):
            model = compute_in(dtype, eqx.combine(params, rest))
            return mean_squared_error(jax.vmap(model)(X.astype(dtype)))

        loss, grads = eqx.filter_value_and_grad(loss_fn)(params)
        updates, opt_state = tx.update(grads, opt_state, params, value=loss, value_fn=loss_fn)
        return eqx.apply_updates(params, updates), opt_state, loss

    return step, traces


class Training:
    def __init__(self, tx, *, dtype=jnp.float32, param_dtype=jnp.float32):
        self.compiled_step, self.traces = step_of(tx, dtype)
        params, self.rest = eqx.partition(TwoLayers(param_dtype), eqx.is_inexact_array)
        self.state = params, tx.init(params)

    def step(self):
        params, opt_state, loss = self.compiled_step(self.state[0], self.rest, self.state[1])
        self.state = params, opt_state
        return loss

    def tree(self):
        return self.state[0]

    def opt_state(self):
        return self.state[1]

    def arrays(self):
        return jax.tree.leaves(self.state)

    def save(self, path):
        eqx.tree_serialise_leaves(path, self.state)

    def restore(self, path):
        self.state = eqx.tree_deserialise_leaves(path, self.state)
