"""Lecture 7-1-11: ensembles, snapshots, averages, and the error on new examples."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import cs231n_optax
from cs231n_optax.lecture import style
from cs231n_optax.lecture.claims import picture
from cs231n_optax.lecture.claims.claim import (
    Claim,
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
from cs231n_optax.lecture.claims.experiment import for_each
from cs231n_optax.problems import datasets, networks

MEMBERS, BATCH_SIZE = 5, 25
NET = networks.mlp((8, 8, 1), 10, hidden=(32,))
SIZES = np.array([50, 200, 800])
"""Numbers of training images of the digits; the validation images are none of them."""


class Split(NamedTuple):
    """Training, validation and test images with their labels."""

    train: Any
    validation: Any
    test: Any


def split(size: Any) -> Split:
    """The first ``size`` training images, repeated to 800; the last 600; and the 360 test images.

    All sizes share one program, so that ``size`` may be traced.
    """
    digits = datasets.digits()
    x, y = jnp.asarray(digits.x_train), jnp.asarray(digits.y_train)
    rows = jnp.arange(SIZES[-1]) % size
    test = jnp.asarray(digits.x_test), jnp.asarray(digits.y_test)
    return Split((x[rows], y[rows]), (x[-600:], y[-600:]), test)


def loss(params: Any, batch: Any) -> jax.Array:
    """The mean cross-entropy."""
    return networks.cross_entropy(NET.apply(params, batch[0]), batch[1])


def train(
    data: Split, start: jax.Array, order: jax.Array, rate: Any, steps: int, **options: Any
) -> cs231n_optax.FitResult:
    """A run of momentum; the keys are those of the first parameters and of the batches."""
    tx, params = cs231n_optax.momentum(rate), NET.init(start)
    return cs231n_optax.fit(
        loss, params, tx, data.train, steps=steps, batch_size=BATCH_SIZE, key=order, **options
    )


def snapshots_of_run(
    data: Split, start: jax.Array, order: jax.Array, rate: Any, steps: int, cycles: Any
) -> Any:
    """Five snapshots, at equal intervals, of a run with some cosine cycles."""
    schedule = cs231n_optax.cyclic_cosine(rate, steps // cycles)
    averaging = cs231n_optax.snapshots(MEMBERS, every=steps // MEMBERS)
    result = train(data, start, order, schedule, steps, averaging=averaging)
    return cs231n_optax.snapshot_params(result.state)


def error(members: Any, images: Any) -> jax.Array:
    """The error of the mean prediction of stacked members, in points (%)."""
    probabilities = cs231n_optax.ensemble_predict(NET.apply, members, images[0])
    return 100 * (1 - networks.accuracy(probabilities, images[1]))


def errors_of_each(members: Any, images: Any) -> jax.Array:
    """The error of each member alone."""
    one_by_one = jax.tree.map(lambda leaf: leaf[:, None], members)
    return jax.vmap(lambda member: error(member, images))(one_by_one)


def for_each_size(run: Any, keys: jax.Array) -> np.ndarray:
    """``run(size, key)`` for all, (keys, sizes, ...)."""
    rows, columns = np.indices((len(keys), len(SIZES))).reshape(2, -1)
    found = for_each(run, jnp.asarray(SIZES[columns]), keys[rows])
    return found.reshape(len(keys), len(SIZES), *found.shape[1:])


def repeats(seed: int, num: int) -> jax.Array:
    """The keys of the repeats."""
    return jax.random.split(jax.random.key(seed), num)


# Independent models.


def gains_of_models(quick: bool) -> dict[str, Any]:
    """Five perceptrons from random starts, on 50, 200 and 800 of the digits.

    Trained by momentum with α = 0.03 in batches of 25, for 600 steps. Measured on the 360 test
    images: the mean error of the five, less the error of their mean prediction, in points.
    """

    def run(size, key):
        data = split(size)
        members = cs231n_optax.fit_members(
            loss,
            NET.init,
            cs231n_optax.momentum(0.03),
            data.train,
            num_members=MEMBERS,
            steps=600,
            batch_size=BATCH_SIZE,
            key=key,
        ).params
        alone = jnp.mean(errors_of_each(members, data.test))
        return jnp.stack([alone, error(members, data.test)])

    return {"size": SIZES, "error": for_each_size(run, repeats(0, 8 if quick else 30))}


def gain(numbers: Numbers) -> Any:
    """The points gained by the mean prediction, for each size."""
    return mean(numbers["error"][..., 0] - numbers["error"][..., 1])


def two_points(numbers: Numbers) -> Verdict:
    """Holds for the numbers of training images at which the gain is within one point of 2."""
    return by_value(
        "the number of training images", numbers["size"], is_within(gain(numbers), 2, 1)
    )


def gain_figure(numbers: Numbers) -> str:
    """The gain at each size."""
    single = mean(numbers["error"])[:, 0]
    each = (
        f"{points} points of {before} % with {size:g} training images"
        for size, points, before in zip(numbers["size"], gain(numbers), single, strict=True)
    )
    return f"fewer errors: {', '.join(each)}"


def by_size(axes: Axes, sizes: np.ndarray) -> None:
    """A logarithmic axis of the numbers of training images."""
    picture.log_axis_of(axes, sizes)
    axes.set(xlabel="training images")


def gain_picture(numbers: Numbers) -> Figure:
    """The gain over the number of training images."""
    figure, axes = picture.new_picture()
    picture.points(axes, numbers["size"], gain(numbers), picture.SERIES[0], "five models")
    picture.target(axes, 2, "the lecture's 2 points")
    by_size(axes, numbers["size"])
    axes.set(ylabel="gain, points", ylim=(0, None))
    style.legend(axes, loc="lower left")
    return figure


MODELS = Claim(
    name="ensemble-gain",
    section="7-1-11",
    statement="The mean prediction of independent models is 2 % better.",
    experiment=gains_of_models,
    verdict=two_points,
    figure=gain_figure,
    draw=gain_picture,
)

# Snapshots of one run.

RATES = np.array([0.01, 0.03, 0.1, 0.2, 0.3])
"""First rates; that of Huang et al. is 0.2."""


def errors_of_snapshots(quick: bool) -> dict[str, Any]:
    """Five snapshots of one run against a single model of the same cost, 1000 steps of momentum.

    The snapshots are the ends of five cosine cycles; the single model has one. Each has the first
    rate, of 0.01, 0.03, 0.1, 0.2 and 0.3, that has the least error on validation images over ten
    seeds; measured with other seeds on the test images. Five independent models at five times the
    cost, with the rate of the single one, are the comparison. With `--quick`, 500 steps, and three
    seeds for the rates.
    """
    steps, num_tuning = (500, 3) if quick else (1000, 10)
    keys = jnp.concatenate([repeats(2, num_tuning), repeats(1, 4 if quick else 30)])

    def run(size, key):
        data = split(size)

        def copies(rate, cycles, member):
            start, order = jax.random.split(jax.random.fold_in(key, member))
            return snapshots_of_run(data, start, order, rate, steps, cycles)

        def both(members):
            return jnp.stack([error(members, data.validation), error(members, data.test)])

        # Rows: the five independent models and then the cyclic run, for each rate.
        cycles = jnp.array([1] * MEMBERS + [MEMBERS])
        member = jnp.array([*range(MEMBERS), 0])

        def of_rate(rate):
            rows = jax.lax.map(lambda row: copies(rate, *row), (cycles, member))
            ends = jax.tree.map(lambda leaf: leaf[:MEMBERS, -1], rows)
            first = jax.tree.map(lambda leaf: leaf[:1], ends)
            cyclic = jax.tree.map(lambda leaf: leaf[-1], rows)
            return jnp.stack([both(first), both(cyclic), both(ends)])

        return jax.lax.map(of_rate, jnp.asarray(RATES))

    found = for_each_size(run, keys)  # (keys, sizes, rates, ways, sets)
    single, cyclic = np.argmin(found[:num_tuning, ..., :2, 0].mean(axis=0), axis=1).T
    best, sizes = np.stack([single, cyclic, single], axis=1), np.arange(len(SIZES))[:, None]
    return {"size": SIZES, "error": found[num_tuning:, sizes, best, np.arange(3), 1]}


def snapshot_gain(numbers: Numbers) -> Any:
    """The points that the snapshots gain on the single model, for each size."""
    return mean(numbers["error"][..., 0] - numbers["error"][..., 1])


def snapshots_gain(numbers: Numbers) -> Verdict:
    """Holds for the numbers of training images at which the gain on the single model is above 0."""
    return by_value(
        "the number of training images", numbers["size"], is_above(snapshot_gain(numbers), 0)
    )


def snapshot_figure(numbers: Numbers) -> str:
    """Both gains at each size."""
    models = mean(numbers["error"][..., 0] - numbers["error"][..., 2])
    each = (
        f"{points} points by snapshots and {more} by five models with {size:g} training images"
        for size, points, more in zip(numbers["size"], snapshot_gain(numbers), models, strict=True)
    )
    return f"gain on a single model: {', '.join(each)}"


def snapshot_picture(numbers: Numbers) -> Figure:
    """Both gains over the number of training images."""
    figure, axes = picture.new_picture()
    for way, line, label in (
        (2, picture.SERIES[0], "five models, five times the cost"),
        (1, picture.SERIES[1], "five snapshots of one run"),
    ):
        points = mean(numbers["error"][..., 0] - numbers["error"][..., way])
        picture.points(axes, numbers["size"], points, line, label)
    picture.target(axes, 0, "a single model")
    by_size(axes, numbers["size"])
    axes.set(ylabel="gain, points")
    style.legend(axes, loc="upper right")
    return figure


SNAPSHOTS = Claim(
    name="snapshot-gain",
    section="7-1-11",
    statement="The snapshots of one run predict better than a single model of the same cost.",
    experiment=errors_of_snapshots,
    verdict=snapshots_gain,
    figure=snapshot_figure,
    draw=snapshot_picture,
)

# The cyclic learning rate.


def barriers_between_snapshots(quick: bool) -> dict[str, Any]:
    """Five cosine cycles of 200 steps of momentum on 800 digits, from several first rates.

    Measured: the barrier between successive snapshots, which is the largest training loss on the
    line between them less the larger one at its ends; the same between two independent models; the
    mean test error of the snapshots; and the test error of one cycle of 1000 steps.
    """
    steps = 1000

    def run(key):
        data = split(SIZES[-1])
        start, other_start, order = jax.random.split(key, 3)

        def barrier(a, b):
            def between(part):
                return loss(jax.tree.map(lambda a, b: a + part * (b - a), a, b), data.train)

            losses = jax.lax.map(between, jnp.linspace(0, 1, 9))
            return jnp.max(losses) - jnp.maximum(losses[0], losses[-1])

        def of_rate(rate):
            # Rows: one cycle from two starts, and five cycles from the first.
            copies = jax.lax.map(
                lambda row: snapshots_of_run(data, row[0], order, rate, steps, row[1]),
                (jnp.stack([start, other_start, start]), jnp.array([1, 1, MEMBERS])),
            )
            single, other = (jax.tree.map(lambda leaf, i=i: leaf[i, -1], copies) for i in range(2))
            before, after, cyclic = (
                jax.tree.map(lambda leaf, part=part: leaf[2, part], copies)
                for part in (slice(None, -1), slice(1, None), slice(None))
            )
            return jnp.stack(
                [
                    jnp.mean(jax.vmap(barrier)(before, after)),
                    barrier(single, other),
                    jnp.mean(errors_of_each(cyclic, data.test)),
                    error(jax.tree.map(lambda leaf: leaf[None], single), data.test),
                ]
            )

        return jax.lax.map(of_rate, jnp.asarray(RATES))

    found = for_each(run, repeats(3, 6 if quick else 30))
    names = "barrier", "independent", "error", "single"
    return {"rate": RATES} | {name: found[..., i] for i, name in enumerate(names)}


def different_and_good(numbers: Numbers) -> Verdict:
    """Holds for the first rates with snapshots that are different, and good.

    Different: the barrier between them is above 0.1 nats. Good: their mean error is less than one
    point above that of a single run of one cycle.
    """
    worse = mean(numbers["error"] - numbers["single"])
    return by_value(
        "the first rate α₀",
        numbers["rate"],
        is_above(mean(numbers["barrier"]), 0.1) & is_below(worse, 1),
    )


def barrier_figure(numbers: Numbers) -> str:
    """Both numbers at each rate."""
    worse = mean(numbers["error"] - numbers["single"])
    each = (
        f"{barrier} nats and {points} points with α₀ = {rate:g}"
        for rate, barrier, points in zip(
            numbers["rate"], mean(numbers["barrier"]), worse, strict=True
        )
    )
    return (
        f"barrier between snapshots, and error above that of one cycle: {', '.join(each)}; barrier "
        f"between independent models {mean(numbers['independent'])[1]} nats"
    )


def barrier_picture(numbers: Numbers) -> Figure:
    """The barrier and the errors over the first rate."""
    figure, (left, right) = picture.new_picture(2)
    rates = numbers["rate"]
    for name, line, label in (
        ("barrier", picture.SERIES[0], "successive snapshots"),
        ("independent", picture.SERIES[2], "independent models"),
    ):
        picture.points(left, rates, mean(numbers[name]), line, label)
    left.set(ylabel="barrier, nats")
    picture.points(right, rates, mean(numbers["error"]), picture.SERIES[0], "each snapshot")
    picture.points(right, rates, mean(numbers["single"]), picture.SERIES[1], "one cycle")
    picture.log_axes(right, "y")
    right.set(ylabel="test error, %")
    for axes in (left, right):
        picture.log_axis_of(axes, rates)
        axes.set(xlabel="first rate α₀")
    style.legend(left, loc="upper left")
    style.legend(right, loc="upper left")
    return figure


CYCLES = Claim(
    name="cyclic-rate-regions",
    section="7-1-11",
    statement=(
        "A learning rate that falls and restarts leads one run to different minima, all of them "
        "good."
    ),
    experiment=barriers_between_snapshots,
    verdict=different_and_good,
    figure=barrier_figure,
    draw=barrier_picture,
)

# Polyak's average.

SCHEDULES = "stays at {:g}", "falls from {:g} to 0"


def errors_of_averages(quick: bool) -> dict[str, Any]:
    """The moving average of the parameters, with 0.995, against the last point of the same run.

    Momentum for 1000 steps on 800 digits, with a constant rate and with one that falls to zero as
    half a cosine. Measured: both errors on the test images.
    """
    steps = 1000

    def run(key):
        data = split(SIZES[-1])
        start, order = jax.random.split(key)

        def errors(falls, rate):
            def schedule(count):
                return jnp.where(falls, cs231n_optax.cyclic_cosine(rate, steps)(count), rate)

            averaging = cs231n_optax.polyak_average(0.995)
            result = train(data, start, order, schedule, steps, averaging=averaging)
            points = result.params, cs231n_optax.averaged_params(result.state)
            return errors_of_each(jax.tree.map(lambda *x: jnp.stack(x), *points), data.test)

        def of_schedule(falls):
            return jax.lax.map(lambda rate: errors(falls, rate), jnp.asarray(RATES))

        return jax.lax.map(of_schedule, jnp.array([False, True]))

    return {"rate": RATES, "error": for_each(run, repeats(4, 6 if quick else 120))}


def average_gain(numbers: Numbers) -> Any:
    """The points that the average gains on the last point, (schedules, rates)."""
    return mean(numbers["error"][..., 0] - numbers["error"][..., 1])


def average_helps(numbers: Numbers) -> Verdict:
    """Holds for the learning rates with which the average has a test error below the last point."""
    cases = [f"the rate {name.format(rate)}" for name in SCHEDULES for rate in numbers["rate"]]
    return by_case(cases, is_above(average_gain(numbers), 0).ravel())


def average_figure(numbers: Numbers) -> str:
    """The gain of each."""
    each = (
        f"{points} if the rate {name.format(rate)}"
        for name, row in zip(SCHEDULES, average_gain(numbers), strict=True)
        for rate, points in zip(numbers["rate"], row, strict=True)
    )
    return f"points gained: {', '.join(each)}"


def average_picture(numbers: Numbers) -> Figure:
    """The gain over the rate, for both schedules."""
    figure, axes = picture.new_picture()
    gains = average_gain(numbers)
    for i, label in enumerate(("a constant rate", "a rate that falls to zero")):
        picture.points(axes, numbers["rate"], gains[i], picture.SERIES[i], label)
    picture.target(axes, 0, "the last point")
    picture.log_axis_of(axes, numbers["rate"])
    axes.set_yscale("symlog", linthresh=1)
    axes.set(xlabel="learning rate α", ylabel="points gained by the average")
    axes.set_yticks([-10, -1, -0.5, 0, 0.5, 1, 10], ["-10", "-1", "-½", "0", "½", "1", "10"])
    style.legend(axes, loc="upper left")
    return figure


AVERAGE = Claim(
    name="polyak-average",
    section="7-1-11",
    statement="At test time, a moving average of the parameters is better than the last ones.",
    experiment=errors_of_averages,
    verdict=average_helps,
    figure=average_figure,
    draw=average_picture,
)

# Training error and test error.


def errors_over_steps(quick: bool) -> dict[str, Any]:
    """A perceptron on 50, 200 and 800 digits by momentum with α = 0.03, for 2000 steps.

    Measured every hundredth step: the training loss, and the error on the test images.
    """

    def run(size, key):
        data = split(size)
        start, order = jax.random.split(key)

        def evaluate(params):
            logits = NET.apply(params, data.test[0])
            return loss(params, data.train), 100 * (1 - networks.accuracy(logits, data.test[1]))

        history = train(data, start, order, 0.03, 2000, evaluate=evaluate, chunk_size=100).history
        return jnp.stack(history.evaluation)

    found = for_each_size(run, repeats(5, 8 if quick else 30))
    return {
        "size": SIZES,
        "step": 100 * np.arange(1, 21),
        "loss": found[:, :, 0],
        "error": found[:, :, 1],
    }


EARLY = 4  # the row of step 500


def second_part(numbers: Numbers) -> tuple[Any, Any]:
    """From step 500 on: the ratio of the training losses, and the points of test error lost."""
    losses, errors = numbers["loss"], numbers["error"]
    return ratio(losses[..., -1], losses[..., EARLY]), mean(errors[..., EARLY] - errors[..., -1])


def test_error_stalls(numbers: Numbers) -> Verdict:
    """Holds for the numbers of training images with this from step 500 to the end.

    The training loss falls to below a half, and the test error changes by less than half a point.
    """
    losses, points = second_part(numbers)
    return by_value(
        "the number of training images",
        numbers["size"],
        is_below(losses, 0.5) & is_within(points, 0, 0.5),
    )


def stall_figure(numbers: Numbers) -> str:
    """Both at each size."""
    each = (
        f"with {size:g} training images the training loss falls to {left} of that and the test "
        f"error by {points} points"
        for size, left, points in zip(numbers["size"], *second_part(numbers), strict=True)
    )
    return f"from step 500 to 2000: {', '.join(each)}"


def stall_picture(numbers: Numbers) -> Figure:
    """Training loss and test error over the steps."""
    figure, (left, right) = picture.new_picture(2)
    for i, size in enumerate(numbers["size"]):
        for axes, name in ((left, "loss"), (right, "error")):
            curve = mean(numbers[name])[i]
            picture.points(axes, numbers["step"], curve, picture.SERIES[i], f"{size:g} images")
    left.set(xlabel="step", ylabel="training loss", yscale="log")
    right.set(xlabel="step", ylabel="test error, %", ylim=(0, None))
    style.legend(left, loc="upper right")
    return figure


STALLS = Claim(
    name="test-error-stalls",
    section="7-1-11",
    statement="While the training loss still falls, the test error no longer does.",
    experiment=errors_over_steps,
    verdict=test_error_stalls,
    figure=stall_figure,
    draw=stall_picture,
)

CLAIMS = (MODELS, SNAPSHOTS, CYCLES, AVERAGE, STALLS)
