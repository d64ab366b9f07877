"""Figure 8 (7-1-3): momentum crosses the plateau of figure 6."""

from matplotlib.figure import Figure

import cs231n_optax
from cs231n_optax.lecture import style
from cs231n_optax.lecture.descent import Path, descend
from cs231n_optax.lecture.figures.stuck_in_local_minimum import draw_run
from cs231n_optax.lecture.figures.stuck_on_plateau import RATE, STEPS
from cs231n_optax.lecture.landscapes import plateau


def compute() -> Path:
    """The start, the rate and the number of steps of figure 6; ρ = 0.9."""
    return descend(plateau, (-0.9,), cs231n_optax.momentum(RATE, rho=0.9), STEPS)


def draw(path: Path) -> Figure:
    """The curve, and the points on it."""
    figure, axes = style.new_figure()
    draw_run(axes, plateau, (-1.1, 2.9), path, "momentum")
    axes.scatter(2, plateau(2.0), **style.MINIMUM, label="minimum")
    axes.set_title(f"momentum, α = {RATE:g}, ρ = 0.9")
    style.legend(axes, loc="upper center")
    return figure
