"""The same plane measured: training loss of a network for each learning rate and momentum."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import cs231n_optax
from cs231n_optax.lecture import style
from cs231n_optax.problems import datasets, networks

STEPS, BATCH_SIZE = 200, 64


class Data(NamedTuple):
    """The mean loss of the last 20 steps, (methods, memory, rates); NaN where it diverged."""

    rates: np.ndarray
    memory: np.ndarray
    momentum: jax.Array
    adam: jax.Array


def compute() -> Data:
    """A perceptron on the digits, 20 × 9 runs of each method in one vmap."""
    digits = datasets.digits()
    net = networks.mlp((8, 8, 1), 10, hidden=(16,))
    rates, memory = np.geomspace(1e-4, 10, 21), 1 - np.geomspace(1, 0.01, 9)
    key = jax.random.key(0)

    def loss(params, batch):
        return networks.cross_entropy(net.apply(params, batch[0]), batch[1])

    def final_loss(tx):
        data = digits.x_train, digits.y_train
        run = cs231n_optax.fit(
            loss, net.init(key), tx, data, steps=STEPS, batch_size=BATCH_SIZE, key=key
        )
        return run.history.loss[-20:].mean()

    def plane(method):
        over_rates = jax.vmap(lambda a, b: final_loss(method(a, b)), (0, None))
        return jax.jit(jax.vmap(over_rates, (None, 0)))(jnp.array(rates), jnp.array(memory))

    momentum = plane(lambda rate, rho: cs231n_optax.momentum(rate, rho=rho))
    adam = plane(lambda rate, b1: cs231n_optax.adam(rate, b1=b1))
    return Data(rates, memory, momentum, adam)


def draw(data: Data) -> Figure:
    """Two planes with one colour bar; white where a run diverged."""
    figure, axes = style.new_figure(2, height=3.2, sharey=True)
    image = None
    for each, loss, title, label in (
        (axes[0], data.momentum, "momentum", "ρ"),
        (axes[1], data.adam, "Adam", "β₁"),
    ):
        shades = np.log10(np.asarray(loss))
        rows = np.arange(len(data.memory))
        image = each.pcolormesh(
            data.rates, rows, shades, cmap="viridis", vmin=-2, vmax=1, shading="nearest"
        )
        each.set(xscale="log", xlabel="learning rate α", title=title, ylabel=label)
        each.set_yticks(rows, [f"{b:.2g}" for b in data.memory])
    bar = figure.colorbar(image, ax=axes, ticks=[-2, -1, 0, 1], extend="both")
    bar.ax.set_yticklabels(["0.01", "0.1", "1", "10"])
    bar.set_label("training loss after 200 steps")
    return figure
