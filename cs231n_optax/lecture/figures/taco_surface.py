"""Figure 2 (7-1-2 A): the taco shell in three dimensions."""

import numpy as np
from matplotlib.figure import Figure

from cs231n_optax.lecture import style
from cs231n_optax.lecture.figures import taco_contours
from cs231n_optax.lecture.figures.taco_contours import KAPPA, Data, P
from cs231n_optax.problems.landscapes import taco_shell


def compute() -> Data:
    """The same arrays as figure 1."""
    return taco_contours.compute()


def draw(data: Data) -> Figure:
    """A surface that is steep across and shallow along, with P on it."""
    figure, axes = style.new_figure(height=3.8, subplot_kw={"projection": "3d"})
    x, y = np.meshgrid(data.x, data.y)
    axes.plot_surface(x, y, data.values, cmap="Blues_r", linewidth=0, rcount=60, zorder=1)
    axes.contour(x, y, data.values, 12, colors="0.35", linewidths=0.5, zorder=2)
    height = float(taco_shell(KAPPA).fun(np.array(P)))
    axes.scatter(*P, height, color=style.VERMILION, s=45, depthshade=False, zorder=9)
    axes.text(*P, height + 12, "P", fontsize=style.FONT_SIZE, zorder=9)
    axes.computed_zorder = False
    axes.view_init(elev=32, azim=-62)
    axes.set(xlabel="x, shallow", ylabel="y, steep", zlabel="f")
    axes.set_box_aspect((2, 1.2, 0.9))
    return figure
