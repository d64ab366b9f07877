"""Figure 1 (7-1-2 A): the taco shell from above, with a point P."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import cs231n_optax
from cs231n_optax.lecture import style
from cs231n_optax.problems.landscapes import taco_shell

KAPPA = 25.0
P = (-8.0, 1.6)


class Data(NamedTuple):
    """The bowl on a grid, the gradient at P, and the condition number as Lanczos finds it."""

    x: np.ndarray
    y: np.ndarray
    values: np.ndarray
    gradient: jax.Array
    condition_number: jax.Array


def compute() -> Data:
    """The values, and what the Hessian's eigenvalues say."""
    fun = taco_shell(KAPPA).fun
    x, y = np.linspace(-10, 10, 201), np.linspace(-3, 3, 121)
    found = cs231n_optax.extreme_eigenvalues(fun, jnp.array(P), key=jax.random.key(0))
    return Data(
        x=x,
        y=y,
        values=style.grid_values(fun, x, y),
        gradient=jax.grad(fun)(jnp.array(P)),
        condition_number=found.condition_number,
    )


def draw(data: Data) -> Figure:
    """Contours, P, and the direction of steepest descent, which misses the minimum."""
    figure, axes = style.new_figure(height=2.9)
    style.contours(axes, data.x, data.y, data.values, np.geomspace(0.5, 150, 12))
    axes.scatter(*P, **style.POINT)
    axes.annotate("P", P, (6, 6), textcoords="offset points", fontsize=style.FONT_SIZE)
    downhill = -np.asarray(data.gradient)
    step = 1.6 * downhill / np.linalg.norm(downhill)
    style.arrow(axes, P, step, style.VERMILION, "steepest descent at P")
    axes.scatter(0, 0, **style.MINIMUM, label="minimum")
    axes.set(
        xlabel="x, the shallow direction",
        ylabel="y, the steep direction",
        title=f"f(x, y) = (x² + {KAPPA:g} y²) / 2, condition number {data.condition_number:.1f}",
    )
    style.legend(axes, loc="lower right")
    return figure
