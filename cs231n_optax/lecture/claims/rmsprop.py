"""Lecture 7-1-5: RMSProp, and how fast it moves."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure

import cs231n_optax
from cs231n_optax.lecture import style
from cs231n_optax.lecture.claims import picture
from cs231n_optax.lecture.claims.claim import (
    Claim,
    Estimate,
    Numbers,
    Verdict,
    by_case,
    is_above,
    is_below,
    mean,
    ratio,
    slope,
)
from cs231n_optax.lecture.claims.experiment import for_each, lowest_regression_loss, training_set
from cs231n_optax.lecture.claims.learning_rate import BATCH_SIZE, MODELS, Model

METHODS = {"rmsprop": cs231n_optax.rmsprop, "adagrad": cs231n_optax.adagrad}
LABELS = {"rmsprop": "RMSProp", "adagrad": "AdaGrad"}
ROUNDING = 1e-6
"""Losses closer to the minimum than this differ by rounding errors, in float32."""


def train(
    model: Model, tx: Any, data: Any, key: jax.Array, *, steps: int, looks: int = 1
) -> tuple[jax.Array, jax.Array]:
    """Train by batches of 32.

    Returns:
      The loss on all data, at first and then ``looks`` times, after equal numbers of steps; and
      the root mean square of each step over the parameters, (steps,).
    """
    start, order = jax.random.split(key)
    params, unravel = ravel_pytree(model.init(start))
    num_examples = jax.tree.leaves(data)[0].shape[0]
    batches = jax.random.randint(order, (looks, steps // looks, BATCH_SIZE), 0, num_examples)

    def loss(params, data):
        return model.loss(unravel(params), data)

    def step(carry, rows):
        params, state = carry
        grads = jax.grad(loss)(params, jax.tree.map(lambda x: x[rows], data))
        updates, state = tx.update(grads, state, params)
        return (params + updates, state), jnp.sqrt(jnp.mean(updates**2))

    def stage(carry, batches):
        carry, lengths = jax.lax.scan(step, carry, batches)
        return carry, (loss(carry[0], data), lengths)

    _, (losses, lengths) = jax.lax.scan(stage, (params, tx.init(params)), batches)
    return jnp.append(loss(params, data), losses), lengths.ravel()


def one_of(txs: Sequence[optax.GradientTransformation], index: Any) -> optax.GradientTransformation:
    """One of the methods by a traced index, so that all of them share one program."""

    def init(params):
        return tuple(tx.init(params) for tx in txs)

    def update(updates, state, params=None):
        found = [tx.update(updates, own, params) for tx, own in zip(txs, state, strict=True)]
        directions, states = zip(*found, strict=True)
        return jax.tree.map(lambda *each: jax.lax.select_n(index, *each), *directions), states

    return optax.GradientTransformation(init, update)


# RMSProp keeps moving.

SLOPE = Model(lambda key: jnp.zeros(100), lambda params, batch: jnp.mean(batch @ params))
CASES = ("the slope is constant", *(f"the model is {name}" for name in MODELS))
RATES = np.array([1e-3, 1e-2])


def step_lengths(quick: bool) -> dict[str, Any]:
    """RMSProp with α = 0.001 and AdaGrad with α = 0.01, 2048 steps each (with `--quick`, 512).

    On a constant slope in 100 dimensions, each partial derivative 1 with noise of standard
    deviation 1, and on softmax regression and a perceptron of the digits by batches of 32.
    Measured: the root mean square of the steps over the parameters, in units of α, from step 32 to
    64, from there to 128, and so on.
    """
    windows = 2 ** np.arange(5, 9 if quick else 11)
    slopes = 1 + BATCH_SIZE**0.5 * jax.random.normal(jax.random.key(0), (4096, 100))

    def run(model, data, key):
        def lengths(index, rate):
            tx = one_of([make(rate) for make in METHODS.values()], index)
            squares = train(model, tx, data, key, steps=2 * int(windows[-1]))[1] ** 2
            means = [jnp.mean(squares[t : 2 * t]) for t in windows.tolist()]
            return jnp.sqrt(jnp.stack(means)) / rate

        return jax.vmap(lengths)(jnp.arange(len(METHODS)), RATES)

    keys = jax.random.split(jax.random.key(1), 4 if quick else 20)
    tasks = [(SLOPE, slopes), *((model, training_set()) for model in MODELS.values())]
    found = [for_each(partial(run, *task), keys) for task in tasks]
    return {"t": windows * 2**0.5, "length": np.stack(found, axis=1)}


def exponents(numbers: Numbers) -> list[list[Estimate]]:
    """The exponents p of length ∝ t^p, for each case those of RMSProp and AdaGrad."""
    lengths = np.moveaxis(numbers["length"], 0, 2)  # (cases, methods, repeats, windows)
    return [[slope(numbers["t"], method) for method in case] for case in lengths]


def keeps_moving(numbers: Numbers) -> Verdict:
    """Holds where RMSProp's steps ∝ t^p with p above -0.1, and AdaGrad's with p below -0.4."""
    fits = exponents(numbers)
    return by_case(CASES, [is_above(fit[0], -0.1) and is_below(fit[1], -0.4) for fit in fits])


def lengths_figure(numbers: Numbers) -> str:
    """The exponents."""
    fits = zip(CASES, exponents(numbers), strict=True)
    each = (f"{rms} and {ada} where {case}" for case, (rms, ada) in fits)
    return f"step ∝ t^p with p, for RMSProp and AdaGrad: {', '.join(each)}"


def lengths_picture(numbers: Numbers) -> Figure:
    """The lengths over t, one panel for each case."""
    figure, panels = picture.new_picture(len(CASES), sharey=True)
    t, lengths = numbers["t"], numbers["length"]
    for i, (axes, title) in enumerate(zip(panels, ("constant slope", *MODELS), strict=True)):
        for j, name in enumerate(METHODS):
            picture.points(axes, t, mean(lengths[:, i, j]), style.METHOD_STYLES[name], LABELS[name])
        reference = lengths[:, i, 1, 0].mean() * (t / t[0]) ** -0.5
        axes.plot(t, reference, color="black", linestyle=":", linewidth=1, label="∝ 1 / √t")
        picture.log_axes(axes)
        axes.set_xticks(t[::2], [f"{each:.0f}" for each in t[::2]])
        axes.set_xticks([], minor=True)
        axes.set(xlabel="step t", title=title)
    panels[0].set(ylabel="step / α", ylim=(0.002, 2))
    style.legend(panels[0], loc="lower left")
    return figure


KEEPS_MOVING = Claim(
    name="rmsprop-keeps-moving",
    section="7-1-5",
    statement="RMSProp keeps moving: its steps do not shrink, where AdaGrad's fall as 1/√t.",
    experiment=step_lengths,
    verdict=keeps_moving,
    figure=lengths_figure,
    draw=lengths_picture,
)

# Training becomes slow.

SCALES = np.array([1e-4, 1e-3, 1e-2])
"""Of the learning rates: RMSProp's, and a tenth of AdaGrad's."""
READINGS = {"steps": "the length of the steps", "falls": "the fall of the logarithm of the loss"}


def speeds(quick: bool) -> dict[str, Any]:
    """RMSProp with α = 0.0001, 0.001 and 0.01, for 50 epochs of 40 steps (with `--quick`, 20).

    On softmax regression and a perceptron of the digits by batches of 32; beside it AdaGrad with
    ten times these α. Measured in the first tenth of the training and in its second half: the mean
    length of a step, and the mean fall per step of the logarithm of the loss above its minimum.
    """
    epochs, epoch = 20 if quick else 50, 40
    minima = lowest_regression_loss(), 0.0

    def run(model, minimum, key):
        def speed(index, rate):
            tx = one_of([make(rate) for make in METHODS.values()], index)
            losses, steps = train(
                model, tx, training_set(), key, steps=epochs * epoch, looks=epochs
            )
            logs = jnp.log(jnp.maximum(losses - minimum, ROUNDING))
            early, late = epochs // 10, epochs // 2
            return {
                "steps": jnp.stack(
                    [jnp.mean(steps[: early * epoch]), jnp.mean(steps[late * epoch :])]
                ),
                "falls": jnp.stack(
                    [(logs[0] - logs[early]) / early, (logs[late] - logs[-1]) / (epochs - late)]
                )
                / epoch,
            }

        rates = jnp.stack([SCALES, 10 * SCALES])
        return jax.vmap(jax.vmap(speed, (None, 0)))(jnp.arange(len(METHODS)), rates)

    keys = jax.random.split(jax.random.key(2), 4 if quick else 20)
    tasks = zip(MODELS.values(), minima, strict=True)
    found = [for_each(partial(run, *task), keys) for task in tasks]
    both = jax.tree.map(lambda *each: np.stack(each, axis=1), *found)
    return {"rate": SCALES, **both}


def late_over_early(numbers: Numbers, reading: str) -> Estimate:
    """The speed in the second half over that in the first tenth, (models, methods, rates)."""
    return ratio(numbers[reading][..., 1], numbers[reading][..., 0])


def always_slow(numbers: Numbers) -> Verdict:
    """Holds for a measure of the speed and a model with late / early below 0.5 for each α.

    That is RMSProp's speed in the second half of the training over that in the first tenth.
    """
    cases = [f"{what} is measured, on {name}" for what in READINGS.values() for name in MODELS]
    slow = [is_below(late_over_early(numbers, name)[:, 0], 0.5).all(axis=-1) for name in READINGS]
    return by_case(cases, np.concatenate(slow))


def speeds_figure(numbers: Numbers) -> str:
    """RMSProp's relative speeds."""
    parts = []
    for name, what in READINGS.items():
        rows = zip(late_over_early(numbers, name)[:, 0], MODELS, strict=True)
        each = (f"{', '.join(map(str, row))} ({model})" for row, model in rows)
        parts.append(f"{what} {'; '.join(each)}")
    rates = ", ".join(f"{rate:g}" for rate in numbers["rate"])
    return f"late / early with α = {rates}: {'; '.join(parts)}"


def speeds_picture(numbers: Numbers) -> Figure:
    """The relative speeds over α, one panel for each measure."""
    figure, panels = picture.new_picture(2, sharey=True)
    for axes, name, title in zip(
        panels, READINGS, ("length of the steps", "fall of ln(loss)"), strict=True
    ):
        relative = late_over_early(numbers, name)
        for j, method in enumerate(METHODS):
            for i, (model, dash) in enumerate(zip(("softmax", "perceptron"), "-:", strict=True)):
                line = style.METHOD_STYLES[method]._replace(linestyle=dash)
                label = f"{LABELS[method]}, {model}"
                picture.points(axes, numbers["rate"], relative[i, j], line, label)
        picture.target(axes, 0.5, "half as fast")
        axes.set(xscale="log", xlabel="α (AdaGrad: 10 α)", title=title)
    panels[0].set(ylabel="late / early")
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=style.FONT_SIZE - 1,
    )
    return figure


ALWAYS_SLOW = Claim(
    name="rmsprop-becomes-slow",
    section="7-1-5",
    statement="Training with RMSProp always becomes slow.",
    experiment=speeds,
    verdict=always_slow,
    figure=speeds_figure,
    draw=speeds_picture,
)

CLAIMS = (KEEPS_MOVING, ALWAYS_SLOW)
