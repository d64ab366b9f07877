"""The picture of a solve in two dimensions: the function's contours and the path through them."""

from typing import Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from cs231n_optax.experiments import style
from cs231n_optax.experiments.solve.experiment import Setting, Solution
from cs231n_optax.problems.landscapes import Landscape

_Look = dict[str, Any]
_PATH: _Look = {"color": style.VERMILION, "linewidth": 1.3, "marker": "o", "markersize": 3}
_REJECTED: _Look = {"marker": "o", "s": 16, "facecolors": "none", "edgecolors": style.BLUE}
_START: _Look = {"marker": "s", "s": 52, "facecolors": style.SKY_BLUE, "edgecolors": "black"}
_END: _Look = {"marker": "D", "s": 52, "facecolors": style.ORANGE, "edgecolors": "black"}
_MINIMUM: _Look = {"marker": "*", "s": 260, "facecolors": "white", "edgecolors": "black"}

_GRID = 300  # points per side
_LEVELS = 21
_DEEPEST = 1e-7  # the lowest level, in units of the highest
_MARGIN = 0.12  # on each side, in units of the frame
_HORIZON = 1e6  # the largest coordinate of the frame
_FARTHEST = 1.5  # how far the frame follows the path, in units of the extent of start and minima


def picture(setting: Setting, landscape: Landscape, solution: Solution) -> Figure:
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
    extent = np.where(extent > 0, extent, np.maximum(1, np.abs(high)))
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
    if not np.all(accepted):
        axes.scatter(*points[~accepted].T, **_REJECTED, label="rejected trial", zorder=3)
    axes.plot(*points[accepted].T, **_PATH, label="accepted point", zorder=4)
    axes.scatter(*landscape.minimizers.T, **_MINIMUM, label="minimum", zorder=5)
    axes.scatter(*setting.start, **_START, label="start", zorder=6)
    axes.scatter(*solution.params, **_END, label="end", zorder=6)
