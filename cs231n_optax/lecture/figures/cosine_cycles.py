"""Snapshots on a cyclic learning rate (7-1-11), in real training."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import cs231n_optax
from cs231n_optax.lecture import style
from cs231n_optax.problems import datasets, networks

RATE, CYCLES, CYCLE, BATCH_SIZE = 1.0, 5, 150, 32


class Data(NamedTuple):
    """The rate and the loss of each step, and the test accuracies of the snapshots."""

    rate: jax.Array
    loss: jax.Array
    accuracy: jax.Array
    ensemble_accuracy: jax.Array


def compute() -> Data:
    """A perceptron on 300 of the digits by SGD; one snapshot at the end of each cycle."""
    digits = datasets.digits()
    net, key = networks.mlp((8, 8, 1), 10, hidden=(32,)), jax.random.key(0)

    def loss(params, batch):
        return networks.cross_entropy(net.apply(params, batch[0]), batch[1])

    run = cs231n_optax.fit(
        loss,
        net.init(key),
        cs231n_optax.sgd(cs231n_optax.cyclic_cosine(RATE, cycle_length=CYCLE)),
        (digits.x_train[:300], digits.y_train[:300]),
        steps=CYCLES * CYCLE,
        batch_size=BATCH_SIZE,
        key=key,
        averaging=cs231n_optax.snapshots(CYCLES, every=CYCLE),
    )
    members = cs231n_optax.snapshot_params(run.state)
    logits = jax.vmap(net.apply, (0, None))(members, digits.x_test)
    each = jax.vmap(networks.accuracy, (0, None))(logits, digits.y_test)
    mean = jnp.mean(jax.nn.softmax(logits), axis=0)
    history = run.history
    return Data(history.learning_rate, history.loss, each, networks.accuracy(mean, digits.y_test))


def draw(data: Data) -> Figure:
    """Loss above, rate below, and a marker for each snapshot."""
    figure, (top, bottom) = style.new_figure(1, 2, height=3.8, sharex=True)
    steps = np.arange(len(data.loss))
    ends = CYCLE * np.arange(1, CYCLES + 1)
    top.plot(steps, data.loss, color="0.6", linewidth=0.7)
    top.set(yscale="log", ylabel="training loss")
    for end, accuracy in zip(ends, np.asarray(data.accuracy), strict=True):
        top.axvline(end, color=style.BLUE, linewidth=0.8)
        top.text(
            end - 5, 3.2, f"{accuracy:.1%}", ha="right", va="top", fontsize=8, color=style.BLUE
        )
    top.set_title(
        f"test accuracy of each snapshot; of their average {float(data.ensemble_accuracy):.1%}"
    )
    bottom.plot(steps, data.rate, color="black")
    bottom.plot(ends, np.zeros(CYCLES), "o", color=style.BLUE, clip_on=False, label="snapshot")
    bottom.set(xlabel="step", ylabel="learning rate α")
    style.legend(bottom, loc="upper right")
    return figure
