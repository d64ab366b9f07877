"""One step of momentum as arrows: what the figures of both kinds of momentum share."""

from typing import NamedTuple

import jax
import numpy as np
from matplotlib.figure import Figure

from cs231n_optax.lecture import style
from cs231n_optax.problems.landscapes import taco_shell

KAPPA, RATE, RHO, START, STEP = 4.0, 0.12, 0.8, (-6.0, 2.6), 3


class Vectors(NamedTuple):
    """One step from a point x, as its two parts and their sum.

    Attributes:
      path: the points up to x, (STEP + 1, 2).
      x: where the step starts.
      ahead: where the gradient was evaluated.
      velocity: the part of the step that is left of the velocity.
      gradient: the part of the step along the negative gradient.
      step: their sum, from the method itself.
    """

    path: jax.Array
    x: jax.Array
    ahead: jax.Array
    velocity: jax.Array
    gradient: jax.Array
    step: jax.Array


def draw(data: Vectors, title: str, velocity: str, gradient: str) -> Figure:
    """Three arrows on the taco shell; the gradient starts where it was evaluated."""
    figure, axes = style.new_figure()
    x, y = np.linspace(-6.6, 1.5, 121), np.linspace(-2.6, 3.2, 89)
    style.contours(
        axes, x, y, style.grid_values(taco_shell(KAPPA).fun, x, y), np.geomspace(0.3, 60, 12)
    )
    axes.plot(*np.asarray(data.path).T, "o--", color="0.35", markersize=4, linewidth=1)
    end = data.x + data.step
    for corner in (data.x + data.velocity, data.ahead + data.gradient):
        axes.plot(*np.stack([corner, end]).T, ":", color="0.2", linewidth=1)
    style.arrow(axes, data.x, data.velocity, style.GREEN, velocity)
    style.arrow(axes, data.ahead, data.gradient, style.VERMILION, gradient)
    style.arrow(axes, data.x, data.step, style.BLUE, "actual step")
    axes.scatter(0, 0, **style.MINIMUM)
    axes.set(xlabel="x", ylabel="y", title=title)
    style.legend(axes, loc="upper right")
    return figure
