"""Figure 11 (7-1-8): the loss against the epoch for four learning rates, in real training."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import cs231n_optax
from cs231n_optax.lecture import style
from cs231n_optax.problems import datasets, networks

RATES = {"very high": 30.0, "high": 1.5, "good": 0.3, "low": 0.01}
EPOCHS, BATCH_SIZE = 20, 64


class Data(NamedTuple):
    """The mean training loss of each epoch, (rates, epochs)."""

    loss: jax.Array


def compute() -> Data:
    """A perceptron on the digits by SGD, the four rates in one vmap."""
    digits = datasets.digits()
    net = networks.mlp((8, 8, 1), 10, hidden=(32,))
    steps = len(digits.x_train) // BATCH_SIZE

    def loss(params, batch):
        return networks.cross_entropy(net.apply(params, batch[0]), batch[1])

    def train(rate):
        key = jax.random.key(0)
        tx, data = cs231n_optax.sgd(rate), (digits.x_train, digits.y_train)
        result = cs231n_optax.fit(
            loss, net.init(key), tx, data, steps=EPOCHS * steps, batch_size=BATCH_SIZE, key=key
        )
        return result.history.loss.reshape(EPOCHS, steps).mean(axis=1)

    return Data(jax.jit(jax.vmap(train))(jnp.array(list(RATES.values()))))


def draw(data: Data) -> Figure:
    """One curve per rate; the very high one leaves the picture."""
    figure, axes = style.new_figure()
    colors = (style.ORANGE, style.GREEN, style.VERMILION, style.BLUE)
    for (name, rate), loss, color, marker in zip(
        RATES.items(), np.asarray(data.loss), colors, "sD^o", strict=True
    ):
        label = f"{name}, α = {rate:g}"
        axes.plot(range(1, EPOCHS + 1), loss, color=color, marker=marker, markersize=4, label=label)
    axes.set(xlabel="epoch", ylabel="training loss", ylim=(0, 11), title="SGD, perceptron, digits")
    axes.set_xticks(range(0, EPOCHS + 1, 5))
    style.legend(axes, loc="upper right", ncols=2)
    return figure
