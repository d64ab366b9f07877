"""The figures by name: the fourteen of the lecture's page in its order, then those beyond it."""

from types import ModuleType

from cs231n_optax.lecture.figures import (
    basins,
    cosine_cycles,
    effective_steps,
    first_order,
    learning_rates,
    loss_surface,
    measured_plane,
    momentum_crosses_plateau,
    momentum_leaves_minimum,
    momentum_plane,
    momentum_vectors,
    nesterov_vectors,
    race,
    second_order,
    sgd_movement,
    step_decay,
    stuck_in_local_minimum,
    stuck_on_plateau,
    taco_contours,
    taco_surface,
    unit_tests,
    zigzag,
)

# Each module has `compute() -> arrays` and `draw(arrays) -> figure or animation`.
FIGURES: dict[str, ModuleType] = {
    "taco-contours": taco_contours,
    "taco-surface": taco_surface,
    "sgd-movement": sgd_movement,
    "zigzag": zigzag,
    "stuck-in-local-minimum": stuck_in_local_minimum,
    "stuck-on-plateau": stuck_on_plateau,
    "momentum-leaves-minimum": momentum_leaves_minimum,
    "momentum-crosses-plateau": momentum_crosses_plateau,
    "momentum-vectors": momentum_vectors,
    "nesterov-vectors": nesterov_vectors,
    "learning-rates": learning_rates,
    "step-decay": step_decay,
    "first-order": first_order,
    "second-order": second_order,
    "momentum-plane": momentum_plane,
    "measured-plane": measured_plane,
    "unit-tests": unit_tests,
    "effective-steps": effective_steps,
    "basins": basins,
    "cosine-cycles": cosine_cycles,
    "loss-surface": loss_surface,
    "race": race,
}


def caption(name: str) -> str:
    """The first line of a figure's module."""
    return (FIGURES[name].__doc__ or "").partition("\n")[0]
