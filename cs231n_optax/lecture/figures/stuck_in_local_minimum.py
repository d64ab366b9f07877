"""Figure 5 (7-1-2 B): SGD comes to rest in a local minimum."""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import cs231n_optax
from cs231n_optax.lecture import style
from cs231n_optax.lecture.descent import Path, descend
from cs231n_optax.lecture.landscapes import local_minimum

START, RATE, STEPS = (-2.2,), 0.02, 150


def compute() -> Path:
    """SGD from the left."""
    return descend(local_minimum, START, cs231n_optax.sgd(RATE), STEPS)


def draw(path: Path) -> Figure:
    """The curve, and the points on it."""
    figure, axes = style.new_figure()
    draw_run(axes, local_minimum, (-2.4, 3.2), path, "sgd")
    axes.scatter(2, local_minimum(2.0), **style.MINIMUM, label="global minimum")
    axes.set_title(
        f"SGD, α = {RATE:g}: at rest after {len(path.points) - 1} steps, f′ = "
        f"{abs(float(path.grads[-1, 0])):.0e}"
    )
    style.legend(axes, loc="upper center")
    return figure


def draw_run(
    axes: Axes,
    fun: Callable[[Any], Any],
    ends: tuple[float, float],
    path: Path,
    method: str,
) -> None:
    """A curve of one variable with the points of a run and where it ends."""
    x = np.linspace(ends[0], ends[1], 400)
    axes.plot(x, [float(fun(point)) for point in x], color="0.55", linewidth=1.5)
    line = style.METHOD_STYLES[method]
    axes.plot(
        np.asarray(path.points)[:, 0],
        path.values,
        "o",
        color=line.color,
        markersize=3,
        alpha=0.6,
        label="iterates",
    )
    axes.scatter(path.points[-1, 0], path.values[-1], **style.POINT, label="last iterate")
    axes.set(xlabel="x", ylabel="f(x)")
