"""The search spaces, one per method for all workloads, and how settings are drawn from them.

Every method is tried with the same number of settings: points of a scrambled Halton sequence, as in
AlgoPerf, so that few of them cover each range evenly.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

from cs231n_optax.experiments.catalog import METHODS

FINAL_RATE = 0.01  # of a decay, in units of α
EARLIEST_END = 0.25  # of a decay, as a share of the steps


class Range(NamedTuple):
    """A range with log-uniform values x, or with values 1 - x where x is log-uniform."""

    low: float
    high: float
    from_one: bool = False

    def at(self, points: np.ndarray) -> np.ndarray:
        """Map points of [0, 1] into the range."""
        x = self.low * (self.high / self.low) ** points
        return 1 - x if self.from_one else x


_RHO = Range(0.01, 0.5, from_one=True)
_MEAN_SQUARE = Range(0.001, 0.2, from_one=True)
_EPS = Range(1e-10, 1e-2)
_ADAM = {"learning_rate": Range(3e-4, 0.3), "b1": _RHO, "b2": _MEAN_SQUARE, "eps": _EPS}

# Three decades of the learning rate for each method, and all that it has besides.
SPACES: dict[str, dict[str, Range]] = {
    "sgd": {"learning_rate": Range(0.01, 10)},
    "momentum": {"learning_rate": Range(0.001, 1), "rho": _RHO},
    "nesterov": {"learning_rate": Range(0.001, 1), "rho": _RHO},
    "adagrad": {"learning_rate": Range(0.003, 3), "eps": _EPS},
    "rmsprop": {"learning_rate": Range(3e-4, 0.3), "decay": _MEAN_SQUARE, "eps": _EPS},
    "adam-uncorrected": _ADAM,
    "adam": _ADAM,
}


def settings(method: str, count: int, seed: int) -> dict[str, np.ndarray]:
    """Draw settings of a method and of its schedule, one column per name.

    A third of the schedules are constant, a third linear and a third cosine. ``decay_speed`` is 1 /
    the share of the steps after which the decay ends, or 0.
    """
    from scipy.stats import qmc  # takes a second

    space = SPACES[method]
    points = qmc.Halton(2 + len(space), rng=seed).random(count)
    columns = {name: space[name].at(points[:, i]) for i, name in enumerate(space, start=2)}
    kind = np.floor(3 * points[:, 1])
    speed = np.where(kind > 0, 1 / Range(EARLIEST_END, 1).at(points[:, 0]), 0.0)
    return columns | {"decay_speed": speed, "is_cosine": (kind == 2).astype(float)}


def make(method: str, setting: Mapping[str, Any], steps: int) -> optax.GradientTransformation:
    """Make a method from numbers, which may be traced."""
    options = {name: setting[name] for name in SPACES[method]}
    rate = options.pop("learning_rate")
    linear = optax.linear_schedule(rate, FINAL_RATE * rate, 1)
    cosine = optax.cosine_decay_schedule(rate, 1, FINAL_RATE)

    def schedule(count: Any) -> Any:
        progress = count * setting["decay_speed"] / steps
        return jnp.where(setting["is_cosine"] > 0.5, cosine(progress), linear(progress))

    return METHODS[method](schedule, **options)


def describe(setting: Mapping[str, float]) -> dict[str, Any]:
    """A setting for the record, with the schedule in words."""
    numbers = {name: float(f"{value:.6g}") for name, value in setting.items()}
    speed, is_cosine = numbers.pop("decay_speed"), numbers.pop("is_cosine")
    kind = "cosine" if is_cosine else "linear"
    schedule = {"kind": kind, "end": 1 / speed} if speed else {"kind": "constant"}
    return numbers | {"schedule": schedule}
