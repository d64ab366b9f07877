"""The picture of a solve in the plane: the function's contours and the way through them."""

from typing import Any

import jax
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from cs231n_optax.gallery.solve import Setting, Solution
from cs231n_optax.problems.landscapes import Landscape

# Of Okabe & Ito's colours, on greys: the shapes tell them apart, too.
_PATH: dict[str, Any] = {"color": "#D55E00", "linewidth": 1.3, "marker": "o", "markersize": 3}
_REJECTED: dict[str, Any] = {"marker": "o", "s": 16, "facecolors": "none", "edgecolors": "#0072B2"}
_START: dict[str, Any] = {"marker": "s", "s": 52, "facecolors": "#56B4E9", "edgecolors": "black"}
_END: dict[str, Any] = {"marker": "D", "s": 52, "facecolors": "#E69F00", "edgecolors": "black"}
_MINIMUM: dict[str, Any] = {"marker": "*", "s": 260, "facecolors": "white", "edgecolors": "black"}

_GRID = 300  # points a side
_LEVELS = 21
_DEEPEST = 1e-7  # of the highest level: what lies deeper has one colour
_MARGIN = 0.12  # of the frame's extent, on each side
_HORIZON = 1e6  # beyond which a picture is not worth its overflows
_FARTHEST = 1.5  # extents of start and minima: what strays farther does not shrink the rest


def picture(setting: Setting, landscape: Landscape, solution: Solution) -> Figure:
    """Draw it, 1200 pixels wide; pyplot's global state is not touched.

    Args:
      setting: what was asked.
      landscape: the function, of two variables with a known minimum.
      solution: how it went.
    """
    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.set_title(_title(setting, solution), fontsize=10, parse_math=False)
    low, high = _frame(setting, landscape, solution)
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    axes.set_xlabel("x", fontsize=8.5)
    axes.set_ylabel("y", fontsize=8.5)
    axes.tick_params(labelsize=8.5)
    _draw_contours(figure, axes, landscape, low, high)
    _draw_path(axes, setting, landscape, solution)
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=8.5)
    return figure


def _title(setting: Setting, solution: Solution) -> str:
    evaluations = f"{solution.num_evals} evaluation{'s' if solution.num_evals > 1 else ''}"
    options = ", ".join(f"{name} = {x:g}" for name, x in setting.method_options.items())
    method = f"{setting.method} ({options})" if options else setting.method
    return f"{method} on {setting.problem}: {evaluations}, {solution.status.name}"


def _frame(
    setting: Setting, landscape: Landscape, solution: Solution
) -> tuple[np.ndarray, np.ndarray]:
    """The lower left and the upper right corner: around all, but for what strays too far."""
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
    bar.set_label("f - minimum", fontsize=8.5)
    bar.ax.tick_params(labelsize=8.5)


def _draw_path(axes: Axes, setting: Setting, landscape: Landscape, solution: Solution) -> None:
    points, accepted = solution.track.points, solution.track.accepted
    if not np.all(accepted):
        axes.scatter(*points[~accepted].T, **_REJECTED, label="rejected trial", zorder=3)
    axes.plot(*points[accepted].T, **_PATH, label="accepted point", zorder=4)
    axes.scatter(*landscape.minimizers.T, **_MINIMUM, label="minimum", zorder=5)
    axes.scatter(*setting.start, **_START, label="start", zorder=6)
    axes.scatter(*solution.params, **_END, label="end", zorder=6)
