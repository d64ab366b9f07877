"""Haiku: a transformed function; its trees of plain arrays are checkpointed by pickle."""

import functools
import pickle

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
from frameworks.problem import X, mean_squared_error


def two_layers(x):
    return hk.Linear(1)(x) + hk.Linear(1, with_bias=False)(jnp.cos(x))


network = hk.without_apply_rng(hk.transform(two_layers))


@functools.cache
def step_of(tx, dtype):
    """What one compilation is for."""
    traces = []

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, opt_state):
        traces.append(None)

        def loss_fn(params):
            params, x = jax.tree.map(lambda leaf: leaf.astype(dtype), (params, X))
            return mean_squared_error(network.apply(params, x))

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, opt_state = tx.update(grads, opt_state, params, value=loss, value_fn=loss_fn)
        return optax.apply_updates(params, updates), opt_state, loss

    return step, traces


class Training:
    def __init__(self, tx, *, dtype=jnp.float32, param_dtype=jnp.float32):
        self.compiled_step, self.traces = step_of(tx, dtype)
        init = network.init(jax.random.key(0), X)
        params = jax.tree.map(lambda leaf: leaf.astype(param_dtype), init)
        self.state = params, tx.init(params)

    def step(self):
        *self.state, loss = self.compiled_step(*self.state)
        return loss

    def tree(self):
        return self.state[0]

    def opt_state(self):
        return self.state[1]

    def arrays(self):
        return jax.tree.leaves(self.state)

    def save(self, path):
        path.write_bytes(pickle.dumps(jax.tree.map(np.asarray, self.state)))

    def restore(self, path):
        self.state = jax.tree.map(jnp.asarray, pickle.loads(path.read_bytes()))
