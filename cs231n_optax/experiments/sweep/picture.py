"""The picture of a sweep: the loss against the hyperparameters.

`curve` and `heat_map` draw the arrays of any `cs231n_optax.sweep` on given axes.
"""

import math
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from cs231n_optax.experiments import style
from cs231n_optax.experiments.style import LineStyle
from cs231n_optax.experiments.sweep.experiment import Outcome, Setting, block_length
from cs231n_optax.training.sweep import SweepResult

Scale = Literal["linear", "log"]

_STYLES = {
    "very high": LineStyle(style.VERMILION, "--", "^"),
    "high": LineStyle(style.ORANGE, "-.", "s"),
    "good": LineStyle(style.GREEN, "-", "*"),
    "low": LineStyle(style.BLUE, ":", "v"),
}
_DOTS: dict[str, Any] = {"color": "0.25", "marker": "o", "markersize": 3, "linewidth": 0.9}
_CROSS: dict[str, Any] = {"color": style.VERMILION, "marker": "x", "markersize": 5}
_BEST: dict[str, Any] = {"marker": "*", "s": 190, "edgecolors": "black"}
_SMALLEST = 1e-7  # smaller losses are drawn here: a log scale has no zero
_CROSS_HEIGHT = 0.97  # of the axes
_COLUMNS = 3


def picture(setting: Setting, result: SweepResult) -> Figure:
    """Draw a sweep.

    One range is drawn as a curve, two as a map, and more as one panel each. Beside the curve of
    the learning rate stand the loss curves of a low, a good, a high and a very high one.
    """
    names = list(setting.ranges)
    if names == ["learning_rate"]:
        figure = style.new_figure(height=4)
        _draw_learning_rates(figure, setting, result)
    elif len(names) == 2:
        figure = style.new_figure(height=5)
        _draw_map(figure.subplots(), setting, result)
    else:
        columns = min(len(names), _COLUMNS)
        rows = math.ceil(len(names) / columns)
        figure = style.new_figure(height=max(4, 2.8 * rows))
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
        for axes in panels[len(names) :]:
            axes.remove()
        for i, name in enumerate(names):
            _draw_curve(panels[i], name, setting, result, first=i % columns == 0)
    figure.suptitle(_title(setting), fontsize=10, parse_math=False)
    _draw_legend(figure)
    return figure


def curve(
    axes: Axes,
    x: np.ndarray,
    loss: np.ndarray,
    *,
    xlabel: str,
    ylabel: str = "train loss",
    xscale: Scale = "log",
    joined: bool = True,
) -> None:
    """Draw a loss, on a log scale, against one hyperparameter.

    Args:
      axes: the axes to draw on.
      x: (rows,), the values of the hyperparameter, in any order.
      loss: (rows,); a value that is not finite is drawn as a cross at the top.
      xlabel: the label of x.
      ylabel: the label of the loss.
      xscale: the scale of x.
      joined: whether a line joins the points; it misleads where other hyperparameters vary too.
    """
    finite = np.isfinite(loss)
    order = np.argsort(x)
    drawn = np.where(finite, np.maximum(loss, _SMALLEST), np.nan)[order]
    axes.plot(x[order], drawn, **_DOTS, linestyle="-" if joined else "none", zorder=2)
    if not finite.all():
        top, height = axes.get_xaxis_transform(), np.full(np.sum(~finite), _CROSS_HEIGHT)
        axes.plot(x[~finite], height, **_CROSS, linestyle="none", transform=top, label="diverged")
    _format_axes(axes, xlabel, ylabel, xscale, "log")
    axes.margins(y=0.12)
    if not finite.any():
        axes.set_ylim(0.1, 10)  # a log scale needs limits


def heat_map(
    axes: Axes,
    x: np.ndarray,
    y: np.ndarray,
    loss: np.ndarray,
    *,
    xlabel: str,
    ylabel: str,
    xscale: Scale = "log",
    yscale: Scale = "log",
) -> ScalarMappable:
    """Draw a loss, on a log scale, over two hyperparameters; the best is a star in its colour.

    A row is drawn as a tile if the rows form a full grid, and as a dot otherwise.

    Args:
      axes: the axes to draw on.
      x: (rows,), the values of one hyperparameter.
      y: (rows,), those of the other.
      loss: (rows,); a value that is not finite is drawn as a cross.
      xlabel: the label of x.
      ylabel: the label of y.
      xscale: the scale of x.
      yscale: the scale of y.

    Returns:
      The colours, for ``figure.colorbar``.
    """
    finite = np.isfinite(loss)
    drawn = np.maximum(np.where(finite, loss, np.nan), _SMALLEST)
    low, high = (np.nanmin(drawn), np.nanmax(drawn)) if finite.any() else (0.1, 1.0)
    colors: dict[str, Any] = {"norm": LogNorm(low, max(high, 1.01 * low)), "cmap": "viridis_r"}
    columns, rows = np.unique(x), np.unique(y)
    if len(columns) * len(rows) == len(np.unique(np.stack([x, y]), axis=1).T) == len(loss):
        tiles = drawn[np.lexsort((x, y))].reshape(len(rows), len(columns))
        edges = _edges(columns, xscale), _edges(rows, yscale)
        shades: ScalarMappable = axes.pcolormesh(*edges, tiles, **colors)
    else:
        shades = axes.scatter(x[finite], y[finite], c=drawn[finite], s=46, **colors)
    if not finite.all():
        axes.plot(x[~finite], y[~finite], **_CROSS, linestyle="none", label="diverged")
    if finite.any():
        best = int(np.nanargmin(drawn))
        at = [x[best]], [y[best]]
        axes.scatter(*at, c=[drawn[best]], **colors, **_BEST, label="best", zorder=4)
    _format_axes(axes, xlabel, ylabel, xscale, yscale)
    return shades


def _title(setting: Setting) -> str:
    budget = setting.budget
    over = f", mean of {budget.seeds} seeds" if budget.seeds > 1 else ""
    return (
        f"{setting.method}, {setting.model} on {setting.data}: {setting.num} configurations, "
        f"each {budget.steps} steps of {budget.batch_size} examples{over}"
    )


def _draw_legend(figure: Figure) -> None:
    """Draw one legend for all axes, with each label once."""
    entries = {
        label: artist
        for axes in figure.axes
        for artist, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside lower center",
        ncols=len(entries),
        frameon=False,
        fontsize=style.FONT_SIZE,
    )


def _draw_curve(
    axes: Axes, name: str, setting: Setting, result: SweepResult, *, first: bool
) -> None:
    x, loss = result.hparams[name], result.outputs.train_loss
    joined, ylabel = len(setting.ranges) == 1, "train loss" if first else ""
    curve(
        axes,
        x,
        loss,
        xlabel=_words(name),
        ylabel=ylabel,
        xscale=_scale(setting, name),
        joined=joined,
    )
    if np.isfinite(loss).any():
        best = int(np.nanargmin(loss))
        height = max(loss[best], _SMALLEST)
        axes.scatter(x[best], height, facecolors="white", **_BEST, label="best", zorder=4)


def _draw_map(axes: Axes, setting: Setting, result: SweepResult) -> None:
    (x_name, x), (y_name, y) = result.hparams.items()
    shades = heat_map(
        axes,
        x,
        y,
        result.outputs.train_loss,
        xlabel=_words(x_name),
        ylabel=_words(y_name),
        xscale=_scale(setting, x_name),
        yscale=_scale(setting, y_name),
    )
    bar = axes.figure.colorbar(shades, ax=axes)
    style.label_color_bar(bar, "train loss")
    style.use_plain_log_ticks(bar.ax.yaxis)


def _draw_learning_rates(figure: Figure, setting: Setting, result: SweepResult) -> None:
    """Draw the lecture's picture of 7-1-1: very high, high, good and low learning rates."""
    left, right = figure.subplots(1, 2)
    rates, outcome = result.hparams["learning_rate"], result.outputs
    scale = _scale(setting, "learning_rate")
    curve(left, rates, outcome.train_loss, xlabel="learning rate", xscale=scale)
    rows = representative_rows(rates, outcome.train_loss)
    ceiling = _ceiling(outcome, rows)
    for word, row in rows.items():
        look = _STYLES[word]
        _mark_rate(left, look, rates[row], outcome.train_loss[row])
        diverged = " (diverged)" if outcome.diverged_at[row] >= 0 else ""
        right.plot(
            *_loss_curve(setting.budget.steps, outcome, row, ceiling),
            color=look.color,
            linestyle=look.linestyle,
            linewidth=1.4,
            label=f"{word}: {rates[row]:.3g}{diverged}",
        )
    _format_axes(right, "steps", "loss of the batches", "linear", "log")
    lowest = min(float(np.min(line.get_ydata())) for line in right.lines)
    right.set_xlim(-0.03 * setting.budget.steps, setting.budget.steps)
    right.set_ylim(min(0.7 * lowest, ceiling / 10), ceiling)
    style.use_plain_log_ticks(right.yaxis)


def _mark_rate(axes: Axes, look: LineStyle, rate: float, loss: float) -> None:
    at_top = not np.isfinite(loss)
    axes.scatter(
        rate,
        _CROSS_HEIGHT if at_top else max(loss, _SMALLEST),
        transform=axes.get_xaxis_transform() if at_top else axes.transData,
        color=look.color,
        marker=look.marker,
        s=70,
        zorder=5,
    )


def _loss_curve(
    steps: int, outcome: Outcome, row: int, ceiling: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the middles of the blocks of steps and their losses; divergence leaves the axes."""
    losses, diverged_at = outcome.curve[row], outcome.diverged_at[row]
    middles = np.clip((np.arange(len(losses)) - 0.5) * block_length(steps), 0, steps)
    finite = np.isfinite(losses) & ((diverged_at < 0) | (middles < diverged_at))
    middles, losses = middles[finite], np.maximum(losses[finite], _SMALLEST)
    if diverged_at >= 0:
        middles = np.append(middles, diverged_at)
        losses = np.append(losses, np.max(losses, initial=1e3 * ceiling))
    return middles, losses


def representative_rows(rates: np.ndarray, loss: np.ndarray) -> dict[str, int]:
    """Choose the rows of the lecture's picture.

    Good is the best rate. Very high is the lowest rate above it that diverged or, if none did, the
    worst one there. High and low are halfway, on a log scale of the loss, from the best to the
    worst on their side. A row that does not exist is left out. A loss is not finite if the rate
    diverged.
    """
    finite = np.isfinite(loss)
    if not finite.any():
        return {"very high": int(rates.argmin())}
    best = int(np.where(finite, loss, np.inf).argmin())
    height = np.log(np.maximum(loss, _SMALLEST))

    def halfway(rows: np.ndarray) -> int:
        middle = (height[best] + height[rows].max()) / 2
        return int(rows[np.abs(height[rows] - middle).argmin()])

    above, below = rates > rates[best], np.flatnonzero((rates < rates[best]) & finite)
    diverged, higher = np.flatnonzero(above & ~finite), np.flatnonzero(above & finite)
    chosen: dict[str, int] = {}
    if diverged.size:
        chosen["very high"] = int(diverged[rates[diverged].argmin()])
    elif higher.size:
        chosen["very high"] = int(higher[loss[higher].argmax()])
        higher = higher[higher != chosen["very high"]]
    if higher.size:
        chosen["high"] = halfway(higher)
    chosen["good"] = best
    if below.size:
        chosen["low"] = halfway(below)
    return chosen


def _ceiling(outcome: Outcome, rows: dict[str, int]) -> float:
    """Return the top of the curves: above the highest loss, but not far above the first ones."""
    curves = np.stack([outcome.curve[row] for row in rows.values()])
    first = curves[:, 0][np.isfinite(curves[:, 0])]
    highest = np.max(curves, where=np.isfinite(curves), initial=_SMALLEST)
    return 1.3 * float(min(highest, style.HIGHEST * first.min() if first.size else highest))


def _edges(middles: np.ndarray, scale: Scale) -> np.ndarray:
    """Return the edges of the tiles of a map, half a tile beyond the ends."""
    to, back = (np.log, np.exp) if scale == "log" else (np.asarray, np.asarray)
    at = to(middles.astype(float))
    gaps = np.diff(at) if len(at) > 1 else np.ones(1)
    return back(
        np.concatenate([[at[0] - gaps[0] / 2], at[:-1] + np.diff(at) / 2, [at[-1] + gaps[-1] / 2]])
    )


def _words(name: str) -> str:
    return name.replace("_", " ")


def _scale(setting: Setting, name: str) -> Scale:
    return "log" if setting.ranges[name].log else "linear"


def _format_axes(axes: Axes, xlabel: str, ylabel: str, xscale: Scale, yscale: Scale) -> None:
    axes.set_xscale(xscale)
    axes.set_yscale(yscale)
    axes.set_xlabel(xlabel, fontsize=style.FONT_SIZE)
    axes.set_ylabel(ylabel, fontsize=style.FONT_SIZE)
    for axis, scale in ((axes.xaxis, xscale), (axes.yaxis, yscale)):
        if scale == "log":
            style.use_plain_log_ticks(axis)
    style.format_axes(axes)
