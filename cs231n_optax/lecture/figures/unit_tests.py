"""Unit tests for stochastic optimisation: every method on every shape with every noise.

A test is one function of one or two variables and one kind of noise on its gradient. Each method
gets its best learning rate of a grid. The shapes and noises follow the source; the colour is the
part of the way to the minimum that is left after 100 steps.

Source: T. Schaul, I. Antonoglou and D. Silver, "Unit tests for stochastic optimization", ICLR 2014
(arXiv:1312.6055).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import cs231n_optax
from cs231n_optax.lecture import style

METHODS = {
    "sgd": cs231n_optax.sgd,
    "momentum": cs231n_optax.momentum,
    "nesterov": cs231n_optax.nesterov,
    "adagrad": cs231n_optax.adagrad,
    "rmsprop": cs231n_optax.rmsprop,
    "adam-uncorrected": lambda rate: cs231n_optax.adam(rate, bias_correction=False),
    "adam": cs231n_optax.adam,
}
# Each is zero at its minimum, the origin, and starts at START. The slope has no minimum: there the
# measure is how far below zero it gets.
SHAPES = {
    "bowl": lambda x: jnp.sum(x**2) / 2,
    "steep": lambda x: 50 * jnp.sum(x**2),
    "valley": lambda x: (x[0] ** 2 + 100 * x[1] ** 2) / 2,
    "corner": lambda x: jnp.sum(jnp.abs(x)),
    "quartic": lambda x: jnp.sum(x**4) / 4,
    "plateau": lambda x: jnp.sum(1 - jnp.exp(-2 * x**2)),
    "cliff": lambda x: jnp.sum(jnp.where(jnp.abs(x) > 0.5, 20 * (jnp.abs(x) - 0.5) + 0.25, x**2)),
    "curve": lambda x: 10 * (x[1] - x[0] ** 2) ** 2 + x[0] ** 2,
}
NOISES = {
    "none": lambda key, g: g,
    "additive": lambda key, g: g + jax.random.normal(key, g.shape),
    "multiplicative": lambda key, g: g * (1 + jax.random.normal(key, g.shape)),
    "heavy tails": lambda key, g: g + 0.3 * jax.random.cauchy(key, g.shape),
    "sparse": lambda key, g: g * jax.random.bernoulli(key, 0.2, g.shape),
}
START = (1.2, 0.9)
RATES, SEEDS, STEPS = np.geomspace(1e-4, 10, 26), 10, 100


class Data(NamedTuple):
    """The part of f(start) that is left, at the best rate, (methods, shapes, noises)."""

    left: np.ndarray


def compute() -> Data:
    """All rates and seeds in one vmap per method; the median over the seeds counts."""

    def run(method, shape, noise, rate, seed):
        tx, x = method(rate), jnp.array(START)

        def step(carry, key):
            x, state = carry
            g = jax.lax.switch(noise, list(NOISES.values()), key, jax.grad(value)(x))
            updates, state = tx.update(g, state, x)
            return (optax.apply_updates(x, updates), state), None

        def value(x):
            return jax.lax.switch(shape, list(SHAPES.values()), x)

        keys = jax.random.split(jax.random.key(seed), STEPS)
        (end, _), _ = jax.lax.scan(step, (x, tx.init(x)), keys)
        return jnp.nan_to_num(value(end) / value(x), nan=1e9, posinf=1e9)

    def tuned(method):
        axes = np.arange(len(SHAPES)), np.arange(len(NOISES)), RATES, np.arange(SEEDS)
        table = [jnp.array(column).ravel() for column in np.meshgrid(*axes, indexing="ij")]
        left = jax.jit(jax.vmap(lambda *row: run(method, *row)))(*table)
        left = np.reshape(left, [len(axis) for axis in axes])
        return np.median(left, axis=-1).min(axis=-1)

    return Data(np.stack([tuned(method) for method in METHODS.values()]))


def draw(data: Data) -> Figure:
    """One panel per shape; rows are methods, columns noises."""
    figure, axes = style.new_figure(4, 2, height=4.6, sharex=True, sharey=True)
    shades = np.log10(np.clip(data.left, 1e-8, 1))
    image = None
    for i, (name, each) in enumerate(zip(SHAPES, axes.ravel(), strict=True)):
        image = each.imshow(shades[:, i], cmap="viridis", vmin=-8, vmax=0, aspect="auto")
        each.set_title(name)
        each.set_xticks(range(len(NOISES)), NOISES, rotation=60, ha="right", rotation_mode="anchor")
        each.set_yticks(range(len(METHODS)), METHODS)
        each.tick_params(length=0, labelsize=style.FONT_SIZE - 1)
    bar = figure.colorbar(image, ax=axes, ticks=[-8, -6, -4, -2, 0], extend="min")
    bar.ax.set_yticklabels(["1e-8", "1e-6", "1e-4", "0.01", "1"], fontsize=style.FONT_SIZE - 1)
    bar.set_label("part of f(start) left after 100 steps")
    return figure
