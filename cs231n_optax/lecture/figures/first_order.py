"""Figure 13 (7-1-9): the first-order approximation, and a step along it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import cs231n_optax
from cs231n_optax.lecture import style

POINT, RATE = -1.2, 0.35


class Data(NamedTuple):
    """The function, its approximation at a point, and the point after one step."""

    x: np.ndarray
    fun: jax.Array
    approximation: jax.Array
    point: jax.Array
    after: Any


def bowl(x: jax.typing.ArrayLike) -> jax.Array:
    """f(x) = log cosh(2 (x - 1)) + x² / 10: convex, and not a parabola."""
    return jnp.log(jnp.cosh(2 * (x - 1))) + x**2 / 10


def compute() -> Data:
    """f(a) + f′(a) (x - a), and one step of SGD."""
    x, a = np.linspace(-2.2, 3.2, 200), jnp.array(POINT)
    slope = jax.grad(bowl)(a)
    tx = cs231n_optax.sgd(RATE)
    step, _ = tx.update(slope, tx.init(a), a)
    return Data(x, bowl(x), bowl(a) + slope * (x - a), a, optax.apply_updates(a, step))


def draw(data: Data) -> Figure:
    """The function, the tangent, and the step."""
    figure, axes = style.new_figure()
    draw_model(axes, data, "first-order approximation")
    axes.set_title(f"a step of SGD, α = {RATE:g}: down the tangent as far as α says")
    return figure


def draw_model(axes: Axes, data: Data, name: str) -> None:
    """The curve, its model, and where the step on the model leads."""
    axes.plot(data.x, data.fun, color="black", linewidth=1.5, label="f")
    axes.plot(data.x, data.approximation, color=style.BLUE, linestyle="--", label=name)
    model = np.interp(data.after, data.x, data.approximation)
    axes.scatter(data.point, bowl(data.point), **style.POINT)
    style.arrow(
        axes,
        (data.point, bowl(data.point)),
        (data.after - data.point, model - bowl(data.point)),
        style.VERMILION,
        "step",
    )
    axes.plot([data.after] * 2, [model, bowl(data.after)], ":", color="0.5")
    axes.scatter(data.after, bowl(data.after), color="black", s=25, zorder=5)
    axes.set(xlabel="x", ylabel="f(x)", ylim=(-1.5, 6.5))
    style.legend(axes, loc="upper right")
