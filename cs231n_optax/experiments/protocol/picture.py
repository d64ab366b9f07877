"""The picture of the protocol: performance profiles, in gradient evaluations and in seconds."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, PercentFormatter, StrMethodFormatter

from cs231n_optax.experiments import style
from cs231n_optax.experiments.catalog import METHODS
from cs231n_optax.experiments.protocol import profiles
from cs231n_optax.experiments.style import LineStyle

_STYLES = (
    LineStyle(style.BLACK, "-", "o"),
    LineStyle(style.ORANGE, "-", "s"),
    LineStyle(style.BLUE, "-", "^"),
    LineStyle(style.GREEN, "-.", "D"),
    LineStyle(style.PURPLE, "--", "v"),
    LineStyle(style.SKY_BLUE, "--", "X"),
    LineStyle(style.VERMILION, "-", "P"),
)
_FONT_SIZE = 12
_SHIFT = 0.011  # between the curves of two methods, which would hide each other where they agree


def picture(size: str, evaluations: np.ndarray, seconds: np.ndarray) -> Figure:
    """Draw the profiles of times (methods, workloads), with the area under each."""
    figure = style.new_figure(height=3.7)
    left, right = figure.subplots(1, 2, sharey=True)
    _draw(left, evaluations, "in gradient evaluations")
    _draw(right, seconds, "in seconds")
    left.set_ylabel("share of the workloads", fontsize=_FONT_SIZE)
    left.yaxis.set_major_formatter(PercentFormatter(1))
    left.set_ylim(-0.06, 1.06)
    num = evaluations.shape[1]
    title = f"Workloads (of {num}) on which a method needs at most τ times the fastest one's time"
    figure.suptitle(f"{title}{' (--quick)' if size == 'quick' else ''}", fontsize=_FONT_SIZE)
    return figure


def _draw(axes: Axes, times: np.ndarray, title: str) -> None:
    ...
