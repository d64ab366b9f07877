"""Figure 9 (7-1-3): velocity + gradient = the actual step of momentum, from a real state."""

from typing import NamedTuple

import jax
import numpy as np
import optax
from matplotlib.figure import Figure

import cs231n_optax
from cs231n_optax.lecture import style
from cs231n_optax.lecture.descent import descend
from cs231n_optax.problems.landscapes import taco_shell

KAPPA, RATE, RHO, START, STEP = 4.0, 0.12, 0.8, (-6.0, 2.6), 3


class Vectors(NamedTuple):
    """One step from a point x, as its two parts and their sum."""

    path: jax.Array
    x: jax.Array
    velocity: jax.Array
    gradient: jax.Array
    step: jax.Array


def compute() -> Vectors:
    """The fourth step of a run: -αρ v, then -α g, and the update that the method returned."""
    fun, tx = taco_shell(KAPPA).fun, cs231n_optax.momentum(RATE, rho=RHO)
    path = descend(fun, START, tx, STEP + 1)
    velocity = optax.tree.get(path.states, "velocity")[STEP]
    return Vectors(
        path=path.points[: STEP + 1],
        x=path.points[STEP],
        velocity=-RATE * RHO * velocity,
        gradient=-RATE * path.grads[STEP],
        step=path.points[STEP + 1] - path.points[STEP],
    )


def draw(data: Vectors) -> Figure:
    """Three arrows that close a triangle."""
    figure, axes = style.new_figure()
    x, y = np.linspace(-6.6, 1.5, 121), np.linspace(-2.6, 3.2, 89)
    style.contours(
        axes, x, y, style.grid_values(taco_shell(KAPPA).fun, x, y), np.geomspace(0.3, 60, 12)
    )
    axes.plot(*np.asarray(data.path).T, "o--", color="0.35", markersize=4, linewidth=1)
    style.arrow(axes, data.x, data.velocity, style.GREEN, "velocity, -αρv")
    style.arrow(axes, data.x + data.velocity, data.gradient, style.VERMILION, "gradient, -αg")
    style.arrow(axes, data.x, data.step, style.BLUE, "actual step")
    axes.scatter(0, 0, **style.MINIMUM)
    axes.set(xlabel="x", ylabel="y", title="momentum: velocity + gradient = actual step")
    style.legend(axes, loc="lower right")
    return figure
