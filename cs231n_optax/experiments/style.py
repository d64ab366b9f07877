"""The common look of the pictures; pyplot's global state is not touched."""

import math
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

# The colours of Okabe and Ito, which colour-blind readers tell apart, without their yellow, which
# is too pale for a line on white. Dashes and markers tell the curves apart in grey.
BLACK, ORANGE, BLUE, GREEN = "#000000", "#E69F00", "#0072B2", "#009E73"
PURPLE, SKY_BLUE, VERMILION = "#CC79A7", "#56B4E9", "#D55E00"

FONT_SIZE = 8.5
HIGHEST = 10  # the top of an axis of losses at most, in units of the first loss


class LineStyle(NamedTuple):
    """How a curve is drawn."""

    color: str
    linestyle: str
    marker: str


def new_figure(height: float) -> Figure:
    """Return a figure 1200 pixels wide; ``height`` is in units of 150 pixels."""
    return Figure(figsize=(8, height), dpi=150, layout="constrained")


def format_axes(axes: Axes) -> None:
    """Set small labels and a pale grid, and remove the frame at the top and the right."""
    axes.tick_params(labelsize=FONT_SIZE)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def label_color_bar(bar: Colorbar, label: str) -> None:
    """Label a colour bar in the size of the axes."""
    bar.set_label(label, fontsize=FONT_SIZE)
    bar.ax.tick_params(labelsize=FONT_SIZE)


def use_plain_log_ticks(axis: Any) -> None:
    """Put ticks at 1, or at 1, 2 and 5 where there are few decades, as plain numbers."""
    low, high = axis.get_view_interval()
    few = low > 0 and math.log10(high / low) < 2
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set_minor_formatter(NullFormatter())
