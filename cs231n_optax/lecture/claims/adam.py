"""Lecture 7-1-6 and 7-1-7: Adam, without and with bias correction."""

import itertools
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import cs231n_optax
from cs231n_optax.experiments.errors import InputError
from cs231n_optax.lecture import style
from cs231n_optax.lecture.claims import picture
from cs231n_optax.lecture.claims.claim import (
    Claim,
    Estimate,
    Numbers,
    Verdict,
    by_case,
    by_value,
    is_above,
    is_below,
    is_within,
    mean,
    ratio,
)
from cs231n_optax.lecture.claims.experiment import for_each, training_set
from cs231n_optax.lecture.claims.learning_rate import MODELS, Model
from cs231n_optax.lecture.claims.rmsprop import BATCH_SIZE, one_of, train
from cs231n_optax.problems import datasets, networks

UNCORRECTED = partial(cs231n_optax.adam, bias_correction=False)
STYLES = style.METHOD_STYLES["adam-uncorrected"], style.METHOD_STYLES["adam"]
LABELS = "without correction", "with correction"

# The first step.


def first_steps(*, bias_correction: bool, quick: bool) -> dict[str, Any]:
    """The mean |step| / α of the first step, for gradients of each size; and gradients seen."""
    sizes = 10.0 ** np.arange(-8, 3)
    model, data = MODELS["a perceptron"], training_set()
    tx = cs231n_optax.scale_by_adam(bias_correction=bias_correction)

    def run(key):
        spread, sign, start, rows = jax.random.split(key, 4)

        def step(size):
            exponents = jax.random.uniform(spread, (1000,), minval=-0.5, maxval=0.5)
            grads = size * 10**exponents * jax.random.rademacher(sign, (1000,), float)
            direction, _ = tx.update(grads, tx.init(grads))
            return jnp.mean(jnp.abs(jnp.asarray(direction)))

        batch = jax.random.randint(rows, (BATCH_SIZE,), 0, len(data[0]))
        grads = jax.grad(model.loss)(model.init(start), jax.tree.map(lambda x: x[batch], data))
        magnitudes = jnp.abs(jnp.concatenate([g.ravel() for g in jax.tree.leaves(grads)]))
        seen = jnp.nanpercentile(jnp.where(magnitudes, magnitudes, jnp.nan), jnp.array([5, 95]))
        return jax.vmap(step)(sizes), seen

    step, seen = for_each(run, jax.random.split(jax.random.key(0), 10 if quick else 40))
    return {"size": sizes, "step": step, "seen": seen}


def first_step_figure(numbers: Numbers) -> str:
    """The first step for four sizes of the gradient."""
    steps = list(zip(numbers["size"], mean(numbers["step"]), strict=True))
    each = (f"{step} for |g| ≈ {size:.0e}" for size, step in steps[1::3])
    low, high = mean(numbers["seen"]).value
    return (
        f"first |step| / α: {', '.join(each)}; on a perceptron, |g| is between {low:.0e} and "
        f"{high:.0e} (5 to 95 %)"
    )


def first_step_picture(numbers: Numbers, corrected: bool, value: float, label: str) -> Figure:
    """The first step over the size of the gradient."""
    figure, axes = picture.new_picture()
    low, high = mean(numbers["seen"]).value
    axes.axvspan(low, high, facecolor="0.9", edgecolor="0.6", label="gradients of a perceptron")
    picture.target(axes, value, label)
    step = mean(numbers["step"])
    picture.points(axes, numbers["size"], step, STYLES[corrected], LABELS[corrected])
    axes.set(xscale="log", xlabel="size of the gradient", ylabel="first |step| / α")
    axes.set_ylim(0)
    style.legend(axes, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    return figure


def uncorrected_first_steps(quick: bool) -> dict[str, Any]:
    """The first step of Adam without bias correction, from random gradients, in float32.

    Their size is from 1e-8 to 100, with a random sign and within half a decade for each of 1000
    parameters. Measured: the mean |step| in units of α. Beside it the size of the gradients of a
    perceptron of the digits at its first point, by batches of 32.
    """
    return first_steps(bias_correction=False, quick=quick)


def is_root_of_ten(numbers: Numbers) -> Verdict:
    """Holds for the sizes of the gradient with a first step within 5 % of √10 α."""
    near = is_within(mean(numbers["step"]), 10**0.5, 0.05 * 10**0.5)
    return by_value("|g|", numbers["size"], near)


FIRST_STEP = Claim(
    name="adam-first-step",
    section="7-1-6",
    statement="Without bias correction, Adam's first step is (1 - β₁) / √(1 - β₂) α = 3.16 α.",
    experiment=uncorrected_first_steps,
    verdict=is_root_of_ten,
    figure=first_step_figure,
    draw=lambda numbers: first_step_picture(numbers, False, 10**0.5, "√10"),
)


def corrected_first_steps(quick: bool) -> dict[str, Any]:
    """The first step of Adam with bias correction, from random gradients, in float32.

    Their size is from 1e-8 to 100, with a random sign and within half a decade for each of 1000
    parameters. Measured: the mean |step| in units of α. Beside it the size of the gradients of a
    perceptron of the digits at its first point, by batches of 32.
    """
    return first_steps(bias_correction=True, quick=quick)


def is_rate(numbers: Numbers) -> Verdict:
    """Holds for the sizes of the gradient with a first step within 5 % of α."""
    return by_value("|g|", numbers["size"], is_within(mean(numbers["step"]), 1, 0.05))


CORRECTED_STEP = Claim(
    name="adam-corrected-step",
    section="7-1-7",
    statement="The bias correction makes Adam's first step α.",
    experiment=corrected_first_steps,
    verdict=is_rate,
    figure=first_step_figure,
    draw=lambda numbers: first_step_picture(numbers, True, 1, "α"),
)

# The first steps: how large?


def early_steps(quick: bool) -> dict[str, Any]:
    """Adam without and with bias correction, with α = 0.001 and four β₂, on the same batches.

    A perceptron of the digits by batches of 32, 1000 steps (with `--quick`, 200). The lecture names
    β₂ = 0.9 and 0.99 where it speaks of large steps, and 0.999 as the default. Measured: the root
    mean square of a step over the parameters, in units of α; and its mean over the first ten steps
    without correction over that with it.
    """
    b2s, steps, rate = np.array([0.9, 0.99, 0.999, 0.9999]), 200 if quick else 1000, 1e-3
    shown = np.unique(np.geomspace(1, steps, 30).astype(int))

    def run(key):
        def lengths(b2, index):
            makes = UNCORRECTED, cs231n_optax.adam
            tx = one_of([make(rate, b2=b2) for make in makes], index)
            return train(MODELS["a perceptron"], tx, training_set(), key, steps=steps)[1] / rate

        found = jax.vmap(jax.vmap(lengths, (None, 0)), (0, None))(b2s, jnp.arange(2))
        return found[..., shown - 1], jnp.mean(found[..., :10], axis=-1)

    step, first = for_each(run, jax.random.split(jax.random.key(1), 5 if quick else 20))
    return {"b2": b2s, "t": shown, "step": step, "first": first}


def times_larger(numbers: Numbers) -> Estimate:
    """The mean of the first ten steps without correction over that with it, for each β₂."""
    return ratio(numbers["first"][..., 0], numbers["first"][..., 1])


def very_large(numbers: Numbers) -> Verdict:
    """Holds for the β₂ with first ten steps above 3 times as long as with the correction."""
    return by_value("β₂", numbers["b2"], is_above(times_larger(numbers), 3))


def early_figure(numbers: Numbers) -> str:
    """The ratios, and those of the very first step and of the largest."""
    steps = ratio(numbers["step"][:, :, 0], numbers["step"][:, :, 1])
    each = []
    for b2, ten, row in zip(numbers["b2"], times_larger(numbers), steps, strict=True):
        largest = int(np.argmax(row.value))
        each.append(
            f"{ten} for β₂ = {b2:g} (the first {row[0]}, the largest {row[largest]} at step "
            f"{numbers['t'][largest]:g})"
        )
    return f"first ten steps without correction / with it: {', '.join(each)}"


def early_picture(numbers: Numbers) -> Figure:
    """The steps over t at the default β₂, and the ratio over β₂."""
    figure, (left, right) = picture.new_picture(2)
    default = int(np.flatnonzero(numbers["b2"] == 0.999)[0])
    for i in range(2):
        step = mean(numbers["step"][:, default, i])
        picture.points(left, numbers["t"], step, STYLES[i]._replace(marker=""), LABELS[i])
    picture.log_axes(left, "x")
    left.set(xlabel="step t", ylabel="step / α", title="β₂ = 0.999")
    left.set_ylim(0, 5.5)
    style.legend(left, loc="upper right")
    names = [f"{b2:g}" for b2 in numbers["b2"]]
    picture.points(right, names, times_larger(numbers), picture.SERIES[0])
    picture.target(right, 3, "very large")
    right.set(xlabel="β₂", title="first ten steps: without / with")
    right.set_ylim(0)
    style.legend(right, loc="upper left")
    return figure


LARGE_STEPS = Claim(
    name="adam-large-steps",
    section="7-1-6",
    statement="Without bias correction, Adam's first steps are very large.",
    experiment=early_steps,
    verdict=very_large,
    figure=early_figure,
    draw=early_picture,
)

# Methods compared at equal tuning, on several models and data.


class Task(NamedTuple):
    """A model, and what gives its data (x, y)."""

    model: Model
    data: Callable[[], Any]


def classifier(net: networks.Network) -> Model:
    """A network with the mean cross-entropy."""
    return Model(
        net.init,
        lambda params, batch: networks.cross_entropy(net.apply(params, batch[0]), batch[1]),
    )


def autoencoder() -> Model:
    """The digits through 8 numbers in the middle, with half the mean squared error."""
    net = networks.mlp((8, 8, 1), 64, hidden=(32, 8, 32))

    def loss(params, batch):
        x = batch[0]
        return jnp.mean((net.apply(params, x) - x.reshape(len(x), -1)) ** 2) / 2

    return Model(net.init, loss)


@cache
def small_mnist() -> tuple[jax.Array, jax.Array]:
    """The 4000 training images of mnist5k, averaged to 14 × 14 pixels, and their labels."""
    try:
        mnist = datasets.mnist5k()
    except ImportError as error:
        raise InputError(f"adam-defaults: {error}") from error
    return jnp.asarray(halved(mnist.x_train)), jnp.asarray(mnist.y_train)


def halved(images: np.ndarray) -> np.ndarray:
    """Images (N, H, W, 1) at half the height and width: each pixel is the mean of a 2 × 2 block."""
    n, height, width, _ = images.shape
    return images.reshape(n, height // 2, 2, width // 2, 2, 1).mean(axis=(2, 4))


TASKS = {
    "softmax regression, digits": Task(MODELS["softmax regression"], training_set),
    "perceptron, digits": Task(MODELS["a perceptron"], training_set),
    "autoencoder, digits": Task(autoencoder(), training_set),
    "CNN, digits": Task(classifier(networks.cnn((8, 8, 1), 10, (4,))), training_set),
    "softmax regression, MNIST": Task(
        classifier(networks.softmax_regression((14, 14, 1), 10)), small_mnist
    ),
    "perceptron, MNIST": Task(classifier(networks.mlp((14, 14, 1), 10, hidden=(32,))), small_mnist),
}
ON_DIGITS = {name: task for name, task in TASKS.items() if name.endswith("digits")}
NUM_QUICK = 3
"""Of the tasks, with `--quick`."""
RATES = 10.0 ** np.arange(-3.5, 0.6, 0.5)
LANES = 9

Make = Callable[..., optax.GradientTransformation]


class Trained(NamedTuple):
    """Losses, each of another seed along the first axis.

    Attributes:
      first: before training, (repeats,).
      tuned: by each method with the best rate for these steps, (repeats, steps, methods).
      untuned: with the given rates, (repeats, steps, settings).
    """

    first: np.ndarray
    tuned: np.ndarray
    untuned: np.ndarray


def compare(
    task: Task,
    makes: Sequence[Make],
    untuned: Sequence[tuple[int, float]],
    steps: np.ndarray,
    *,
    quick: bool,
) -> Trained:
    """Tune the rate of each method on two seeds, then train on others, also with given rates.

    Args:
      task: what is trained.
      makes: the methods, from a learning rate.
      untuned: settings (method, rate), which get no tuning.
      steps: the numbers of steps after which the loss is measured, multiples of the first.
      quick: fewer repeats.
    """
    data, num_tuning, repeats = task.data(), 2, 4 if quick else 8
    looks = steps // steps[0]

    @jax.jit
    def run(key, indices, rates):
        def losses(index, rate):
            tx = one_of([make(rate) for make in makes], index)
            found, _ = train(task.model, tx, data, key, steps=int(steps[-1]), looks=int(looks[-1]))
            return found[jnp.append(0, looks)]

        return jax.vmap(losses)(indices, rates)

    def losses(seed, settings):
        """The losses before training and after each number of steps, (1 + steps, settings)."""
        filled = settings + settings[-1:] * (-len(settings) % LANES)
        chunks = np.array(filled).reshape(-1, LANES, 2)
        key = jax.random.key(seed)
        found = [run(key, chunk[:, 0].astype(int), chunk[:, 1]) for chunk in chunks]
        return np.concatenate(found)[: len(settings)].T

    methods = range(len(makes))
    grid = [(index, rate) for index in methods for rate in RATES]
    tried = np.mean([losses(seed, grid)[1:] for seed in range(num_tuning)], axis=0)
    tried = np.where(np.isfinite(tried), tried, np.inf).reshape(len(steps), len(makes), len(RATES))
    best = np.argmin(tried, axis=-1)
    chosen = [[(index, RATES[i]) for index, i in enumerate(row)] for row in best]
    settings = list(dict.fromkeys(itertools.chain(*chosen, untuned)))
    seeds = range(num_tuning, num_tuning + repeats)
    measured = np.stack([losses(seed, settings) for seed in seeds])

    def after(i, wanted):
        return measured[:, 1 + i, [settings.index(setting) for setting in wanted]]

    return Trained(
        measured[:, 0, 0],
        np.stack([after(i, row) for i, row in enumerate(chosen)], axis=1),
        np.stack([after(i, untuned) for i in range(len(steps))], axis=1),
    )


# The first steps: do they hurt?

RATE_CASES = "the best rate", "α = 0.001"


def losses_of_both(quick: bool) -> dict[str, Any]:
    """Adam without and with bias correction, after 500 steps by batches of 32 (`--quick`: 100).

    On four models of the digits: softmax regression, a perceptron, an autoencoder and (not with
    `--quick`) a CNN. Each has the default α = 0.001, and the best of nine from 0.0003 to 3 on two
    other seeds. Measured: the final training loss.
    """
    makes, steps = (UNCORRECTED, cs231n_optax.adam), np.array([100 if quick else 500])
    untuned = [(0, 1e-3), (1, 1e-3)]
    tasks = list(ON_DIGITS.values())[: NUM_QUICK if quick else None]
    found = [compare(task, makes, untuned, steps, quick=quick) for task in tasks]
    losses = [np.concatenate([each.tuned, each.untuned], axis=1) for each in found]
    return {"loss": np.stack(losses, axis=1)}


def relative_losses(numbers: Numbers) -> Estimate:
    """The loss without correction over that with it, (models, rates)."""
    return ratio(numbers["loss"][..., 0], numbers["loss"][..., 1])


def hurts(numbers: Numbers) -> Verdict:
    """Holds for the models and rates with a loss without correction above 1.05 of that with it."""
    worse = is_above(relative_losses(numbers), 1.05)
    cases = [f"{rate} on {task}" for task in list(ON_DIGITS)[: len(worse)] for rate in RATE_CASES]
    return by_case(cases, worse.ravel())


def hurts_figure(numbers: Numbers) -> str:
    """The relative losses."""
    rows = zip(ON_DIGITS, relative_losses(numbers), strict=False)
    each = (f"{tuned} and {default} ({task})" for task, (tuned, default) in rows)
    return f"loss without correction / with it, at the best rate and α = 0.001: {', '.join(each)}"


def hurts_picture(numbers: Numbers) -> Figure:
    """Two relative losses for each model."""
    figure, axes = picture.new_picture()
    relative = relative_losses(numbers)
    rows = np.arange(len(relative.value))
    for i, (label, line) in enumerate(zip(RATE_CASES, picture.SERIES, strict=False)):
        bar = relative[:, i]
        axes.errorbar(
            bar.value,
            rows + 0.3 * i - 0.15,
            xerr=bar.error,
            color=line.color,
            marker=line.marker,
            linestyle="",
            capsize=3,
            label=label,
        )
    axes.axvline(1, color="0.5", linestyle="--", linewidth=1)
    axes.set_yticks(rows, [task.removesuffix(", digits") for task in list(ON_DIGITS)[: len(rows)]])
    axes.invert_yaxis()
    axes.set(xlabel="loss without correction / with it")
    style.legend(axes, loc="lower center", bbox_to_anchor=(0.4, 1), ncols=2)
    return figure


HURTS = Claim(
    name="adam-large-steps-hurt",
    section="7-1-7",
    statement="The large first steps hurt: with bias correction, Adam trains better.",
    experiment=losses_of_both,
    verdict=hurts,
    figure=hurts_figure,
    draw=hurts_picture,
)

# Adam's defaults.

METHODS: dict[str, Make] = {
    "sgd": cs231n_optax.sgd,
    "momentum": cs231n_optax.momentum,
    "nesterov": cs231n_optax.nesterov,
    "adagrad": cs231n_optax.adagrad,
    "rmsprop": cs231n_optax.rmsprop,
    "adam": cs231n_optax.adam,
}
NAMES = "SGD", "momentum", "Nesterov", "AdaGrad", "RMSProp", "Adam"
DEFAULTS = [(0, 1e-2), (1, 1e-2), (2, 1e-2), (3, 1e-2), (4, 1e-3), (5, 1e-3), (5, 5e-4)]
"""Methods and rates: Keras's, but for AdaGrad PyTorch's; the lecture's two for Adam."""


def losses_of_defaults(quick: bool) -> dict[str, Any]:
    """Six methods with their default rates, and with rates tuned alike, on six tasks.

    Four models of the digits and two of mnist5k at 14 × 14 pixels (with `--quick`, the first three
    of all), by batches of 32. The defaults are 0.01 for SGD, momentum, Nesterov and AdaGrad, 0.001
    for RMSProp, 0.001 and 0.0005 for Adam. The tuned rate is the best of nine from 0.0003 to 3, for
    each number of steps, on two other seeds. Measured: the training loss before, and after 125, 500
    and 2000 steps (with `--quick`, after 50, 100 and 200).
    """
    makes = tuple(METHODS.values())
    steps = np.array([50, 100, 200] if quick else [125, 500, 2000])
    tasks = list(TASKS.values())[: NUM_QUICK if quick else None]
    found = [compare(task, makes, DEFAULTS, steps, quick=quick) for task in tasks]
    stacked = jax.tree.map(lambda *each: np.stack(each, axis=1), *found)
    return {"steps": steps, **stacked._asdict()}


def shares(numbers: Numbers) -> Estimate:
    """The fall of the loss with each default over that by the best tuned method.

    (tasks, steps, defaults).
    """
    tuned = mean(numbers["tuned"]).value
    best = np.argmin(np.where(np.isnan(tuned), np.inf, tuned), axis=-1)
    lowest = np.take_along_axis(numbers["tuned"], best[None, ..., None], axis=-1)
    first = numbers["first"][..., None, None]
    return ratio(first - numbers["untuned"], first - lowest)


def good_starts(numbers: Numbers) -> np.ndarray:
    """Whether one of Adam's defaults is a great start as the rule says, (tasks, steps)."""
    untuned = numbers["untuned"]
    near = is_above(shares(numbers), 0.9)[..., 5:]
    beaten = is_below(mean(untuned[..., 5:, None] - untuned[..., None, :5]), 0).sum(axis=-1)
    return (near & (beaten >= 3)).any(axis=-1)


def are_good_start(numbers: Numbers) -> Verdict:
    """Holds for the steps after which α = 0.001 or 0.0005 is great on two thirds of the tasks.

    It is great where the loss falls by above 0.9 of the fall by the best tuned method, and ends
    below that of at least three of the five other methods with their defaults.
    """
    great = good_starts(numbers)
    return by_value("the steps", numbers["steps"], 3 * great.sum(axis=0) >= 2 * len(great))


def mean_ranks(losses: np.ndarray) -> Estimate:
    """The mean rank over the tasks, from 1 for the least loss: (steps, methods).

    Args:
      losses: (repeats, tasks, steps, methods).
    """
    from scipy.stats import rankdata  # its import takes a second

    ranks = rankdata(np.where(np.isnan(losses), np.inf, losses), axis=-1)
    return mean(ranks.mean(axis=1))


def defaults_figure(numbers: Numbers) -> str:
    """The tasks with a great start, and Adam's share and ranks."""
    great, share = good_starts(numbers), shares(numbers)[..., 5]
    untuned, tuned = mean_ranks(numbers["untuned"][..., :6]), mean_ranks(numbers["tuned"])
    parts = [
        f"after {steps:g} steps on {great[:, i].sum()} of {len(great)} tasks, the mean rank of six "
        f"{untuned[i, 5]}, among tuned methods {tuned[i, 5]}"
        for i, steps in enumerate(numbers["steps"])
    ]
    rows = (f"{x} ({task})" for task, x in zip(TASKS, share[:, -1], strict=False))
    return (
        f"Adam's default is great {'; '.join(parts)}; fall of the loss with α = 0.001 / by the "
        f"best tuned method, at last: {', '.join(rows)}"
    )


def defaults_picture(numbers: Numbers) -> Figure:
    """The mean ranks over the steps, with default and with tuned rates."""
    figure, panels = picture.new_picture(2, sharey=True)
    for axes, losses, title in (
        (panels[0], numbers["untuned"][..., :6], "default rates"),
        (panels[1], numbers["tuned"], "tuned rates"),
    ):
        ranks = mean_ranks(losses)
        for i, name in enumerate(METHODS):
            line = style.METHOD_STYLES[name]
            picture.points(axes, numbers["steps"], ranks[:, i], line, NAMES[i])
        axes.set(xscale="log", xlabel="steps", title=title)
        axes.set_xticks(numbers["steps"], [f"{steps:g}" for steps in numbers["steps"]])
        axes.minorticks_off()
    panels[0].set(ylabel="mean rank (1 is best)", ylim=(6.2, 0.8))
    figure.legend(
        *panels[0].get_legend_handles_labels(),
        loc="outside right center",
        frameon=False,
        fontsize=style.FONT_SIZE - 1,
    )
    return figure


GOOD_START = Claim(
    name="adam-defaults",
    section="7-1-7",
    statement=(
        "Adam with β₁ = 0.9, β₂ = 0.999 and α = 0.001 or 0.0005 is a great start for many models."
    ),
    experiment=losses_of_defaults,
    verdict=are_good_start,
    figure=defaults_figure,
    draw=defaults_picture,
)

CLAIMS = (FIRST_STEP, LARGE_STEPS, CORRECTED_STEP, HURTS, GOOD_START)
