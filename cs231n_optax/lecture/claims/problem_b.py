"""Lecture 7-1-2, problem B: local minima and saddle points."""

from functools import partial
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import cs231n_optax
from cs231n_optax.lecture import style
from cs231n_optax.lecture.claims import picture
from cs231n_optax.lecture.claims.claim import (
    Answer,
    Claim,
    Numbers,
    Verdict,
    by_case,
    by_value,
    is_above,
    is_below,
    mean,
)
from cs231n_optax.lecture.claims.experiment import for_each, for_each_pair
from cs231n_optax.lecture.descent import descend
from cs231n_optax.lecture.landscapes import local_minimum
from cs231n_optax.problems.landscapes import saddle

# SGD at a local minimum.


def ends_in_local_basin(quick: bool) -> dict[str, Any]:
    """SGD from random starts in the basin of the local minimum at -1, the global one being at 2.

    f(x) = x⁴/4 - x³/3 - x², α = 0.1, 1000 steps, with normal noise of standard deviation σ on the
    gradient. Measured: whether the end is in the basin of the start.
    """
    sigmas, steps = np.array([0, 0.5, 1, 2, 4]), 1000

    def loss(params, batch):  # its gradient is f′ + σ ξ, with σ ξ in the batch
        return local_minimum(params) + params * jnp.sum(batch)

    def run(sigma, key):
        start, noise, order = jax.random.split(key, 3)
        result = cs231n_optax.fit(
            loss,
            jax.random.uniform(start, minval=-2, maxval=-0.1),
            cs231n_optax.sgd(0.1),
            sigma * jax.random.normal(noise, (steps,)),
            steps=steps,
            batch_size=1,
            key=order,
        )
        return result.params < 0

    keys = jax.random.split(jax.random.key(0), 100 if quick else 400)
    stayed = for_each_pair(lambda key, sigma: run(sigma, key), keys, sigmas)
    return {"sigma": sigmas, "stayed": stayed}


def stays(numbers: Numbers) -> Verdict:
    """Holds for the noise with which the share of the runs that stay is above 0.9."""
    return by_value(
        "the gradient's noise σ", numbers["sigma"], is_above(mean(numbers["stayed"]), 0.9)
    )


def stays_figure(numbers: Numbers) -> str:
    """The shares without noise and with the most."""
    share, sigmas = mean(numbers["stayed"]), numbers["sigma"]
    shares = ", ".join(f"{s} at σ = {x:g}" for x, s in zip(sigmas, share, strict=True))
    return f"share of the runs that stay: {shares}"


def stays_picture(numbers: Numbers) -> Figure:
    """The share over the noise."""
    figure, axes = picture.new_picture()
    picture.points(axes, numbers["sigma"], mean(numbers["stayed"]), style.METHOD_STYLES["sgd"])
    axes.set(xlabel="standard deviation σ of the gradient", ylabel="share that stays")
    axes.set_ylim(-0.05, 1.05)
    return figure


LOCAL_MINIMUM = Claim(
    name="sgd-local-minimum",
    section="7-1-2 B",
    statement="SGD stops at a local minimum and does not reach the global one.",
    experiment=ends_in_local_basin,
    verdict=stays,
    figure=stays_figure,
    draw=stays_picture,
)

# SGD at a saddle point.

MOST_STEPS = 1000


def steps_at_saddle(quick: bool) -> dict[str, Any]:
    """SGD with α = 0.05 on f(x, y) = x² - y² + y⁴/4, from points beside the ridge y = 0.

    Counted: the steps until f is below -½, half of the way to the minimum; at most 1000.
    """
    distances = np.array([0, 1e-6, 1e-4, 1e-2])

    def run(distance, key):
        x, y = jax.random.normal(key, (2,))
        start = jnp.stack([x, y * distance])
        values = descend(saddle().fun, start, cs231n_optax.sgd(0.05), MOST_STEPS).values
        return jnp.where(jnp.any(values < -0.5), jnp.argmax(values < -0.5), MOST_STEPS)

    keys = jax.random.split(jax.random.key(1), 20 if quick else 100)
    over_distances = jax.vmap(run, (0, None))
    steps = jax.jit(jax.vmap(over_distances, (None, 0)))(distances, keys)
    return {"distance": distances, "steps": steps}


def never_leaves(numbers: Numbers) -> Verdict:
    """Holds for the distances from the ridge at which more than 0.9 of the runs stay 1000 steps."""
    stayed = mean(numbers["steps"] >= MOST_STEPS)
    return by_value("the distance from the ridge", numbers["distance"], is_above(stayed, 0.9))


def leaving_figure(numbers: Numbers) -> str:
    """The steps at each distance."""
    steps, stayed = mean(numbers["steps"]), numbers["steps"].min(axis=0) >= MOST_STEPS
    each = (
        f"{f'more than {MOST_STEPS}' if stuck else count} at a distance of {distance:g}"
        for distance, count, stuck in zip(numbers["distance"], steps, stayed, strict=True)
    )
    return f"steps until SGD leaves: {', '.join(each)}"


def leaving_picture(numbers: Numbers) -> Figure:
    """The steps over the distance."""
    figure, axes = picture.new_picture()
    names = [f"{distance:g}" for distance in numbers["distance"]]
    picture.bars(axes, names, mean(numbers["steps"]), "0.35")
    axes.set(xlabel="steps until SGD leaves, at most 1000", ylabel="distance from the ridge")
    return figure


SADDLE = Claim(
    name="sgd-saddle",
    section="7-1-2 B",
    statement="SGD stops at a saddle point, where the gradient is zero.",
    experiment=steps_at_saddle,
    verdict=never_leaves,
    figure=leaving_figure,
    draw=leaving_picture,
)

# Stationary points of random fields.


def saddles_of_random_fields(quick: bool) -> dict[str, Any]:
    """The kinds of the stationary points of random smooth fields, over the dimension.

    A field is a sum of 100 cosine waves of random directions and phases. BFGS on ‖∇f‖² finds
    stationary points from random starts, and `classify_point` tells their kind. Measured: the share
    of saddle points among those of a field.
    """
    sizes = np.array([1, 2, 4, 8])
    num_fields, num_starts = (10, 10) if quick else (30, 20)

    def kind(waves, phases, start):
        def field(x):
            return jnp.mean(jnp.cos(waves @ x + phases))

        def squared_gradient(x):
            return jnp.sum(jax.grad(field)(x) ** 2) * len(phases)

        found = cs231n_optax.minimize(
            squared_gradient, start, cs231n_optax.bfgs(), tol=1e-6, max_evals=200
        )
        key = jax.random.key(0)
        return cs231n_optax.classify_point(
            field, found.params, key=key, grad_tol=1e-4, num_products=len(start)
        ).kind

    def share(n, key):
        keys = jax.random.split(key, 3)
        waves = jax.random.normal(keys[0], (100, n))
        phases = jax.random.uniform(keys[1], (100,), maxval=2 * jnp.pi)
        starts = jax.random.normal(keys[2], (num_starts, n))
        kinds = jax.lax.map(lambda start: kind(waves, phases, start), starts)
        stationary = kinds <= cs231n_optax.PointKind.MAXIMUM
        return jnp.sum(kinds == cs231n_optax.PointKind.SADDLE) / jnp.sum(stationary)

    keys = jax.random.split(jax.random.key(2), num_fields)
    shares = [for_each(partial(share, n), keys) for n in sizes.tolist()]
    return {"size": sizes, "share": np.stack(shares, axis=1)}


def rises(numbers: Numbers) -> Verdict:
    """Holds if the share is above the first one in the highest dimension and falls nowhere between.

    Otherwise it holds for those steps of the dimension at which the share rises.
    """
    sizes, shares = numbers["size"], numbers["share"]
    steps = mean(np.diff(shares, axis=1))
    if is_above(mean(shares[:, -1] - shares[:, 0]), 0) and not np.any(is_below(steps, 0)):
        return Verdict(Answer.HOLDS)
    names = [f"n goes from {a:g} to {b:g}" for a, b in pairwise(sizes)]
    return by_case(names, is_above(steps, 0))


def rises_figure(numbers: Numbers) -> str:
    """The shares."""
    shares = mean(numbers["share"])
    each = (f"{share} for n = {n:g}" for n, share in zip(numbers["size"], shares, strict=True))
    return f"share of saddle points: {', '.join(each)}"


def rises_picture(numbers: Numbers) -> Figure:
    """The share over the dimension."""
    figure, axes = picture.new_picture()
    picture.points(axes, numbers["size"], mean(numbers["share"]), picture.SERIES[0])
    axes.set(xlabel="dimension n", ylabel="share of saddle points", ylim=(-0.05, 1.05))
    return figure


RANDOM_FIELDS = Claim(
    name="random-field-saddles",
    section="7-1-2 B",
    statement="In high dimensions, stationary points are saddle points more often.",
    experiment=saddles_of_random_fields,
    verdict=rises,
    figure=rises_figure,
    draw=rises_picture,
)

CLAIMS = (LOCAL_MINIMUM, SADDLE, RANDOM_FIELDS)
