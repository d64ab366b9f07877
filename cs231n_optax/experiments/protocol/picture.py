"""The picture of the protocol: performance profiles, in gradient evaluations and in seconds."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter, StrMethodFormatter

from cs231n_optax.experiments import style
from cs231n_optax.experiments.catalog import METHODS
from cs231n_optax.experiments.protocol import profiles
from cs231n_optax.experiments.style import LineStyle

_STYLES = {
    "sgd": LineStyle(style.BLACK, "-", "o"),
    "momentum": LineStyle(style.ORANGE, "-", "s"),
    "nesterov": LineStyle(style.BLUE, "-", "^"),
    "adagrad": LineStyle(style.GREEN, "-.", "D"),
    "rmsprop": LineStyle(style.PURPLE, "--", "v"),
    "adam-uncorrected": LineStyle(style.SKY_BLUE, "--", "X"),
    "adam": LineStyle(style.VERMILION, "-", "P"),
}
_FONT_SIZE = 12
_SHIFT = 0.011  # between the curves of two methods, which would hide each other where they agree


def picture(size: str, evaluations: np.ndarray, seconds: np.ndarray) -> Figure:
    """Draw the profiles of times (methods, workloads), and name the methods with their areas."""
    figure = style.new_figure(height=4.4)
    left, right = figure.subplots(1, 2, sharey=True)
    lines = _draw(left, evaluations)
    _draw(right, seconds)
    left.set_title("in gradient evaluations", fontsize=_FONT_SIZE)
    right.set_title("in seconds", fontsize=_FONT_SIZE)
    left.set_ylabel("share of the workloads", fontsize=_FONT_SIZE)
    left.yaxis.set_major_formatter(PercentFormatter(1))
    left.set_ylim(-0.06, 1.06)
    title = "Workloads on which a method takes at most τ times as long as the fastest"
    part = f"{evaluations.shape[1]} workloads{', --quick' if size == 'quick' else ''}"
    figure.suptitle(f"{title}\n({part})", fontsize=_FONT_SIZE)

    areas = profiles.area(evaluations), profiles.area(seconds)
    for line, method, *pair in zip(lines, METHODS, *areas, strict=True):
        line.set_label(f"{method} {pair[0]:.2f}, {pair[1]:.2f}")
    figure.legend(
        handles=[lines[i] for i in np.argsort(-areas[0], kind="stable")],
        title="area under the profile, in gradient evaluations and in seconds",
        loc="outside lower center",
        ncols=3,
        fontsize=_FONT_SIZE - 1,
        title_fontsize=_FONT_SIZE - 1,
        handlelength=1.6,
        columnspacing=1,
        frameon=False,
    )
    return figure


def _draw(axes: Axes, times: np.ndarray) -> list[Line2D]:
    """Draw the profile of each method, with a marker at each workload; return the curves."""
    ratios, lines = profiles.ratios(times), []
    for i, method in enumerate(METHODS):
        jumps = np.unique(ratios[i][ratios[i] <= profiles.LIMIT])
        taus = np.unique([1.0, *jumps, profiles.LIMIT])
        shares = profiles.profile(times, taus)[i] + _SHIFT * (i - (len(METHODS) - 1) / 2)
        marked = np.flatnonzero(np.isin(taus, jumps)).tolist()
        look = _STYLES[method]._asdict()
        lines += axes.step(
            taus, shares, where="post", **look, linewidth=1.8, markersize=6, markevery=marked
        )
    style.format_axes(axes)
    axes.set_xscale("log")
    axes.set_xlim(0.97, profiles.LIMIT)
    axes.xaxis.set_major_locator(FixedLocator([1, 1.5, 2, 3, 4]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.tick_params(labelsize=_FONT_SIZE - 1)
    axes.set_xlabel("τ", fontsize=_FONT_SIZE)
    return lines
