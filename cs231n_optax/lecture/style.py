"""The look of the lecture's figures: one size, one colour per method, plain drawing helpers.

A figure is 1200 pixels wide and is shown at 600, with letters of 12 pixels there.
"""

from typing import Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cs231n_optax.experiments.style import (
    BLACK,
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY_BLUE,
    VERMILION,
    LineStyle,
)

METHOD_STYLES = {
    "sgd": LineStyle(BLACK, "-", "o"),
    "momentum": LineStyle(ORANGE, "-", "s"),
    "nesterov": LineStyle(BLUE, "-", "^"),
    "adagrad": LineStyle(GREEN, "-.", "D"),
    "rmsprop": LineStyle(PURPLE, "--", "v"),
    "adam-uncorrected": LineStyle(SKY_BLUE, "--", "X"),
    "adam": LineStyle(VERMILION, "-", "P"),
    "lbfgs": LineStyle("#6A3D9A", "-", "d"),
    "bfgs": LineStyle("#8C6D31", "-", "<"),
    "newton": LineStyle("#7F7F7F", "--", ">"),
    "newton-cg": LineStyle("#4D4D4D", ":", "h"),
}
"""One colour, dash and marker per method, in all figures."""

POINT: dict[str, Any] = {"color": VERMILION, "marker": "o", "s": 55, "zorder": 5}
MINIMUM: dict[str, Any] = {"color": GREEN, "marker": "*", "s": 160, "zorder": 5}
FONT_SIZE = 10


def new_figure(columns: int = 1, rows: int = 1, *, height: float = 3.4, **options: Any) -> Any:
    """A figure 6 inches wide and ``height`` inches high, and its axes."""
    figure = Figure(figsize=(6, height), dpi=200, layout="constrained")
    axes = figure.subplots(rows, columns, **options)
    for each in np.atleast_1d(axes).ravel():
        plain(each)
    return figure, axes


def plain(axes: Axes) -> None:
    """Labels of one size, and no frame at the top and the right."""
    axes.tick_params(labelsize=FONT_SIZE - 1)
    for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
        text.set_fontsize(FONT_SIZE)
    if axes.name != "3d":
        axes.spines[["top", "right"]].set_visible(False)


def legend(axes: Axes, **options: Any) -> None:
    """A legend on a pale ground, so that it can be read over contours."""
    pale = {"facecolor": "white", "edgecolor": "none", "framealpha": 0.8}
    axes.legend(fontsize=FONT_SIZE - 1, **(pale | options))


def grid_values(fun: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The values of f(point) on a grid, (len(y), len(x))."""
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    return np.asarray(jax.jit(jax.vmap(fun))(points)).reshape(len(y), len(x))


def contours(axes: Axes, x: np.ndarray, y: np.ndarray, values: np.ndarray, levels: Any) -> None:
    """Pale filled contours with thin lines, for paths to be drawn over."""
    axes.contourf(x, y, values, levels, cmap="Blues_r", alpha=0.45, extend="both")
    axes.contour(x, y, values, levels, colors="0.45", linewidths=0.5)


def arrow(axes: Axes, start: Any, step: Any, color: str, label: str, **options: Any) -> None:
    """An arrow of a step, with an entry in the legend."""
    end = np.asarray(start) + np.asarray(step)
    axes.annotate(
        "",
        xy=tuple(end),
        xytext=tuple(start),
        arrowprops={"arrowstyle": "-|>", "color": color, "lw": 2, "shrinkA": 0, "shrinkB": 0}
        | options,
    )
    axes.plot([], [], color=color, linewidth=2, label=label)
