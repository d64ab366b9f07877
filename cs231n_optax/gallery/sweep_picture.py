"""The picture of a study: the loss against the hyperparameters.

`curve` and `heat_map` draw on axes of yours, from the arrays of any `cs231n_optax.sweep`.
"""

import math
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from cs231n_optax.gallery.sweep_study import Outcome, Setting, block_length
from cs231n_optax.training.sweep import SweepResult

Scale = Literal["linear", "log"]


class _Style(NamedTuple):
    color: str
    linestyle: str
    marker: str


# Of Okabe & Ito's colours; in grey the dashes and the markers tell them apart.
_STYLES = {
    "very high": _Style("#D55E00", "--", "^"),
    "high": _Style("#E69F00", "-.", "s"),
    "good": _Style("#009E73", "-", "*"),
    "low": _Style("#0072B2", ":", "v"),
}
_DOTS: dict[str, Any] = {"color": "0.25", "marker": "o", "markersize": 3, "linewidth": 0.9}
_CROSS: dict[str, Any] = {"color": "#D55E00", "marker": "x", "markersize": 5}
_BEST: dict[str, Any] = {"marker": "*", "s": 190, "facecolors": "white", "edgecolors": "black"}
_SMALLEST = 1e-7  # what is smaller, zero too, is drawn here: the scale of a loss is logarithmic
_HIGHEST = 10  # times the first loss: what flies higher must not flatten the rest
_COLUMNS = 3


def picture(setting: Setting, result: SweepResult) -> Figure:
    """Draw a study, 1200 pixels wide; pyplot's global state is not touched.

    One range has a curve, beside it, if it is that of the learning rate, what four of the rates
    do; two have a map; more have a panel each.

    Args:
      setting: what the study was.
      result: of `sweep_study.run`.
    """
    names = list(setting.ranges)
    if len(names) == 2:
        figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
        _draw_map(figure.subplots(), setting, result)
    elif names == ["learning_rate"]:
        figure = Figure(figsize=(8, 4), dpi=150, layout="constrained")
        left, right = figure.subplots(1, 2)
        _draw_lecture(left, right, setting, result)
    else:
        columns = min(len(names), _COLUMNS)
        rows = math.ceil(len(names) / columns)
        figure = Figure(figsize=(8, max(4, 2.8 * rows)), dpi=150, layout="constrained")
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False).flatten()
        for axes in panels[len(names) :]:
            axes.remove()
        for i, name in enumerate(names):
            _draw_curve(panels[i], name, setting, result, first=i % columns == 0)
    figure.suptitle(_title(setting), fontsize=10, parse_math=False)
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
        fontsize=8.5,
    )
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
      axes: where to.
      x: (rows,), the values of the hyperparameter, in any order.
      loss: (rows,); what is not finite is a cross at the top.
      xlabel: what x is.
      ylabel: what the loss is.
      xscale: of x.
      joined: whether a line joins the points; not where x is not all that varies.
    """
    finite = np.isfinite(loss)
    order = np.argsort(x)
    drawn = np.where(finite, np.maximum(loss, _SMALLEST), np.nan)[order]
    axes.plot(x[order], drawn, **_DOTS, linestyle="-" if joined else "none", zorder=2)
    if not finite.all():
        top, height = axes.get_xaxis_transform(), np.full(np.sum(~finite), 0.97)
        axes.plot(x[~finite], height, **_CROSS, linestyle="none", transform=top, label="diverged")
    _dress(axes, xlabel, ylabel, xscale, "log")
    axes.margins(y=0.12)
    if not finite.any():
        axes.set_ylim(0.1, 10)  # no scale is right, but a log scale wants one


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
    """Draw a loss, on a log scale, over two hyperparameters; a star is the best.

    Args:
      axes: where to.
      x: (rows,), the values of one. If the rows are all of a grid, each is a tile; else a dot.
      y: (rows,), those of the other.
      loss: (rows,); what is not finite is a cross.
      xlabel: what x is.
      ylabel: what y is.
      xscale: of x.
      yscale: of y.

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
        axes.scatter(x[best], y[best], **_BEST, label="best", zorder=4)
    _dress(axes, xlabel, ylabel, xscale, yscale)
    return shades


def _title(setting: Setting) -> str:
    steps, batch_size, seeds = setting.budget
    over = f", mean of {seeds} seeds" if seeds > 1 else ""
    return (
        f"{setting.method}, {setting.model} on {setting.data}: {setting.num} configurations, "
        f"each {steps} steps of {batch_size} examples{over}"
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
        axes.scatter(x[best], max(loss[best], _SMALLEST), **_BEST, label="best", zorder=4)


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
    bar.set_label("train loss", fontsize=8.5)
    bar.ax.tick_params(labelsize=8.5)
    _plain_logs(bar.ax.yaxis)


def _draw_lecture(left: Axes, right: Axes, setting: Setting, result: SweepResult) -> None:
    """The lecture's picture of 7-1-1: very high, high, good and low learning rates."""
    rates, outcome = result.hparams["learning_rate"], result.outputs
    scale = _scale(setting, "learning_rate")
    curve(left, rates, outcome.train_loss, xlabel="learning rate", xscale=scale)
    middles = (np.arange(outcome.curve.shape[1]) - 0.5) * block_length(setting.budget.steps)
    middles = np.clip(middles, 0, setting.budget.steps)
    telling = telling_rows(rates, outcome.train_loss)
    ceiling = _ceiling(outcome, telling)
    for word, row in telling.items():
        style, diverged_at = _STYLES[word], outcome.diverged_at[row]
        label = f"{word}: {rates[row]:.3g}{' (diverged)' if diverged_at >= 0 else ''}"
        drawn = outcome.curve[row]
        going = np.isfinite(drawn) & ((diverged_at < 0) | (middles < diverged_at))
        steps, losses = middles[going], np.maximum(drawn[going], _SMALLEST)
        if diverged_at >= 0:  # up and away
            steps = np.append(steps, diverged_at)
            losses = np.append(losses, np.max(losses, initial=1e3 * ceiling))
        right.plot(
            steps, losses, color=style.color, linestyle=style.linestyle, linewidth=1.4, label=label
        )
        loss = outcome.train_loss[row]
        at_top = not np.isfinite(loss)
        left.scatter(
            rates[row],
            0.97 if at_top else max(loss, _SMALLEST),
            transform=left.get_xaxis_transform() if at_top else left.transData,
            color=style.color,
            marker=style.marker,
            s=70,
            zorder=5,
        )
    _dress(right, "steps", "loss of the batches", "linear", "log")
    lowest = min(float(np.min(line.get_ydata())) for line in right.lines)
    right.set_xlim(-0.03 * setting.budget.steps, setting.budget.steps)
    right.set_ylim(min(0.7 * lowest, ceiling / 10), ceiling)
    _plain_logs(right.yaxis)


def telling_rows(rates: np.ndarray, loss: np.ndarray) -> dict[str, int]:
    """The rows of the lecture's picture: good is the best, the others are found around it.

    Very high is the lowest rate above the best that diverged or, if none did, the worst there;
    high and low are halfway, on a log scale of the loss, from the best to the worst on their side.

    Args:
      rates: (rows,), the learning rates.
      loss: (rows,); not finite where it diverged.

    Returns:
      Rows by "very high", "high", "good" and "low", as far as there are some.
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
    lost, going = np.flatnonzero(above & ~finite), np.flatnonzero(above & finite)
    telling: dict[str, int] = {}
    if lost.size:
        telling["very high"] = int(lost[rates[lost].argmin()])
    elif going.size:
        telling["very high"] = int(going[loss[going].argmax()])
        going = going[going != telling["very high"]]
    if going.size:
        telling["high"] = halfway(going)
    telling["good"] = best
    if below.size:
        telling["low"] = halfway(below)
    return telling


def _ceiling(outcome: Outcome, rows: dict[str, int]) -> float:
    """The top of the curves: a little above the first losses, unless all stay below."""
    curves = np.stack([outcome.curve[row] for row in rows.values()])
    first = curves[:, 0][np.isfinite(curves[:, 0])]
    highest = np.max(curves, where=np.isfinite(curves), initial=_SMALLEST)
    return 1.3 * float(min(highest, _HIGHEST * first.min() if first.size else highest))


def _edges(middles: np.ndarray, scale: Scale) -> np.ndarray:
    """Between the tiles of a map, half of a tile beyond the ends."""
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


def _dress(axes: Axes, xlabel: str, ylabel: str, xscale: Scale, yscale: Scale) -> None:
    axes.set_xscale(xscale)
    axes.set_yscale(yscale)
    axes.set_xlabel(xlabel, fontsize=8.5)
    axes.set_ylabel(ylabel, fontsize=8.5)
    axes.tick_params(labelsize=8.5)
    for axis, scale in ((axes.xaxis, xscale), (axes.yaxis, yscale)):
        if scale == "log":
            _plain_logs(axis)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _plain_logs(axis: Any) -> None:
    """Ticks at 1, or at 1, 2 and 5 where there are few decades, as plain numbers."""
    low, high = axis.get_view_interval()
    few = low > 0 and math.log10(high / low) < 2
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set_minor_formatter(NullFormatter())
