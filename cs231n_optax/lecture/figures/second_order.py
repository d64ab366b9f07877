"""Figure 14 (7-1-9): the second-order approximation, and the step to its minimum."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import cs231n_optax
from cs231n_optax.lecture import style
from cs231n_optax.lecture.figures.first_order import Data, bowl, draw_model

POINT = 0.45


def compute() -> Data:
    """f(a) + f′(a) (x - a) + f″(a) (x - a)² / 2, and one step of Newton."""
    x, a = np.linspace(-2.2, 3.2, 200), jnp.array(POINT)
    slope, curvature = jax.grad(bowl)(a), jax.grad(jax.grad(bowl))(a)
    tx = cs231n_optax.scale_by_newton()
    direction: Any
    direction, _ = tx.update(slope, tx.init(a), a, value_fn=bowl)
    parabola = bowl(a) + slope * (x - a) + curvature * (x - a) ** 2 / 2
    return Data(x, bowl(x), parabola, a, a - direction)


def draw(data: Data) -> Figure:
    """The function, the parabola, and the step to its minimum."""
    figure, axes = style.new_figure()
    draw_model(axes, data, "second-order approximation")
    axes.set_title("the Newton step: to the minimum of the parabola")
    return figure
