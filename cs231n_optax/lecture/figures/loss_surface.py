"""The loss of a network around its solution, with the trajectories that led there.

Left: along two random directions, each filter scaled to the norm of the weights' filter. Right: in
the plane of the two principal directions of the trajectories.

Source: H. Li, Z. Xu, G. Taylor, C. Studer and T. Goldstein, "Visualizing the loss landscape of
neural nets", NeurIPS 2018.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from matplotlib.figure import Figure

import cs231n_optax
from cs231n_optax.lecture import style
from cs231n_optax.problems import datasets, networks

STEPS, BATCH_SIZE, GRID = 400, 64, 41
METHODS = {
    "sgd": cs231n_optax.sgd(0.1),
    "momentum": cs231n_optax.momentum(0.02),
    "adam": cs231n_optax.adam(0.005),
}


class Data(NamedTuple):
    """Two surfaces (GRID, GRID), and the trajectories in the plane of the second."""

    ends: np.ndarray
    random: np.ndarray
    x: np.ndarray
    y: np.ndarray
    principal: np.ndarray
    trajectories: np.ndarray
    explained: float


class Problem(NamedTuple):
    """A perceptron on the digits, of one flat vector of parameters."""

    loss: Callable[[Any, Any], jax.Array]
    data: tuple[jax.Array, jax.Array]
    start: jax.Array
    unravel: Callable[[Any], Any]


def compute() -> Data:
    """Three trajectories from one start; the loss around Adam's end, and in their plane."""
    problem = digits_problem()
    runs = np.stack([trajectory(problem, tx) for tx in METHODS.values()])
    solution, ends = runs[-1, -1], np.linspace(-1, 1, GRID)
    random = surface(problem, solution, filter_normalised(problem, solution), ends, ends)

    # The principal directions of all points of the three runs.
    center = runs[:, -1].mean(axis=0)
    moved = (runs - center).reshape(-1, len(center))
    _, sizes, directions = np.linalg.svd(moved, full_matrices=False)
    plane = (runs - center) @ directions[:2].T
    low, high = plane.min((0, 1)), plane.max((0, 1))
    margin = 0.2 * (high - low)
    x, y = np.linspace(low - margin, high + margin, GRID).T
    principal = surface(problem, center, directions[:2], x, y)
    explained = float((sizes[:2] ** 2).sum() / (sizes**2).sum())
    return Data(ends, random, x, y, principal, plane, explained)


def digits_problem() -> Problem:
    """One hidden layer of 32, all training images."""
    digits = datasets.digits()
    net = networks.mlp((8, 8, 1), 10, hidden=(32,))
    start, unravel = ravel_pytree(net.init(jax.random.key(0)))

    def loss(flat: Any, batch: Any) -> jax.Array:
        return networks.cross_entropy(net.apply(unravel(flat), batch[0]), batch[1])

    return Problem(loss, (jnp.asarray(digits.x_train), jnp.asarray(digits.y_train)), start, unravel)


def trajectory(problem: Problem, tx: optax.GradientTransformation) -> np.ndarray:
    """The parameters at the start and after each 10 steps."""
    run = cs231n_optax.fit(
        problem.loss,
        problem.start,
        tx,
        problem.data,
        steps=STEPS,
        batch_size=BATCH_SIZE,
        key=jax.random.key(0),
        evaluate=lambda flat: flat,
        chunk_size=10,
    )
    return np.vstack([problem.start, run.history.evaluation])


def surface(problem: Problem, center: Any, directions: Any, x: Any, y: Any) -> np.ndarray:
    """The loss at center + a · first + b · second, for a in x and b in y: (len(y), len(x))."""
    first, second = directions

    @jax.jit
    def row(b: jax.Array) -> jax.Array:
        return jax.vmap(lambda a: problem.loss(center + a * first + b * second, problem.data))(x)

    return np.stack([row(b) for b in y])


def filter_normalised(problem: Problem, flat: Any) -> list[jax.Array]:
    """Two random directions; each unit's weights have the norm of the solution's. No biases."""

    def scaled(d: jax.Array, w: jax.Array) -> jax.Array:
        if w.ndim == 1:
            return jnp.zeros_like(d)
        return d * jnp.linalg.norm(w, axis=0) / jnp.linalg.norm(d, axis=0)

    def direction(key: jax.Array) -> jax.Array:
        noise = problem.unravel(jax.random.normal(key, flat.shape, flat.dtype))
        return ravel_pytree(jax.tree.map(scaled, noise, problem.unravel(flat)))[0]

    return [direction(key) for key in jax.random.split(jax.random.key(1))]


def draw(data: Data) -> Figure:
    """Two maps of the loss with common levels."""
    figure, (left, right) = style.new_figure(2, height=3.3)
    levels = np.geomspace(0.01, 10, 25)
    style.contours(left, data.ends, data.ends, np.clip(data.random, 0.0101, 9.9), levels)
    left.plot(0, 0, "P", color=style.METHOD_STYLES["adam"].color, label="Adam's solution")
    left.set(title="two random directions", xlabel="first", ylabel="second")
    style.legend(left, loc="upper right")
    style.contours(right, data.x, data.y, np.clip(data.principal, 0.0101, 9.9), levels)
    widths = 3, 1.3, 1.3  # so that SGD shows beneath momentum, whose path is almost the same
    for name, path, width in zip(METHODS, data.trajectories, widths, strict=True):
        line = style.METHOD_STYLES[name]
        right.plot(*path.T, color=line.color, linewidth=width, label=name)
        right.plot(*path[-1], line.marker, color=line.color, markersize=6)
    right.plot(*data.trajectories[0, 0], "ko", markersize=5)
    right.set(title=f"paths, {data.explained:.0%} of variance", xlabel="first", ylabel="second")
    style.legend(right, loc="best")
    return figure
