"""Figure 10 (7-1-3): Nesterov's step, with the gradient taken at the end of the velocity."""

from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

import cs231n_optax
from cs231n_optax.lecture import style
from cs231n_optax.lecture.descent import descend
from cs231n_optax.lecture.figures.momentum_vectors import KAPPA, RATE, RHO, START, STEP, Vectors
from cs231n_optax.problems.landscapes import taco_shell


def compute() -> Vectors:
    """The fourth step of a run, between the iterates x = x̃ - ρ v: ρ v, then -α g(x̃)."""
    fun, tx = taco_shell(KAPPA).fun, cs231n_optax.nesterov(RATE, rho=RHO)
    path = descend(fun, START, tx, STEP + 1)
    x: Any = jax.vmap(cs231n_optax.nesterov_iterate)(path.states, path.points)
    return Vectors(
        path=x[: STEP + 1],
        x=x[STEP],
        velocity=path.points[STEP] - x[STEP],
        gradient=-RATE * path.grads[STEP],
        step=x[STEP + 1] - x[STEP],
    )


def draw(data: Vectors) -> Figure:
    """Three arrows that close a triangle; the gradient starts where it was evaluated."""
    figure, axes = style.new_figure()
    x, y = np.linspace(-6.6, 1.5, 121), np.linspace(-2.6, 3.2, 89)
    style.contours(
        axes, x, y, style.grid_values(taco_shell(KAPPA).fun, x, y), np.geomspace(0.3, 60, 12)
    )
    axes.plot(*np.asarray(data.path).T, "o--", color="0.35", markersize=4, linewidth=1)
    style.arrow(axes, data.x, data.velocity, style.GREEN, "velocity, ρv")
    ahead = data.x + data.velocity
    style.arrow(axes, ahead, data.gradient, style.VERMILION, "gradient there, -αg(x + ρv)")
    style.arrow(axes, data.x, data.step, style.BLUE, "actual step")
    axes.scatter(0, 0, **style.MINIMUM)
    axes.set(xlabel="x", ylabel="y", title="Nesterov: the gradient at the end of the velocity")
    style.legend(axes, loc="lower right")
    return figure
