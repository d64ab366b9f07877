"""The step sizes of the adaptive methods over time (7-1-4 to 7-1-7), in real training."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import cs231n_optax
from cs231n_optax.lecture import style
from cs231n_optax.problems import datasets, networks

METHODS = {
    "adagrad": cs231n_optax.adagrad,
    "rmsprop": cs231n_optax.rmsprop,
    "adam-uncorrected": lambda rate: cs231n_optax.adam(rate, bias_correction=False),
    "adam": cs231n_optax.adam,
}
RATE, STEPS, BATCH_SIZE = 1e-3, 1000, 32


class Data(NamedTuple):
    """Over the parameters, the median |step| in units of α, (methods, steps)."""

    median: np.ndarray


def compute() -> Data:
    """A perceptron on the digits, all methods with α = 1e-3 on the same batches."""
    digits = datasets.digits()
    net = networks.mlp((8, 8, 1), 10, hidden=(32,))
    order = jax.random.randint(jax.random.key(1), (STEPS, BATCH_SIZE), 0, len(digits.x_train))
    x, y = jnp.asarray(digits.x_train), jnp.asarray(digits.y_train)

    def run(tx):
        def step(carry, rows):
            params, state = carry
            grads = jax.grad(lambda p: networks.cross_entropy(net.apply(p, x[rows]), y[rows]))(
                params
            )
            updates, state = tx.update(grads, state, params)
            size = jnp.median(jnp.abs(updates["w2"])) / RATE
            return (optax.apply_updates(params, updates), state), size

        params = net.init(jax.random.key(0))
        return jax.lax.scan(step, (params, tx.init(params)), order)[1]

    return Data(np.stack([jax.jit(run, static_argnums=0)(m(RATE)) for m in METHODS.values()]))


def draw(data: Data) -> Figure:
    """One curve per method; AdaGrad's falls as 1 / √t."""
    figure, axes = style.new_figure()
    steps = np.arange(1, STEPS + 1)
    for name, median in zip(METHODS, data.median, strict=True):
        line = style.METHOD_STYLES[name]
        axes.plot(steps, median, color=line.color, linestyle=line.linestyle, label=name)
    axes.plot(steps, 1 / np.sqrt(steps), color="0.6", linewidth=0.8, label="1 / √t")
    axes.set(xscale="log", yscale="log", xlabel="step", ylabel="median |step| / α")
    axes.set_title("step sizes in the last layer of a perceptron")
    style.legend(axes, loc="lower left")
    return figure
