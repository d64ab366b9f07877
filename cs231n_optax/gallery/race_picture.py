"""The picture of a race: train loss and test accuracy against steps, and a scoreboard."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from cs231n_optax.gallery.race import Setting, Summary, Track


class _Style(NamedTuple):
    color: str
    linestyle: str
    marker: str


# The colours of Okabe & Ito, but for their yellow, which is too pale for a line on white. In grey,
# and to the colour-blind, the dashes and the markers tell the methods apart.
_STYLES = (
    _Style("#000000", "-", "o"),
    _Style("#E69F00", "--", "s"),
    _Style("#0072B2", "-", "^"),
    _Style("#009E73", "-.", "D"),
    _Style("#CC79A7", "--", "v"),
    _Style("#56B4E9", ":", "X"),
    _Style("#D55E00", "-", "P"),
)
_LINE: dict[str, Any] = {"linewidth": 1.4, "markersize": 4.2}
_GOAL_LINE: dict[str, Any] = {"color": "0.35", "linewidth": 0.9, "linestyle": (0, (1, 2))}
_MARKERS_A_CURVE = 7
_HIGHEST = 10  # times the first loss: what flies higher must not flatten the rest
_ACCURACY_TICKS = (0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995, 0.998, 0.999)


def picture(setting: Setting, ranking: Sequence[Summary], unfinished: Sequence[str]) -> Figure:
    """Draw the curves and a scoreboard, 1200 pixels wide; pyplot's global state is not touched.

    A constant learning rate stands in the scoreboard; any other has a panel.

    Args:
      setting: what the race was.
      ranking: the methods that finished, the best first.
      unfinished: the names of those that were interrupted.
    """
    figure = Figure(figsize=(8, 4), dpi=150, layout="constrained")
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
    steps, batch_size, seeds = setting.budget
    over = f"mean ± std of {seeds} seeds, within their range" if seeds > 1 else "one seed"
    title = f"{setting.model} on {setting.data}: {steps} steps of {batch_size} examples, {over}"
    return f"{title}\n(interrupted: {', '.join(unfinished)} missing)" if unfinished else title


def _draw_losses(axes: Axes, ranking: Sequence[Summary]) -> None:
    for place, (track, *_) in enumerate(ranking):
        _draw_curve(axes, track, track.evaluated_at, track.train_loss, place)
    _dress(axes, "train loss")
    axes.set_yscale("log")
    first = float(np.mean(ranking[0].track.train_loss[:, 0]))
    axes.set_ylim(top=min(axes.get_ylim()[1], _HIGHEST * first))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda loss, _: f"{loss:g}"))


def _draw_accuracies(axes: Axes, ranking: Sequence[Summary], setting: Setting) -> None:
    """The error on a log axis upside down, labelled by the accuracy: so 98 % and 99 % lie apart."""
    smallest = 0.5 / setting.test_examples
    for place, (track, *_) in enumerate(ranking):
        error = np.maximum(1 - track.test_accuracy, smallest)
        _draw_curve(axes, track, track.evaluated_at, error, place)
    axes.axhline(max(1 - setting.accuracy_goal, smallest), **_GOAL_LINE)
    _dress(axes, "test accuracy (log of the error)")
    axes.set_yscale("log")
    axes.invert_yaxis()
    axes.yaxis.set_major_locator(FixedLocator([1 - tick for tick in _ACCURACY_TICKS]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda error, _: f"{100 * (1 - error):.4g} %"))


def _draw_rates(axes: Axes, ranking: Sequence[Summary], setting: Setting) -> None:
    for place, (track, *_) in enumerate(ranking):
        _draw_curve(axes, track, np.arange(track.loss.shape[1]), track.learning_rate, place)
    _dress(axes, f"learning rate: {setting.decay}")
    axes.set_yscale("log")


def _draw_curve(axes: Axes, track: Track, steps: np.ndarray, rows: np.ndarray, place: int) -> None:
    """The mean over seeds in a band of ± one standard deviation; the better lie on top.

    The band stays within the seeds' own range: on a log axis it would else fall to nothing.
    """
    style, zorder = _style(track), 3 - place / 100
    going = np.ma.masked_invalid(rows)
    mean = going.mean(axis=0)
    gap = max(1, len(steps) // _MARKERS_A_CURVE)
    first = track.entrant.lane % len(_STYLES) * gap // len(_STYLES)
    axes.plot(steps, mean, **style, **_LINE, markevery=(first, gap), zorder=zorder)
    if len(rows) > 1:
        std = going.std(axis=0, ddof=1)
        low = np.ma.maximum(mean - std, going.min(axis=0))
        high = np.ma.minimum(mean + std, going.max(axis=0))
        color = style["color"]
        axes.fill_between(steps, low, high, color=color, alpha=0.15, linewidth=0, zorder=zorder - 1)


def _draw_scoreboard(axes: Axes, ranking: Sequence[Summary], setting: Setting) -> None:
    """The legend, in the order of the ranking."""
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
        fontsize=8.5,
        title_fontsize=9,
    )


def _score(place: int, summary: Summary, setting: Setting) -> str:
    entrant = summary.track.entrant
    label = f"{place}. {entrant.name}"
    if np.any(summary.track.diverged):
        label += " (diverged)"
    return f"{label}\n    α = {entrant.learning_rate:.4g}" if setting.decay == "constant" else label


def _style(track: Track) -> dict[str, Any]:
    return _STYLES[track.entrant.lane % len(_STYLES)]._asdict()


def _dress(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_xlabel("steps", fontsize=8.5)
    axes.tick_params(labelsize=8.5)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
