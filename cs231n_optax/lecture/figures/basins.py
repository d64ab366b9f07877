"""Basins of attraction: which minimum each method reaches from each start, and how soon."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import cs231n_optax
from cs231n_optax.lecture import style
from cs231n_optax.problems.landscapes import himmelblau

METHODS = {
    "gradient descent": cs231n_optax.with_line_search(optax.identity()),
    "momentum": cs231n_optax.momentum(0.005),
    "Adam": cs231n_optax.adam(0.1),
    "L-BFGS": cs231n_optax.lbfgs(),
    "BFGS": cs231n_optax.bfgs(),
    "Newton": cs231n_optax.newton(),
}
GRID, MAX_EVALS = 90, 300


class Data(NamedTuple):
    """For each method and start: the nearest minimiser (-1 if none was reached), and the cost."""

    x: np.ndarray
    reached: np.ndarray
    num_evals: np.ndarray


def compute() -> Data:
    """Every start of a grid in one vmap per method, on Himmelblau's four minima."""
    landscape, x = himmelblau(), np.linspace(-6, 6, GRID)
    starts = jnp.array(np.stack(np.meshgrid(x, x), axis=-1).reshape(-1, 2))

    def solve(tx, start):
        result = cs231n_optax.minimize(
            landscape.fun, start, tx, tol=0.0, atol=1e-3, max_evals=MAX_EVALS
        )
        distance = jnp.linalg.norm(landscape.minimizers - result.params, axis=1)
        return jnp.where(distance.min() < 1e-2, distance.argmin(), -1), result.num_evals

    runs = [jax.jit(jax.vmap(lambda x, tx=tx: solve(tx, x)))(starts) for tx in METHODS.values()]
    reached, num_evals = (np.reshape(each, (-1, GRID, GRID)) for each in zip(*runs, strict=True))
    return Data(x, reached, num_evals)


def draw(data: Data) -> Figure:
    """One panel per method: the hue is the minimum, and it is darker the more it cost."""
    figure, axes = style.new_figure(3, 2, height=4.9, sharex=True, sharey=True)
    colors = np.array(
        [to_rgb(c) for c in (style.ORANGE, style.SKY_BLUE, style.GREEN, style.PURPLE)]
    )
    for each, name, reached, cost in zip(
        axes.ravel(), METHODS, data.reached, data.num_evals, strict=True
    ):
        # White for a few evaluations, the hue for ten, dark for the most.
        dark = np.clip(np.log(cost / 10) / np.log(MAX_EVALS / 10), 0, 1)[..., None]
        image = np.where(reached[..., None] < 0, 0.0, colors[reached] * (1 - 0.75 * dark))
        each.imshow(image, origin="lower", extent=(-6, 6, -6, 6), interpolation="nearest")
        each.scatter(*himmelblau().minimizers.T, marker="*", color="white", edgecolor="k", s=60)
        each.set_title(f"{name}\n{np.median(cost):.0f} evaluations")
        each.set(xticks=(-5, 0, 5), yticks=(-5, 0, 5))
    return figure
