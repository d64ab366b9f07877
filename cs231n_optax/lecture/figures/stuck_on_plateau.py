"""Figure 6 (7-1-2 B): SGD comes to rest on a plateau and on a saddle."""

from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

import cs231n_optax
from cs231n_optax.lecture import style
from cs231n_optax.lecture.descent import Path, descend
from cs231n_optax.lecture.figures.stuck_in_local_minimum import draw_run
from cs231n_optax.lecture.landscapes import plateau
from cs231n_optax.problems.landscapes import saddle

RATE, STEPS = 0.1, 100


class Data(NamedTuple):
    """A run onto the plateau, and one along the ridge of a saddle."""

    on_plateau: Path
    on_saddle: Path


def compute() -> Data:
    """Two runs of SGD."""
    sgd = cs231n_optax.sgd(RATE)
    return Data(
        on_plateau=descend(plateau, (-0.9,), sgd, STEPS),
        on_saddle=descend(saddle().fun, (-1.5, 0.0), sgd, STEPS),
    )


def draw(data: Data) -> Figure:
    """The curve on the left, the saddle from above on the right."""
    figure, (left, right) = style.new_figure(2)
    draw_run(left, plateau, (-1.1, 2.9), data.on_plateau, "sgd")
    left.scatter(2, plateau(2.0), **style.MINIMUM, label="minimum")
    left.set_title("plateau")
    style.legend(left, loc="upper center")

    x, y = np.linspace(-1.8, 1.8, 91), np.linspace(-2.2, 2.2, 111)
    style.contours(right, x, y, style.grid_values(saddle().fun, x, y), np.linspace(-1, 3, 17))
    points = np.asarray(data.on_saddle.points)
    right.plot(*points.T, "o", color="black", markersize=3, alpha=0.6)
    right.scatter(*points[-1], **style.POINT)
    right.scatter(*saddle().minimizers.T, **style.MINIMUM)
    right.set(xlabel="x", ylabel="y", title="saddle, along its ridge")
    return figure
