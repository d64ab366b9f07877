"""A solve: one method on one function, by `minimize`, with every evaluation recorded."""

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from cs231n_optax.globalization.trial import Status
from cs231n_optax.problems.landscapes import Landscape
from cs231n_optax.training.minimize import MinimizeProgress, minimize

Progress = Callable[[int, float, float], None]
"""Called with the evaluations so far, and the value and max |∇f| at the last accepted point."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The configuration of a solve with every default resolved, for the record.

    Attributes:
      problem: the name of the function.
      start: the first point.
      method: the name of the method.
      method_options: its arguments: a learning rate, a memory size, or none.
      dtype: float32 or float64.
      tol: the relative tolerance of `minimize`.
      max_evals: the largest number of evaluations.
    """

    problem: str
    start: tuple[float, ...]
    method: str
    method_options: Mapping[str, float]
    dtype: str
    tol: float
    max_evals: int


class Track(NamedTuple):
    """Every evaluation, in order.

    Attributes:
      value: float (evaluations,), the function at the trial point.
      grad_norm: float (evaluations,), max |∇f| there; NaN if it was rejected.
      accepted: bool (evaluations,), whether it was accepted.
      points: float (evaluations, 2), the trial points; (evaluations, 0) unless the function has
        two variables.
    """

    value: np.ndarray
    grad_norm: np.ndarray
    accepted: np.ndarray
    points: np.ndarray


class Solution(NamedTuple):
    """The result of a solve.

    Attributes:
      status: why it ended.
      params: float (n,), the last accepted point, or the start if there was none.
      value: the function there.
      grad_norm: max |∇f| there; NaN if there was no accepted point.
      num_evals: evaluations of the value and the gradient.
      num_steps: accepted points after the first.
      distance: the Euclidean distance to the nearest known minimiser; NaN if none is known.
      track: every evaluation.
    """

    status: Status
    params: np.ndarray
    value: float
    grad_norm: float
    num_evals: int
    num_steps: int
    distance: float
    track: Track


def run(
    landscape: Landscape, tx: optax.GradientTransformation, setting: Setting, progress: Progress
) -> Solution:
    """Minimise a function and record every evaluation.

    ``progress`` is called after every evaluation. A run that fails has a solution too. Ctrl-C
    raises KeyboardInterrupt within an evaluation.
    """
    records: list[MinimizeProgress] = []
    planar = len(setting.start) == 2

    def record(news: MinimizeProgress) -> None:
        news = jax.tree.map(np.asarray, news)
        records.append(news if planar else news._replace(trial_params=np.zeros(0), params=None))
        progress(int(news.num_evals), float(news.value), float(news.grad_norm))

    @jax.jit
    def solve(x0: np.ndarray) -> Any:
        tol, max_evals = setting.tol, setting.max_evals
        result = minimize(landscape.fun, x0, tx, tol=tol, max_evals=max_evals, callback=record)
        return result.params, result.status, result.num_evals, result.num_steps

    with jax.enable_x64(setting.dtype == "float64"), _interruptible():
        end = jax.device_get(solve(np.array(setting.start, setting.dtype)))
        jax.effects_barrier()

    params, status, num_evals, num_steps = end
    track = _track(records)
    last = np.flatnonzero(track.accepted)[-1] if np.any(track.accepted) else 0
    return Solution(
        status=Status(int(status)),
        params=params,
        value=float(track.value[last]),
        grad_norm=float(track.grad_norm[last]),
        num_evals=int(num_evals),
        num_steps=int(num_steps),
        distance=min((math.dist(params, x) for x in landscape.minimizers), default=math.nan),
        track=track,
    )


def _track(records: list[MinimizeProgress]) -> Track:
    accepted = np.array([record.accepted for record in records])
    grad_norm = np.array([record.grad_norm for record in records])
    return Track(
        value=np.array([record.trial_value for record in records]),
        grad_norm=np.where(accepted, grad_norm, np.nan),
        accepted=accepted,
        points=np.stack([record.trial_params for record in records]),
    )


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt again, which JAX logs and wraps if it is raised in a callback."""
    logging.disable(logging.ERROR)
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "KeyboardInterrupt" in str(error):
            raise KeyboardInterrupt from None
        raise
    finally:
        logging.disable(logging.NOTSET)
