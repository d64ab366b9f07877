"""The picture of a race: the train loss against steps, and each method's test accuracy."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

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
_SEED: dict[str, Any] = {"markersize": 4, "alpha": 0.35, "markeredgewidth": 0}
_KEY_ENDS = (-0.27, -0.15, -0.03)  # of the line beside a name, in units of the axes
_MARGIN = 0.12
_MARKERS_PER_CURVE = 7
_ACCURACY_TICKS = (  # in percent, from coarse to fine
    np.array([0, 50, 80, 90, 95, 98, 99, 99.5, 99.8, 99.9]),
    np.array([0, 30, 60, 70, 80, 85, 90, 93, 95, 97, 98, 99]),
    *(np.arange(0, 100, spacing) for spacing in (1, 0.5, 0.2, 0.1)),
)


def picture(setting: Setting, ranking: Sequence[Summary], unfinished: Sequence[str]) -> Figure:
    """Draw the curves of the train loss and, in one row per method, what the test set says.

    The rows are in the order of the ranking, and their markers are the legend of the curves. Test
    accuracies are drawn at the end only: their curves differ by less than their noise. A learning
    rate that decays is drawn in a panel of its own.
    """
    figure = style.new_figure(height=4)
    figure.suptitle(_title(setting, unfinished), fontsize=10, parse_math=False)
    below = "loss" if setting.decay == "constant" else "rate"
    axes = figure.subplot_mosaic(
        [["loss", "accuracy", "steps"], [below, "accuracy", "steps"]],
        width_ratios=[1, 0.5, 0.5],
        height_ratios=[1.6, 1],
    )
    _draw_losses(axes["loss"], ranking)
    if setting.decay != "constant":
        _draw_rates(axes["rate"], ranking, setting)
    _draw_accuracies(axes["accuracy"], ranking, setting)
    _draw_steps(axes["steps"], ranking, setting)
    _name_rows(axes["accuracy"], ranking, setting)
    return figure


def line_style(index: int) -> LineStyle:
    """Return the style of a method, by its place in the catalog."""
    return _STYLES[index % len(_STYLES)]


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
    style.use_plain_log_ticks(axes.yaxis)


def _draw_accuracies(axes: Axes, ranking: Sequence[Summary], setting: Setting) -> None:
    """Draw the error on a reversed log axis, which separates 98 from 99 %; label the accuracy."""
    smallest = 0.5 / setting.test_examples
    for row, summary in enumerate(ranking):
        finished = summary.track.test_accuracy[~summary.track.diverged, -1]
        errors = np.maximum(1 - finished, smallest)
        if errors.size:
            mean, std = np.mean(errors), np.std(errors, ddof=1) if errors.size > 1 else 0.0
            ends = np.clip([mean - std, mean + std], errors.min(), errors.max())
            axes.plot(ends, [row, row], color=_style(summary.track)["color"], linewidth=1.4)
            _draw_row(axes, row, summary, float(mean), errors)
    drawn = np.concatenate([line.get_xdata() for line in axes.lines] or [[smallest, 1.0]])
    low, high = np.min(drawn), np.max(drawn)
    margin = max((high / low) ** _MARGIN, 1.05)
    axes.set_xlim(high * margin, low / margin)
    axes.set_xscale("log")
    worst, best = (100 * (1 - error) for error in axes.get_xlim())
    ticks = next(
        (x for x in _ACCURACY_TICKS if np.sum((worst <= x) & (x <= best)) >= 2),
        _ACCURACY_TICKS[-1],
    )
    axes.xaxis.set_major_locator(FixedLocator((1 - ticks / 100).tolist()))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{100 * (1 - error):.4g}"))
    _format_rows(axes, "final test accuracy, %", ranking, "mean")


def _draw_steps(axes: Axes, ranking: Sequence[Summary], setting: Setting) -> None:
    """Draw the steps to the accuracy goal, of each seed and their median."""
    for row, summary in enumerate(ranking):
        steps = summary.steps_to_accuracy
        median = float(np.median(steps))
        if math.isfinite(median):
            _draw_row(axes, row, summary, median, steps[np.isfinite(steps)])
        else:
            words = {"fontsize": style.FONT_SIZE, "color": "0.35"}
            where = axes.get_yaxis_transform()
            axes.text(0.5, row, "never", **words, ha="center", va="center", transform=where)
    drawn = np.concatenate([line.get_xdata() for line in axes.lines] or [[setting.budget.steps]])
    axes.set_xlim(0, (1 + _MARGIN) * max(np.max(drawn), 1))
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    _format_rows(axes, f"steps to {100 * setting.accuracy_goal:.4g} %", ranking, "median")


def _draw_row(axes: Axes, row: int, summary: Summary, middle: float, seeds: np.ndarray) -> None:
    """Draw the numbers of the seeds, if there are several, and their mean or median."""
    look = _style(summary.track)
    if len(summary.track.diverged) > 1:
        dots = {"color": look["color"], "marker": "o", "linestyle": "none"}
        axes.plot(seeds, np.full(len(seeds), row), **dots, **_SEED)
    axes.plot([middle], [row], color=look["color"], marker=look["marker"], markersize=8)


def _format_rows(axes: Axes, title: str, ranking: Sequence[Summary], middle: str) -> None:
    rows = len(ranking)
    axes.set_title(title, fontsize=9, loc="left")
    if len(ranking[0].track.diverged) > 1:
        axes.set_xlabel(f"{middle}; dots: seeds", fontsize=style.FONT_SIZE)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_yticks(range(rows), labels=[""] * rows)
    axes.tick_params(axis="y", length=0)
    style.format_axes(axes)
    axes.spines["left"].set_visible(False)


def _name_rows(axes: Axes, ranking: Sequence[Summary], setting: Setting) -> None:
    """Name each method, with its place by the final train loss, its learning rate and its line."""
    labels = [_score(place, s, setting) for place, s in enumerate(ranking, start=1)]
    axes.set_yticklabels(labels, linespacing=1.1)
    axes.tick_params(axis="y", pad=31)
    for row, summary in enumerate(ranking):
        sample = _KEY_ENDS, [row] * len(_KEY_ENDS)
        where = axes.get_yaxis_transform()
        look = {**_style(summary.track), **_LINE}
        axes.plot(*sample, **look, markevery=[1], transform=where, clip_on=False)


def _draw_rates(axes: Axes, ranking: Sequence[Summary], setting: Setting) -> None:
    for place, (track, *_) in enumerate(ranking):
        _draw_curve(axes, track, np.arange(track.loss.shape[1]), track.learning_rate, place)
    _format_axes(axes, f"learning rate: {setting.decay}")
    axes.set_yscale("log")
    style.use_plain_log_ticks(axes.yaxis)


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


def _score(place: int, summary: Summary, setting: Setting) -> str:
    entrant = summary.track.entrant
    label = f"{place}. {entrant.name}"
    if np.any(summary.track.diverged):
        label += " (diverged)"
    alpha = "α" if setting.decay == "constant" else "α₀"
    return f"{label}\n{alpha} = {entrant.learning_rate:.4g}"


def _style(track: Track) -> dict[str, Any]:
    return line_style(track.entrant.style_index)._asdict()


def _format_axes(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_xlabel("steps", fontsize=style.FONT_SIZE)
    style.format_axes(axes)
