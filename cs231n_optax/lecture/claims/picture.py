"""What the pictures of the claims share: points and bars with their standard errors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cs231n_optax.experiments.style import LineStyle, use_plain_log_ticks
from cs231n_optax.lecture import style
from cs231n_optax.lecture.claims.claim import Estimate

HEIGHT = 2.6
SERIES = (
    LineStyle(style.BLUE, "-", "o"),
    LineStyle(style.VERMILION, "-", "s"),
    LineStyle(style.GREEN, "-", "^"),
    LineStyle(style.ORANGE, "-", "D"),
    LineStyle(style.PURPLE, "-", "v"),
    LineStyle(style.BLACK, "-", "P"),
)
"""For series that are no methods; methods have `style.METHOD_STYLES`."""


def new_picture(columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure 600 pixels wide where it is shown, and its axes."""
    return style.new_figure(columns, height=HEIGHT, **options)


def points(axes: Axes, x: Any, estimate: Estimate, line: LineStyle, label: str = "") -> None:
    """A curve through estimates, with bars of one standard error."""
    axes.errorbar(
        x,
        estimate.value,
        estimate.error,
        color=line.color,
        linestyle=line.linestyle,
        marker=line.marker,
        markersize=5,
        linewidth=1.2,
        capsize=3,
        label=label or None,
    )


def bars(axes: Axes, names: Sequence[str], estimate: Estimate, colors: Any = style.BLUE) -> None:
    """A horizontal bar for each estimate, the first at the top, with its standard error."""
    rows = np.arange(len(names))
    axes.barh(rows, estimate.value, xerr=estimate.error, color=colors, height=0.6, capsize=3)
    axes.set_yticks(rows, names)
    axes.invert_yaxis()


def target(axes: Axes, value: float, label: str) -> None:
    """A horizontal line at the value of the claim."""
    axes.axhline(value, color="0.5", linestyle="--", linewidth=1, label=label)


def log_axis_of(axes: Axes, values: Any) -> None:
    """A logarithmic horizontal axis with a tick at each value that was tried."""
    axes.set_xscale("log")
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.set_xticks([], minor=True)


def log_axes(axes: Axes, which: str = "xy") -> None:
    """Logarithmic axes with plain numbers."""
    for name in which:
        axes.set(**{f"{name}scale": "log"})
        use_plain_log_ticks(getattr(axes, f"{name}axis"))
