"""Lecture 7-1-8: the learning rate, and its decay."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import cs231n_optax
from cs231n_optax.lecture import style
from cs231n_optax.lecture.claims import picture
from cs231n_optax.lecture.claims.claim import (
    Claim,
    Numbers,
    Verdict,
    by_case,
    is_above,
    is_below,
    mean,
    ratio,
)
from cs231n_optax.lecture.claims.experiment import (
    L2,
    for_each,
    for_each_pair,
    lowest_regression_loss,
    training_set,
)
from cs231n_optax.problems import networks

BATCH_SIZE, EPOCH = 32, 44
PERCEPTRON = networks.mlp((8, 8, 1), 10, hidden=(16,))
REGRESSION = networks.softmax_regression((8, 8, 1), 10)


class Model(NamedTuple):
    """A model of the digits: its first parameters, and its loss on a batch."""

    init: Callable[[jax.Array], Any]
    loss: Callable[[Any, Any], jax.Array]


def perceptron_loss(params: Any, batch: Any) -> jax.Array:
    """The mean cross-entropy, which can fall to zero."""
    return networks.cross_entropy(PERCEPTRON.apply(params, batch[0]), batch[1])


def regression_loss(params: Any, batch: Any) -> jax.Array:
    """The mean cross-entropy with an L2 penalty: at the minimum the batches still disagree."""
    penalty = L2 / 2 * optax.tree.norm(params, squared=True)
    return networks.cross_entropy(REGRESSION.apply(params, batch[0]), batch[1]) + penalty


MODELS = {
    "softmax regression": Model(REGRESSION.init, regression_loss),
    "a perceptron": Model(PERCEPTRON.init, perceptron_loss),
}


def losses_by_epoch(model: Model, learning_rate: Any, key: jax.Array, epochs: int) -> jax.Array:
    """The loss on the whole training set before the first epoch of SGD and after each."""
    start, order = jax.random.split(key)
    params, data = model.init(start), training_set()
    history = cs231n_optax.fit(
        model.loss,
        params,
        cs231n_optax.sgd(learning_rate),
        data,
        steps=epochs * EPOCH,
        batch_size=BATCH_SIZE,
        key=order,
        evaluate=lambda params: model.loss(params, data),
        chunk_size=EPOCH,
    ).history
    return jnp.append(model.loss(params, data), history.evaluation)


# The four regimes.

REGIMES = ("low", "good", "high", "very high")


def losses_over_rates(quick: bool) -> dict[str, Any]:
    """SGD with constant rates from 0.003 to 100, by batches of 32 of the 1437 digits.

    On softmax regression with an L2 penalty, and on a perceptron that can fit every example.
    Measured: the training loss at the start, after the first epoch, and after the last of 30 (with
    `--quick`, of 10).
    """
    rates, epochs = 10 ** np.arange(-2.5, 2.1, 0.25), 10 if quick else 30

    def measure(model):
        return for_each_pair(
            lambda key, rate: losses_by_epoch(model, rate, key, epochs), keys, rates
        )

    keys = jax.random.split(jax.random.key(0), 4 if quick else 20)
    loss = np.stack([measure(model) for model in MODELS.values()], axis=1)
    return {"rate": rates, "first": loss[..., 0], "early": loss[..., 1], "late": loss[..., -1]}


def rates_of_regimes(numbers: Numbers) -> list[list[np.ndarray]]:
    """For each model the rates that are low, good, high and very high, as the rule says."""
    found = []
    for i in range(len(MODELS)):
        first, early, late = (numbers[name][:, i] for name in ("first", "early", "late"))
        good = int(np.nanargmin(mean(late).value))
        more_early, more_late = (mean(x - x[:, [good]]) for x in (early, late))
        rate = numbers["rate"]
        lower = rate < rate[good]
        regimes = (
            lower & is_above(more_early, 0) & is_above(more_late, 0),
            rate == rate[good],
            ~lower & is_below(more_early, 0) & is_above(more_late, 0),
            ~lower & is_above(mean(~(late < first)), 0.5),
        )
        found.append([rate[regime] for regime in regimes])
    return found


def all_regimes(numbers: Numbers) -> Verdict:
    """Holds for the models with all four regimes: each has a rate of the grid.

    Good: the rate of the least final loss. Low: below it, with a loss above after the first epoch
    and at the end. High: above it, with a loss that is below after the first epoch, but above at
    the end. Very high: the final loss of above half of the runs is not less than the first.
    """
    found = rates_of_regimes(numbers)
    cases = (f"the model is {name}" for name in MODELS)
    return by_case(cases, [all(len(rates) for rates in each) for each in found])


def regimes_figure(numbers: Numbers) -> str:
    """The rates of each regime."""
    parts = []
    for i, (name, rates) in enumerate(zip(MODELS, rates_of_regimes(numbers), strict=True)):
        late = mean(numbers["late"][:, i])[int(np.nanargmin(mean(numbers["late"][:, i]).value))]
        spans = (
            f"{regime} {' to '.join(f'{x:.2g}' for x in dict.fromkeys(span[[0, -1]]))}"
            if len(span)
            else f"{regime} none"
            for regime, span in zip(REGIMES, rates, strict=True)
        )
        parts.append(f"{name}: {', '.join(spans)}; least loss {late}")
    return "; ".join(parts)


def regimes_picture(numbers: Numbers) -> Figure:
    """The losses over the rate, one panel for each model."""
    figure, panels = picture.new_picture(2, sharey=True)
    for i, (axes, name) in enumerate(zip(panels, MODELS, strict=True)):
        rates = numbers["rate"]
        for row, line, label in (
            ("early", picture.SERIES[0], "after one epoch"),
            ("late", picture.SERIES[1], "at the end"),
        ):
            picture.points(axes, rates, mean(numbers[row][:, i]), line, label)
        picture.target(axes, float(mean(numbers["first"][:, i, 0]).value), "at the start")
        picture.log_axes(axes)
        axes.set(xlabel="learning rate α", title=name)
    panels[0].set(ylabel="training loss")
    style.legend(panels[1], loc="upper left")
    return figure


REGIMES_OF_THE_RATE = Claim(
    name="learning-rate-regimes",
    section="7-1-8",
    statement=(
        "A low learning rate is slow, a high one falls fast and then stalls, a very high one "
        "diverges, and a good one lies between."
    ),
    experiment=losses_over_rates,
    verdict=all_regimes,
    figure=regimes_figure,
    draw=regimes_picture,
)

# Decay against a constant rate.

# From the first rate, the part of it that is left at the end, and the number of steps.
DECAYS: dict[str, Callable[[Any, Any, int], optax.Schedule]] = {
    "constant": lambda rate, part, steps: lambda count: rate,
    "step decay": lambda rate, part, steps: cs231n_optax.step_decay(
        rate, every=steps / jnp.log2(1 / part)
    ),
    "exponential decay": lambda rate, part, steps: cs231n_optax.exponential_decay(
        rate, jnp.log(1 / part) / steps
    ),
    "1/t decay": lambda rate, part, steps: cs231n_optax.inverse_time_decay(
        rate, (1 / part - 1) / steps
    ),
}
NUM_TUNING = 3


def losses_of_decays(quick: bool) -> dict[str, Any]:
    """SGD with a constant rate and with three decays, 24 settings tried of each.

    For the constant rate 24 values from 0.003 to 10; for a decay 8 of these first rates, and 1/10,
    1/100 or 1/1000 of it at the end. The setting with the least loss over three seeds is measured
    with others: the final training loss above the minimum, on the digits by batches of 32, after 20
    epochs (with `--quick`, 4).
    """
    epochs = 4 if quick else 20
    constant = [(rate, 1.0) for rate in np.geomspace(0.003, 10, 24)]
    decayed = [(r, part) for r in np.geomspace(0.003, 10, 8) for part in (1e-1, 1e-2, 1e-3)]
    settings = jnp.array([constant] + [decayed] * (len(DECAYS) - 1))

    def measure(model):
        def train(key, decay, setting):
            def rate(count):
                made = [make(setting[0], setting[1], epochs * EPOCH) for make in DECAYS.values()]
                return jnp.stack([schedule(count) for schedule in made])[decay]

            return losses_by_epoch(model, rate, key, epochs)[-1]

        rows = np.indices((len(keys), *settings.shape[:2])).reshape(3, -1)
        runs = for_each(train, keys[rows[0]], rows[1], settings[rows[1], rows[2]])
        losses = runs.reshape(len(keys), *settings.shape[:2])
        best = np.nanargmin(losses[:NUM_TUNING].mean(axis=0), axis=1)
        return losses[NUM_TUNING:, np.arange(len(DECAYS)), best]

    keys = jax.random.split(jax.random.key(1), NUM_TUNING + (4 if quick else 12))
    minima = np.array([lowest_regression_loss(), 0])[:, None]
    return {"loss": np.stack([measure(model) for model in MODELS.values()], axis=1) - minima}


def relative_losses(numbers: Numbers) -> Any:
    """The loss of each decay over that of the constant rate, (models, decays)."""
    return ratio(numbers["loss"][..., 1:], numbers["loss"][..., :1])


def decay_helps(numbers: Numbers) -> Verdict:
    """Holds for the models with a loss below that of the constant rate by each of the decays."""
    cases = (f"the model is {name}" for name in MODELS)
    return by_case(cases, is_below(relative_losses(numbers), 1).all(axis=1))


def decay_figure(numbers: Numbers) -> str:
    """The relative losses."""
    relative = relative_losses(numbers)
    parts = []
    for model, row in zip(MODELS, relative, strict=True):
        each = (f"{decay} {x}" for decay, x in zip(list(DECAYS)[1:], row, strict=True))
        parts.append(f"{', '.join(each)} ({model})")
    return f"loss above the minimum / that of the best constant rate: {'; '.join(parts)}"


def decay_picture(numbers: Numbers) -> Figure:
    """A bar for each decay, one panel for each model."""
    figure, panels = picture.new_picture(2, sharey=True)
    for axes, model, losses in zip(panels, MODELS, np.moveaxis(numbers["loss"], 1, 0), strict=True):
        picture.bars(axes, list(DECAYS), mean(losses))
        axes.set(title=model)
        axes.set_xlabel("loss above the minimum")
    panels[0].invert_yaxis()  # `bars` has inverted the axis that both panels share twice
    return figure


DECAY = Claim(
    name="decay-helps",
    section="7-1-8",
    statement="With a learning rate that decays, the loss falls further than with a constant one.",
    experiment=losses_of_decays,
    verdict=decay_helps,
    figure=decay_figure,
    draw=decay_picture,
)

CLAIMS = (REGIMES_OF_THE_RATE, DECAY)
