"""Figure 7 (7-1-3): momentum rolls out of the local minimum of figure 5."""

from matplotlib.figure import Figure

import cs231n_optax
from cs231n_optax.lecture import style
from cs231n_optax.lecture.descent import Path, descend
from cs231n_optax.lecture.figures.stuck_in_local_minimum import RATE, START, STEPS, draw_run
from cs231n_optax.lecture.landscapes import local_minimum


def compute() -> Path:
    """The start, the rate and the number of steps of figure 5; ρ = 0.9."""
    return descend(local_minimum, START, cs231n_optax.momentum(RATE, rho=0.9), STEPS)


def draw(path: Path) -> Figure:
    """The curve, and the points on it."""
    figure, axes = style.new_figure()
    draw_run(axes, local_minimum, (-2.4, 3.2), path, "momentum")
    axes.scatter(2, local_minimum(2.0), **style.MINIMUM, label="global minimum")
    axes.set_title(f"momentum, α = {RATE:g}, ρ = 0.9")
    style.legend(axes, loc="upper center")
    return figure
