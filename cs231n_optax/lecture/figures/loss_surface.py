"""The loss of a network around its solution, with the trajectories that led there.

Left: along two random directions, each filter scaled to the norm of the weights' filter. Right: in
the plane of the two principal directions of the trajectories.

Source: H. Li, Z. Xu, G. Taylor, C. Studer and T. Goldstein, "Visualizing the loss landscape of
neural nets", NeurIPS 2018.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
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


def compute() -> Data:
    """A perceptron on the digits, trained by three methods from one start."""
    digits = datasets.digits()
    net, key = networks.mlp((8, 8, 1), 10, hidden=(32,)), jax.random.key(0)
    data = jnp.asarray(digits.x_train), jnp.asarray(digits.y_train)
    start, unravel = jax.flatten_util.ravel_pytree(net.init(key))

    def loss(flat, batch):
        return networks.cross_entropy(net.apply(unravel(flat), batch[0]), batch[1])

    def trajectory(tx):
        run = cs231n_optax.fit(
            loss,
            start,
            tx,
            data,
            steps=STEPS,
            batch_size=BATCH_SIZE,
            key=key,
            evaluate=lambda flat: flat,
            chunk_size=10,
        )
        return np.vstack([start, run.history.evaluation])

    def surface(center, first, second, x, y):
        points = jax.vmap(jax.vmap(lambda a, b: center + a * first + b * second))(
            *np.meshgrid(x, y)
        )
        return np.asarray(
            jax.jit(lambda p: jax.lax.map(jax.vmap(lambda q: loss(q, data)), p))(points)
        )

    runs = np.stack([trajectory(tx) for tx in METHODS.values()])
    solution, ends = runs[-1, -1], np.linspace(-1, 1, GRID)
    random = surface(solution, *filter_normalised(solution, unravel), ends, ends)
    center = runs[:, -1].mean(axis=0)
    _, sizes, directions = np.linalg.svd(
        (runs - center).reshape(-1, len(start)), full_matrices=False
    )
    plane = (runs - center) @ directions[:2].T
    low, high = plane.min((0, 1)), plane.max((0, 1))
    x, y = (
        np.linspace(a - 0.2 * (b - a), b + 0.2 * (b - a), GRID)
        for a, b in zip(low, high, strict=True)
    )
    principal = surface(center, *directions[:2], x, y)
    explained = float((sizes[:2] ** 2).sum() / (sizes**2).sum())
    return Data(ends, random, x, y, principal, plane, explained)


def filter_normalised(flat, unravel):
    """Two random directions; each unit's weights have the norm of the solution's. No biases."""
    weights, directions = unravel(flat), []
    for key in jax.random.split(jax.random.key(1)):
        noise = unravel(jax.random.normal(key, flat.shape, flat.dtype))
        scaled = jax.tree.map(
            lambda d, w: (
                d * jnp.linalg.norm(w, axis=0) / jnp.linalg.norm(d, axis=0) if w.ndim > 1 else 0 * d
            ),
            noise,
            weights,
        )
        directions.append(jax.flatten_util.ravel_pytree(scaled)[0])
    return directions


def draw(data: Data) -> Figure:
    """Two maps of the loss with common levels."""
    figure, (left, right) = style.new_figure(2, height=3.3)
    levels = np.geomspace(0.01, 10, 25)
    style.contours(left, data.ends, data.ends, np.clip(data.random, 0.0101, 9.9), levels)
    left.plot(0, 0, "P", color=style.METHOD_STYLES["adam"].color, label="Adam's solution")
    left.set(title="two random directions", xlabel="first", ylabel="second")
    style.legend(left, loc="upper right")
    style.contours(right, data.x, data.y, np.clip(data.principal, 0.0101, 9.9), levels)
    for name, path in zip(METHODS, data.trajectories, strict=True):
        line = style.METHOD_STYLES[name]
        right.plot(*path.T, color=line.color, linewidth=1.3, label=name)
        right.plot(*path[-1], line.marker, color=line.color, markersize=6)
    right.plot(*data.trajectories[0, 0], "ko", markersize=5)
    right.set(title=f"trajectories ({data.explained:.0%})", xlabel="first", ylabel="second")
    style.legend(right, loc="best")
    return figure
