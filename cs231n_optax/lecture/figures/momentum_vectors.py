"""Figure 9 (7-1-3): velocity + gradient = the actual step of momentum, from a real state."""

import optax
from matplotlib.figure import Figure

import cs231n_optax
from cs231n_optax.lecture import step_vectors
from cs231n_optax.lecture.descent import descend
from cs231n_optax.lecture.step_vectors import KAPPA, RATE, RHO, START, STEP, Vectors
from cs231n_optax.problems.landscapes import taco_shell


def compute() -> Vectors:
    """The fourth step of a run: -αρ v, then -α g, and the update that the method returned."""
    fun, tx = taco_shell(KAPPA).fun, cs231n_optax.momentum(RATE, rho=RHO)
    path = descend(fun, START, tx, STEP + 1)
    velocity = optax.tree.get(path.states, "velocity")[STEP]
    return Vectors(
        path=path.points[: STEP + 1],
        x=path.points[STEP],
        ahead=path.points[STEP],
        velocity=-RATE * RHO * velocity,
        gradient=-RATE * path.grads[STEP],
        step=path.points[STEP + 1] - path.points[STEP],
    )


def draw(data: Vectors) -> Figure:
    """Velocity and gradient both start at the point, and span a parallelogram."""
    title = "momentum: velocity + gradient = actual step"
    return step_vectors.draw(data, title, "velocity, -αρv", "gradient, -αg(x)")
