"""Figure 10 (7-1-3): Nesterov's step, with the gradient taken at the end of the velocity."""

from typing import Any

import jax
from matplotlib.figure import Figure

import cs231n_optax
from cs231n_optax.lecture import step_vectors
from cs231n_optax.lecture.descent import descend
from cs231n_optax.lecture.step_vectors import KAPPA, RATE, RHO, START, STEP, Vectors
from cs231n_optax.problems.landscapes import taco_shell


def compute() -> Vectors:
    """The fourth step of a run, between the iterates x = x̃ - ρ v: ρ v, then -α g(x̃)."""
    fun, tx = taco_shell(KAPPA).fun, cs231n_optax.nesterov(RATE, rho=RHO)
    path = descend(fun, START, tx, STEP + 1)
    x: Any = jax.vmap(cs231n_optax.nesterov_iterate)(path.states, path.points)
    return Vectors(
        path=x[: STEP + 1],
        x=x[STEP],
        ahead=path.points[STEP],
        velocity=path.points[STEP] - x[STEP],
        gradient=-RATE * path.grads[STEP],
        step=x[STEP + 1] - x[STEP],
    )


def draw(data: Vectors) -> Figure:
    """The gradient starts at the end of the velocity, where it was evaluated."""
    title = "Nesterov: the gradient at the end of the velocity"
    return step_vectors.draw(data, title, "velocity, ρv", "gradient, -αg(x + ρv)")
