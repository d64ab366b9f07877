"""Figure 3 (7-1-2 A): SGD on the taco shell, its two coordinates step by step."""

import numpy as np
from matplotlib.figure import Figure

import cs231n_optax
from cs231n_optax.lecture import style
from cs231n_optax.lecture.descent import Path, descend
from cs231n_optax.problems.landscapes import taco_shell

KAPPA, RATE, START, STEPS = 25.0, 0.076, (-9.0, 1.6), 30


def compute() -> Path:
    """SGD at 0.95 of the largest stable rate, 2 / κ."""
    return descend(taco_shell(KAPPA).fun, START, cs231n_optax.sgd(RATE), STEPS)


def draw(path: Path) -> Figure:
    """Horizontal: slow and steady. Vertical: to and fro across the valley."""
    figure, (left, right) = style.new_figure(2, height=2.9)
    for axes, row, name in ((left, 0, "x, shallow"), (right, 1, "y, steep")):
        color = (style.BLUE, style.VERMILION)[row]
        axes.axhline(0, color="0.7", linewidth=0.8)
        axes.plot(np.asarray(path.points)[:, row], "o-", color=color, markersize=3.5, linewidth=1.2)
        axes.set(xlabel="step", ylabel=name)
    left.set_title(f"times 1 - α = {1 - RATE:.3f} a step")
    right.set_title(f"times 1 - ακ = {1 - RATE * KAPPA:.2f} a step")
    return figure
