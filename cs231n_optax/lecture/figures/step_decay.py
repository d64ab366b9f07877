"""Figure 12 (7-1-8): step decay, and the loss that falls at each drop, in real training."""

from typing import NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

import cs231n_optax
from cs231n_optax.lecture import style
from cs231n_optax.problems import datasets, networks

RATE, FACTOR, DROP_EVERY, EPOCHS, BATCH_SIZE = 2.0, 0.3, 5, 15, 8


class Data(NamedTuple):
    """The mean training loss of each epoch, with step decay and at the first rate throughout."""

    decayed: jax.Array
    constant: jax.Array


def compute() -> Data:
    """SGD with batches of 8 on softmax regression of the digits."""
    digits = datasets.digits()
    net = networks.softmax_regression((8, 8, 1), 10)
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

    decay = cs231n_optax.step_decay(RATE, every=DROP_EVERY * steps, factor=FACTOR)
    return Data(decayed=train(decay), constant=train(RATE))


def draw(data: Data) -> Figure:
    """Both curves, with the drops marked."""
    figure, axes = style.new_figure()
    epochs = np.arange(1, EPOCHS + 1)
    axes.plot(epochs, data.constant, color="0.5", linestyle="--", label=f"α = {RATE:g} throughout")
    axes.plot(epochs, data.decayed, color=style.BLUE, label=f"α times {FACTOR:g} at each drop")
    for drop in range(DROP_EVERY, EPOCHS, DROP_EVERY):
        axes.axvline(drop + 0.5, color="0.75", linewidth=0.8)
    axes.set(xlabel="epoch", ylabel="training loss", title="step decay: softmax regression, digits")
    axes.set_yscale("log")
    axes.set_xticks(range(0, EPOCHS + 1, DROP_EVERY))
    style.legend(axes, loc="upper right")
    return figure
