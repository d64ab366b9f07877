"""Flax NNX: ``nnx.Optimizer``; checkpoints by Orbax, as NNX's own guide has it."""

import functools

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from flax import nnx
from frameworks.problem import X, mean_squared_error


class TwoLayers(nnx.Module):
    def __init__(self, **dtypes):
        rngs = nnx.Rngs(0)
        self.linear = nnx.Linear(4, 1, rngs=rngs, **dtypes)
        self.waves = nnx.Linear(4, 1, use_bias=False, rngs=rngs, **dtypes)

    def __call__(self, x):
        return self.linear(x) + self.waves(jnp.cos(x))


def loss_fn(model):
    return mean_squared_error(model(X))


@functools.cache
def step_of(tx, dtype, param_dtype):
    """What one compilation is for."""
    traces = []

    @nnx.jit(donate_argnums=(0, 1))
    def step(model, optimizer):
        traces.append(None)
        graphdef, _, rest = nnx.split(model, nnx.Param, ...)
        loss, grads = nnx.value_and_grad(loss_fn)(model)
        optimizer.update(
            model,
            grads,
            value=loss,
            value_fn=lambda params: loss_fn(nnx.merge(graphdef, params, rest)),
        )
        return loss

    return step, traces


class Training:
    def __init__(self, tx, *, dtype=jnp.float32, param_dtype=jnp.float32):
        self.compiled_step, self.traces = step_of(tx, dtype, param_dtype)
        self.model = TwoLayers(dtype=dtype, param_dtype=param_dtype)
        self.optimizer = nnx.Optimizer(self.model, tx, wrt=nnx.Param)

    def step(self):
        return self.compiled_step(self.model, self.optimizer)

    def tree(self):
        return nnx.state(self.model, nnx.Param)

    def opt_state(self):
        return self.optimizer.opt_state

    def arrays(self):
        return jax.tree.leaves(nnx.state((self.model, self.optimizer)))

    def save(self, path):
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(path, nnx.state((self.model, self.optimizer)))

    def restore(self, path):
        target = jax.eval_shape(lambda: nnx.state((self.model, self.optimizer)))
        with ocp.StandardCheckpointer() as checkpointer:
            nnx.update((self.model, self.optimizer), checkpointer.restore(path, target))
