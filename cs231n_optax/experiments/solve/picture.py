"""The picture of a solve: in two dimensions the path through the contours, in more two curves."""

import math
from typing import Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from cs231n_optax.experiments import style
from cs231n_optax.experiments.solve.experiment import Setting, Solution
from cs231n_optax.problems.landscapes import Landscape

_Look = dict[str, Any]
_PATH: _Look = {"color": style.VERMILION, "linewidth": 1.3, "marker": "o", "markersize": 3}
_REJECTED: _Look = {"marker": "o", "s": 16, "facecolors": "none", "edgecolors": style.BLUE}
_START: _Look = {"marker": "s", "s": 52, "facecolors": style.SKY_BLUE, "edgecolors": "black"}
_END: _Look = {"marker": "D", "s": 52, "facecolors": style.ORANGE, "edgecolors": "black"}
_MINIMUM: _Look = {"marker": "*", "s": 260, "facecolors": "white", "edgecolors": "black"}
_GOAL: _Look = {"color": "0.35", "linewidth": 0.9, "linestyle": (0, (1, 2))}

_GRID = 300  # points per side
_LEVELS = 21
_DEEPEST = 1e-7  # the lowest level, in units of the highest
_MARGIN = 0.12  # on each side, in units of the frame
_SMALLEST, _LARGEST = 1e-100, 1e100  # Matplotlib overflows far beyond, and squares underflow
_HIGHEST = 1e3  # the top of the curves at most, in units of their first value
_HORIZON = 1e6  # the largest coordinate of the frame
_FARTHEST_DRAWN = 1e6  # Matplotlib can't draw a line to any point; in units of the frame
_FARTHEST = 1.5  # how far the frame follows the path, in units of the extent of start and minima


def picture(setting: Setting, landscape: Landscape, solution: Solution) -> Figure:
    """Draw a solve."""
    if len(setting.start) == 2:
        return _path_picture(setting, landscape, solution)
    return _curves_picture(setting, landscape, solution)


def _path_picture(setting: Setting, landscape: Landscape, solution: Solution) -> Figure:
    """Draw the contours of a function of two variables with a known minimum, and the path."""
    figure = style.new_figure(height=5)
    axes = figure.subplots()
    axes.set_title(_title(setting, solution), fontsize=10, parse_math=False)
    low, high = _frame(setting, landscape, solution)
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    axes.set_xlabel("x", fontsize=style.FONT_SIZE)
    axes.set_ylabel("y", fontsize=style.FONT_SIZE)
    axes.tick_params(labelsize=style.FONT_SIZE)
    _draw_contours(figure, axes, landscape, low, high)
    _draw_path(axes, setting, landscape, solution)
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=style.FONT_SIZE)
    return figure


def _title(setting: Setting, solution: Solution) -> str:
    evaluations = f"{solution.num_evals} evaluation{'s' if solution.num_evals > 1 else ''}"
    options = ", ".join(f"{name} = {x:g}" for name, x in setting.method_options.items())
    method = f"{setting.method} ({options})" if options else setting.method
    return f"{method} on {setting.problem}: {evaluations}, {solution.status.name}"


def _frame(
    setting: Setting, landscape: Landscape, solution: Solution
) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower left and the upper right corner of the frame.

    It holds the start, the minima and the accepted points, except those too far away.
    """
    marks = np.clip(np.vstack([setting.start, landscape.minimizers]), -_HORIZON, _HORIZON)
    low, high = marks.min(axis=0), marks.max(axis=0)
    reach = _FARTHEST * np.max(high - low)
    path = np.clip(solution.track.points[solution.track.accepted], low - reach, high + reach)
    low, high = (edge(np.vstack([marks, path]), axis=0) for edge in (np.min, np.max))
    extent = np.maximum(high - low, 0.1 * np.max(high - low))
    extent = np.where(extent > _SMALLEST, extent, np.maximum(1, np.abs(high)))
    middle, half = (low + high) / 2, (0.5 + _MARGIN) * extent
    return middle - half, middle + half


def _draw_contours(
    figure: Figure, axes: Axes, landscape: Landscape, low: np.ndarray, high: np.ndarray
) -> None:
    x, y = (np.linspace(*ends, _GRID) for ends in zip(low, high, strict=True))
    with jax.enable_x64(True):
        points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        values = np.asarray(jax.jit(jax.vmap(landscape.fun))(points)).reshape(_GRID, _GRID)
    above = np.ma.masked_invalid(values - landscape.minimum)
    highest = above.max()
    levels = np.geomspace(max(above.min(), _DEEPEST * highest), highest, _LEVELS)
    above = np.ma.maximum(above, levels[0])
    shades = axes.contourf(
        x, y, above, levels, norm=LogNorm(levels[0], levels[-1]), cmap="gray", alpha=0.75
    )
    axes.contour(x, y, above, levels, colors="0.35", linewidths=0.4)
    bar = figure.colorbar(shades, ax=axes, ticks=LogLocator(), format="%.0e")
    style.label_color_bar(bar, "f - minimum")


def _draw_path(axes: Axes, setting: Setting, landscape: Landscape, solution: Solution) -> None:
    points, accepted = solution.track.points, solution.track.accepted
    low, high = np.transpose([axes.get_xlim(), axes.get_ylim()])
    far = _FARTHEST_DRAWN * (high - low)
    path = np.clip(points[accepted], low - far, high + far)
    named = {"label": "accepted point"} if len(_inside(axes, path)) else {}
    axes.plot(*path.T, **_PATH, **named, zorder=4)
    _draw_marks(axes, points[~accepted], _REJECTED, "rejected trial", zorder=7)
    _draw_marks(axes, landscape.minimizers, _MINIMUM, "minimum", zorder=5)
    _draw_marks(axes, np.array([setting.start]), _START, "start", zorder=6)
    _draw_marks(axes, np.array([solution.params]), _END, "end", zorder=6)


def _draw_marks(axes: Axes, points: np.ndarray, look: _Look, label: str, *, zorder: int) -> None:
    """Draw the points that lie inside the axes, and name them in the legend if there are any."""
    inside = _inside(axes, points)
    if len(inside):
        axes.scatter(*inside.T, **look, label=label, zorder=zorder)


def _inside(axes: Axes, points: np.ndarray) -> np.ndarray:
    """Return the points (n, 2) that lie inside the axes."""
    low, high = np.transpose([axes.get_xlim(), axes.get_ylim()])
    return points[np.all((low <= points) & (points <= high), axis=1)]


def _curves_picture(setting: Setting, landscape: Landscape, solution: Solution) -> Figure:
    """Draw the value, above the minimum if it is known, and the gradient's norm."""
    figure = style.new_figure(height=4)
    figure.suptitle(_title(setting, solution), fontsize=10, parse_math=False)
    left, right = figure.subplots(1, 2)
    track, accepted = solution.track, solution.track.accepted
    evaluations = np.arange(1, solution.num_evals + 1)
    known = not math.isnan(landscape.minimum)
    above = track.value.astype(np.float64) - (landscape.minimum if known else 0.0)
    grad_norm = track.grad_norm.astype(np.float64)

    goal = setting.tol * max(1.0, grad_norm[0])
    _draw_curve(left, evaluations[accepted], above[accepted], "f - minimum" if known else "f")
    rejected = np.stack([evaluations, above], axis=1)[~accepted]
    _draw_marks(left, rejected, _REJECTED, "rejected trial", zorder=7)
    _draw_curve(right, evaluations[accepted], grad_norm[accepted], "max |∇f|")
    if goal > _SMALLEST:
        right.axhline(goal, **_GOAL, label="--tol")
        right.set_ylim(bottom=min(right.get_ylim()[0], goal / 2))
    for axes in (left, right):
        axes.set_xlim(1 - 0.03 * len(evaluations), 1.03 * len(evaluations))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if axes.get_yscale() == "log":
            style.use_plain_log_ticks(axes.yaxis)
    handles, labels = (
        [*first, *second[1:]]  # of the accepted points once
        for first, second in zip(
            left.get_legend_handles_labels(), right.get_legend_handles_labels(), strict=True
        )
    )
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=style.FONT_SIZE,
    )
    return figure


def _draw_curve(axes: Axes, x: np.ndarray, y: np.ndarray, title: str) -> None:
    """Draw one number at each accepted point, on a log scale if most are positive."""
    positive = (y > _SMALLEST) & (y < _LARGEST)
    axes.plot(x, np.where(np.abs(y) < _LARGEST, y, np.nan), **_PATH, label="accepted point")
    if 2 * np.sum(positive) > len(y):
        axes.set_yscale("log", nonpositive="mask")
        low, high = np.min(y[positive]), np.max(y[positive])
        high = min(high, _HIGHEST * y[positive][0])
        axes.set_ylim(low / 2, 2 * high)
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_xlabel("evaluations", fontsize=style.FONT_SIZE)
    style.format_axes(axes)
