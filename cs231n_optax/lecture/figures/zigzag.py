"""Figure 4 (7-1-2 A): the same run from above, a zigzag."""

import numpy as np
from matplotlib.figure import Figure

from cs231n_optax.lecture import style
from cs231n_optax.lecture.descent import Path
from cs231n_optax.lecture.figures import sgd_movement
from cs231n_optax.lecture.figures.sgd_movement import KAPPA, RATE
from cs231n_optax.problems.landscapes import taco_shell


def compute() -> Path:
    """The run of figure 3."""
    return sgd_movement.compute()


def draw(path: Path) -> Figure:
    """The path over the contours."""
    figure, axes = style.new_figure(height=2.9)
    x, y = np.linspace(-10, 2, 121), np.linspace(-2.2, 2.2, 89)
    values = style.grid_values(taco_shell(KAPPA).fun, x, y)
    style.contours(axes, x, y, values, np.geomspace(0.5, 120, 12))
    sgd = style.METHOD_STYLES["sgd"]
    axes.plot(
        *np.asarray(path.points).T, "o-", color=sgd.color, markersize=3, linewidth=1, label="SGD"
    )
    axes.scatter(0, 0, **style.MINIMUM, label="minimum")
    axes.set(xlabel="x, shallow", ylabel="y, steep", title=f"SGD with α = {RATE:g}")
    style.legend(axes, loc="upper right")
    return figure
