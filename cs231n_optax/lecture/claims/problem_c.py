"""Lecture 7-1-2, problem C: the noise of mini-batches."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
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
    is_within,
    mean,
    ratio,
    slope,
)
from cs231n_optax.lecture.claims.experiment import (
    L2,
    for_each,
    lowest_regression_loss,
    training_set,
)
from cs231n_optax.problems import networks

NET = networks.mlp((8, 8, 1), 10, hidden=(16,))


def loss(params: Any, batch: Any) -> jax.Array:
    """The mean cross-entropy of the perceptron."""
    return networks.cross_entropy(NET.apply(params, batch[0]), batch[1])


def gradient(params: Any, batch: Any) -> jax.Array:
    """The gradient as one vector."""
    return ravel_pytree(jax.grad(loss)(params, batch))[0]


def draw_batch(data: Any, size: int, key: jax.Array) -> Any:
    """A random batch; no example is in it twice."""
    rows = jax.random.permutation(key, len(data[0]))[:size]
    return jax.tree.map(lambda x: x[rows], data)


# Mini-batch gradients are unbiased.


def biases(quick: bool) -> dict[str, Any]:
    """The gradients of random mini-batches of 16 digits against that of all 1437.

    For a perceptron at its first point. Two independent means of 64 batch gradients deviate from
    the full gradient G by d and d′. The mean of d·d′ / ‖G‖² is the squared bias, itself unbiased.
    """
    data = training_set()

    def repeat(key):
        params = NET.init(key)
        full = gradient(params, data)
        keys = jax.random.split(key, (2, 64))
        grads = jax.vmap(jax.vmap(lambda key: gradient(params, draw_batch(data, 16, key))))(keys)
        first, second = jnp.mean(grads, axis=1) - full
        return first @ second / (full @ full)

    keys = jax.random.split(jax.random.key(0), 20 if quick else 100)
    return {"squared_bias": for_each(repeat, keys)}


def no_bias(numbers: Numbers) -> Verdict:
    """Holds if the squared bias is within 0.01 of zero: a bias of at most a tenth of ‖G‖."""
    return by_case([""], [is_within(mean(numbers["squared_bias"]), 0, 0.01)])


def bias_figure(numbers: Numbers) -> str:
    """The squared bias."""
    return f"squared bias / ‖G‖² = {mean(numbers['squared_bias'])}"


def bias_picture(numbers: Numbers) -> Figure:
    """The samples and zero."""
    figure, axes = picture.new_picture()
    samples = np.sort(numbers["squared_bias"])
    axes.hist(samples, bins=20, color=picture.SERIES[0].color, label="each repeat")
    found = mean(samples)
    axes.axvspan(
        found.value - found.error,
        found.value + found.error,
        color=picture.SERIES[1].color,
        label="mean ± standard error",
    )
    axes.set(xlabel="squared bias / ‖G‖²", ylabel="repeats")
    style.legend(axes, loc="upper left")
    return figure


UNBIASED = Claim(
    name="batch-unbiased",
    section="7-1-2 C",
    statement="The gradient of a random mini-batch estimates the full gradient without bias.",
    experiment=biases,
    verdict=no_bias,
    figure=bias_figure,
    draw=bias_picture,
)

# Their variance is proportional to 1 / B.


def variances(quick: bool) -> dict[str, Any]:
    """The variance of the gradients of batches of B digits, drawn from 1437 without repetition.

    For a perceptron at its first point, from 64 batches of each size; and tr Σ, the variance of a
    single example's gradient, by `gradient_noise`.
    """
    data, sizes = training_set(), [1, 4, 16, 64, 256, 1024]

    def repeat(key):
        params = NET.init(key)
        full = gradient(params, data)

        def variance(size):
            def squared_deviation(key):
                return jnp.sum((gradient(params, draw_batch(data, size, key)) - full) ** 2)

            return jnp.mean(jax.lax.map(squared_deviation, jax.random.split(key, 64)))

        noise = cs231n_optax.gradient_noise(
            loss, params, data, key=jax.random.fold_in(key, 1), batch_sizes=(1, 16), num_repeats=64
        )
        return jnp.stack([variance(size) for size in sizes]), noise.trace

    keys = jax.random.split(jax.random.key(1), 10 if quick else 40)
    variance, trace = for_each(repeat, keys)
    return {"size": sizes, "variance": variance, "trace": trace}


def variance_by_law(numbers: Numbers) -> Any:
    """B · variance / tr Σ, which the claim says is 1."""
    return ratio(numbers["variance"] * numbers["size"], numbers["trace"][:, None])


def inverse_to_size(numbers: Numbers) -> Verdict:
    """Holds for the batch sizes at which B · variance / tr Σ is within 0.2 of 1."""
    return by_value(
        "the batch size B", numbers["size"], is_within(variance_by_law(numbers), 1, 0.2)
    )


def variance_figure(numbers: Numbers) -> str:
    """The exponent for small batches, and the law at the largest."""
    fit = slope(numbers["size"][:4], numbers["variance"][:, :4])
    largest = variance_by_law(numbers)[-1]
    return (
        f"variance ∝ B^p with p = {fit} for B up to {numbers['size'][3]:g}; at B = "
        f"{numbers['size'][-1]:g} of 1437 it is {largest} of tr Σ / B"
    )


def variance_picture(numbers: Numbers) -> Figure:
    """The variance over the batch size."""
    figure, axes = picture.new_picture()
    sizes, trace = numbers["size"], mean(numbers["trace"]).value
    picture.points(axes, sizes, mean(numbers["variance"]), picture.SERIES[0], "measured")
    label = "tr Σ / B, by gradient_noise"
    axes.plot(sizes, trace / sizes, color="0.5", linestyle="--", linewidth=1, label=label)
    picture.log_axes(axes, "y")
    picture.log_axis_of(axes, sizes)
    axes.set(xlabel="batch size B", ylabel="variance of the gradient")
    style.legend(axes, loc="lower left")
    return figure


VARIANCE = Claim(
    name="batch-variance",
    section="7-1-2 C",
    statement="The variance of the gradient is inversely proportional to the batch size.",
    experiment=variances,
    verdict=inverse_to_size,
    figure=variance_figure,
    draw=variance_picture,
)

# The noise makes SGD meander, and slow.


def regression_loss(theta: jax.Array, batch: Any) -> jax.Array:
    """Softmax regression with an L2 penalty, as `regressions.softmax_regression`."""
    x, y = batch
    logits = x.reshape(len(x), 64) @ theta[:-10].reshape(64, 10) + theta[-10:]
    return networks.cross_entropy(logits, y) + L2 * jnp.sum(theta**2) / 2


def descend_by_batches(key: jax.Array, size: int | None, **options: Any) -> Any:
    """The history of `fit` by SGD with α = 0.1, from a random start."""
    start, order = jax.random.split(key)
    theta = 0.1 * jax.random.normal(start, (650,))
    return cs231n_optax.fit(
        regression_loss,
        theta,
        cs231n_optax.sgd(0.1),
        training_set(),
        batch_size=size,
        key=order,
        **options,
    ).history


def detours(quick: bool) -> dict[str, Any]:
    """SGD with α = 0.1 for 300 steps of softmax regression of the digits, by batches of B of 1437.

    Measured: the length of the path over the distance between its ends.
    """
    sizes = [4, 16, 64, 256]

    def detour(size, key):
        history = descend_by_batches(key, size, steps=300, evaluate=lambda x: x, chunk_size=1)
        points = history.evaluation
        length = jnp.sum(jnp.linalg.norm(jnp.diff(points, axis=0), axis=1))
        return length / jnp.linalg.norm(points[-1] - points[0])

    keys = jax.random.split(jax.random.key(2), 5 if quick else 20)
    found = [for_each(partial(detour, size), keys) for size in [*sizes, None]]
    return {"size": sizes, "detour": np.stack(found[:-1], axis=1), "full": found[-1]}


def meanders(numbers: Numbers) -> Verdict:
    """Holds for the batch sizes at which the path, relative to that without noise, is above 1.5."""
    longer = ratio(numbers["detour"], numbers["full"][:, None])
    return by_value("the batch size B", numbers["size"], is_above(longer, 1.5))


def detour_figure(numbers: Numbers) -> str:
    """The detours."""
    detour = zip(numbers["size"], mean(numbers["detour"]), strict=True)
    each = [f"{length} with B = {size:g}" for size, length in detour]
    return f"path / distance: {', '.join(each)}, {mean(numbers['full'])} with all examples"


def detour_picture(numbers: Numbers) -> Figure:
    """The detour over the batch size."""
    figure, axes = picture.new_picture()
    sgd = style.METHOD_STYLES["sgd"]
    picture.points(axes, numbers["size"], mean(numbers["detour"]), sgd, "SGD")
    picture.target(axes, mean(numbers["full"]).value, "all 1437 examples")
    picture.log_axes(axes, "y")
    picture.log_axis_of(axes, numbers["size"])
    axes.set(xlabel="batch size B", ylabel="path / distance")
    style.legend(axes, loc="upper right")
    return figure


MEANDERS = Claim(
    name="noise-meanders",
    section="7-1-2 C",
    statement="With noise in its gradient, SGD meanders.",
    experiment=detours,
    verdict=meanders,
    figure=detour_figure,
    draw=detour_picture,
)

MOST_STEPS = 4000


def steps_to_targets(quick: bool) -> dict[str, Any]:
    """The steps that SGD takes to reach a training loss, by batches of 32 and by all 1437 examples.

    Softmax regression of the digits with an L2 penalty and α = 0.1. The targets are above the
    minimum, which L-BFGS finds. Looked at every tenth step; a run that has not reached a target
    after 4000 steps counts as 4000, which is too few.
    """
    targets, data = np.array([1e-4, 3e-4, 1e-3, 1e-2, 0.1]), training_set()
    lowest = lowest_regression_loss()

    def run(size, key):
        history = descend_by_batches(
            key,
            size,
            steps=MOST_STEPS,
            evaluate=lambda theta: regression_loss(theta, data) - lowest,
            chunk_size=10,
        )
        reached = history.evaluation[:, None] <= targets
        first = 10 * (1 + jnp.argmax(reached, axis=0))
        return jnp.where(jnp.any(reached, axis=0), first, MOST_STEPS)

    keys = jax.random.split(jax.random.key(3), 3 if quick else 8)
    by_batch, by_all = (for_each(partial(run, size), keys) for size in (32, None))
    return {"target": targets, "batch": by_batch, "full": by_all}


def takes_long(numbers: Numbers) -> Verdict:
    """Holds for the targets that take above 1.5 times as many steps by mini-batches."""
    slower = is_above(ratio(numbers["batch"], numbers["full"]), 1.5)
    return by_value("the loss to reach, above the minimum,", numbers["target"], slower)


def targets_figure(numbers: Numbers) -> str:
    """The ratio of the steps, and that of the examples, at both ends."""
    steps = ratio(numbers["batch"], numbers["full"])
    examples = ratio(32 / 1437 * numbers["batch"], numbers["full"])
    late = np.any(numbers["batch"] >= MOST_STEPS, axis=0)
    each = [
        f"{'at least ' if late[i] else ''}{steps[i]} to {numbers['target'][i]:g} above the minimum "
        f"({examples[i]} of the examples)"
        for i in (-1, 0)
    ]
    return f"steps by mini-batches / steps by all examples: {', '.join(each)}"


def targets_picture(numbers: Numbers) -> Figure:
    """The steps over the target."""
    figure, axes = picture.new_picture()
    for name, line, label in (
        ("batch", picture.SERIES[0], "batches of 32"),
        ("full", picture.SERIES[1], "all 1437 examples"),
    ):
        picture.points(axes, numbers["target"], mean(numbers[name]), line, label)
    picture.log_axes(axes)
    picture.target(axes, MOST_STEPS, "the most steps")
    axes.set(xlabel="loss above the minimum", ylabel="steps")
    axes.invert_xaxis()
    style.legend(axes, loc="lower right")
    return figure


SLOW = Claim(
    name="noise-is-slow",
    section="7-1-2 C",
    statement="Because of the noise, SGD takes a long time to reach the minimum.",
    experiment=steps_to_targets,
    verdict=takes_long,
    figure=targets_figure,
    draw=targets_picture,
)

CLAIMS = (UNBIASED, VARIANCE, MEANDERS, SLOW)
