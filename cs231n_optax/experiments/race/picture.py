"""The picture of a race: train loss and test accuracy against steps, and a scoreboard."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from cs231n_optax.experiments import style
from cs231n_optax.experiments.race.experiment import Setting, Summary, Track
from cs231n_optax.experiments.style import LineStyle

_STYLES = (
    LineStyle(style.BLACK, "-", "o"),
    LineStyle(style.ORANGE, "--", "s"),
    LineStyle(style.BLUE, "-", "^"),
    LineStyle(style.GREEN, "-.", "D"),
    LineStyle(style.PURPLE, "--", "v"),
    LineStyle(style.SKY_BLUE, ":", "X"),
    LineStyle(style.VERMILION, "-", "P"),
)
_LINE: dict[str, Any] = {"linewidth": 1.4, "markersize": 4.2}
_GOAL_LINE: dict[str, Any] = {"color": "0.35", "linewidth": 0.9, "linestyle": (0, (1, 2))}
_MARKERS_PER_CURVE = 7
_ACCURACY_TICKS = (0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999)


def picture(setting: Setting, ranking: Sequence[Summary], unfinished: Sequence[str]) -> Figure:
    """Draw the curves and a scoreboard.

    A constant learning rate is written in the scoreboard; any other is drawn in its own panel.
    """
    figure = style.new_figure(height=4)
    figure.suptitle(_title(setting, unfinished), fontsize=10, parse_math=False)
    constant = setting.decay == "constant"
    axes = figure.subplot_mosaic(
        [["loss", "accuracy", "board"], ["loss", "accuracy", "board" if constant else "rate"]],
        width_ratios=[1, 1, 0.6],
        height_ratios=[1.6, 1],
    )
    _draw_losses(axes["loss"], ranking)
    _draw_accuracies(axes["accuracy"], ranking, setting)
    _draw_scoreboard(axes["board"], ranking, setting)
    if not constant:
        _draw_rates(axes["rate"], ranking, setting)
    return figure


def _title(setting: Setting, unfinished: Sequence[str]) -> str:
    budget, seeds = setting.budget, setting.budget.seeds
    over = f"mean ± std of {seeds} seeds, within their range" if seeds > 1 else "one seed"
    spent = f"{budget.steps} steps of {budget.batch_size} examples"
    title = f"{setting.model} on {setting.data}: {spent}, {over}"
    return f"{title}\n(interrupted: {', '.join(unfinished)} missing)" if unfinished else title


def _draw_losses(axes: Axes, ranking: Sequence[Summary]) -> None:
    for place, (track, *_) in enumerate(ranking):
        _draw_curve(axes, track, track.evaluated_at, track.train_loss, place)
    _format_axes(axes, "train loss")
    axes.set_yscale("log")
    first = float(np.mean(ranking[0].track.train_loss[:, 0]))
    axes.set_ylim(top=min(axes.get_ylim()[1], style.HIGHEST * first))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda loss, _: f"{loss:g}"))


def _draw_accuracies(axes: Axes, ranking: Sequence[Summary], setting: Setting) -> None:
    """Draw the error on a reversed log axis, which separates 98 from 99 %; label the accuracy."""
    smallest = 0.5 / setting.test_examples
    for place, (track, *_) in enumerate(ranking):
        error = np.maximum(1 - track.test_accuracy, smallest)
        _draw_curve(axes, track, track.evaluated_at, error, place)
    axes.axhline(max(1 - setting.accuracy_goal, smallest), **_GOAL_LINE)
    _format_axes(axes, "test accuracy (log of the error)")
    axes.set_yscale("log")
    axes.invert_yaxis()
    axes.yaxis.set_major_locator(FixedLocator([1 - tick for tick in _ACCURACY_TICKS]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{100 * (1 - error):.4g} %"))


def _draw_rates(axes: Axes, ranking: Sequence[Summary], setting: Setting) -> None:
    for place, (track, *_) in enumerate(ranking):
        _draw_curve(axes, track, np.arange(track.loss.shape[1]), track.learning_rate, place)
    _format_axes(axes, f"learning rate: {setting.decay}")
    axes.set_yscale("log")


def _draw_curve(axes: Axes, track: Track, steps: np.ndarray, rows: np.ndarray, place: int) -> None:
    """Draw the mean over the seeds and a band of one standard deviation; the better lie on top.

    The band is clipped to the range of the seeds: its lower edge may not be positive, which a log
    axis can't show.
    """
    look, zorder = _style(track), 3 - place / 100
    going = np.ma.masked_invalid(rows)
    mean = going.mean(axis=0)
    gap = max(1, len(steps) // _MARKERS_PER_CURVE)
    first = track.entrant.style_index % len(_STYLES) * gap // len(_STYLES)
    axes.plot(steps, mean, **look, **_LINE, markevery=(first, gap), zorder=zorder)
    if len(rows) > 1:
        std = going.std(axis=0, ddof=1)
        low = np.ma.maximum(mean - std, going.min(axis=0))
        high = np.ma.minimum(mean + std, going.max(axis=0))
        color = look["color"]
        axes.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0, zorder=zorder - 1)


def _draw_scoreboard(axes: Axes, ranking: Sequence[Summary], setting: Setting) -> None:
    """Draw the legend, in the order of the ranking."""
    lines = [Line2D([], [], **_style(track), **_LINE) for track, *_ in ranking]
    labels = [_score(place, s, setting) for place, s in enumerate(ranking, start=1)]
    axes.axis("off")
    axes.legend(
        [*lines, Line2D([], [], **_GOAL_LINE)],
        [*labels, f"goal: {100 * setting.accuracy_goal:.4g} %"],
        title="by final train loss",
        loc="upper left",
        alignment="left",
        frameon=False,
        borderpad=0,
        borderaxespad=0,
        handlelength=2.8,
        fontsize=style.FONT_SIZE,
        title_fontsize=9,
    )


def _score(place: int, summary: Summary, setting: Setting) -> str:
    entrant = summary.track.entrant
    label = f"{place}. {entrant.name}"
    if np.any(summary.track.diverged):
        label += " (diverged)"
    return f"{label}\n    α = {entrant.learning_rate:.4g}" if setting.decay == "constant" else label


def _style(track: Track) -> dict[str, Any]:
    return _STYLES[track.entrant.style_index % len(_STYLES)]._asdict()


def _format_axes(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_xlabel("steps", fontsize=style.FONT_SIZE)
    style.format_axes(axes)
