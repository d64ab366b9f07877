"""Flax Linen: a ``TrainState``; checkpoints by Flax's own serialisation."""

import functools

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import serialization
from flax.training import train_state
from frameworks.problem import X, mean_squared_error


class TwoLayers(nn.Module):
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        dense = functools.partial(nn.Dense, dtype=self.dtype, param_dtype=self.param_dtype)
        return dense(1)(x) + dense(1, use_bias=False)(jnp.cos(x))


@functools.cache
def model_and_step(dtype, param_dtype, tx):
    """What one compilation is for."""
    model, traces = TwoLayers(dtype, param_dtype), []

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state):
        traces.append(None)

        def loss_fn(params):
            return mean_squared_error(state.apply_fn({"params": params}, X))

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        # What apply_gradients does, with the loss.
        updates, opt_state = state.tx.update(
            grads, state.opt_state, state.params, value=loss, value_fn=loss_fn
        )
        params = optax.apply_updates(state.params, updates)
        return state.replace(step=state.step + 1, params=params, opt_state=opt_state), loss

    return model, step, traces


class Training:
    def __init__(self, tx, *, dtype=jnp.float32, param_dtype=jnp.float32):
        model, self.compiled_step, self.traces = model_and_step(dtype, param_dtype, tx)
        params = model.init(jax.random.key(0), X)["params"]
        state = train_state.TrainState.create(apply_fn=model.apply, params=params, tx=tx)
        # Flax starts at a Python 0, but restores an array: that would be one compile more.
        self.state = state.replace(step=jnp.int32(0))

    def step(self):
        self.state, loss = self.compiled_step(self.state)
        return loss

    def tree(self):
        return self.state.params

    def opt_state(self):
        return self.state.opt_state

    def arrays(self):
        return jax.tree.leaves(self.state)

    def save(self, path):
        path.write_bytes(serialization.to_bytes(self.state))

    def restore(self, path):
        self.state = serialization.from_bytes(self.state, path.read_bytes())
