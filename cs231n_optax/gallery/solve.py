"""One method on one function: `minimize`, with every evaluation recorded.

Here is the computation only; `solve_report` shows it and `cs231n_optax.cli` starts it.
"""

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from cs231n_optax.globalization.trial import Status
from cs231n_optax.problems.landscapes import Landscape
from cs231n_optax.training.minimize import MinimizeProgress, minimize

Progress = Callable[[int, float, float], None]
"""Called with the evaluations so far, and the value and max |∇f| at the last accepted point."""


class Setting(NamedTuple):
    """The configuration of a solve with every default resolved, for the record.

    Attributes:
      problem: the name of the function.
      start: the first point.
      method: the name of the method.
      method_options: what it was made with: its learning rate, its memory size, or nothing.
      dtype: float32 or float64.
      tol: the relative tolerance of `minimize`.
      max_evals: evaluations at most.
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
      value: float (evaluations,), the function at the point that was tried.
      grad_norm: float (evaluations,), max |∇f| there; NaN where the point was rejected.
      accepted: bool (evaluations,), whether the point was accepted.
      points: float (evaluations, 2), the points that were tried; (evaluations, 0) unless the
        function has two variables.
    """

    value: np.ndarray
    grad_norm: np.ndarray
    accepted: np.ndarray
    points: np.ndarray


class Solution(NamedTuple):
    """How a solve ended.

    Attributes:
      status: why.
      params: float (n,), the last accepted point, or the start if there was none.
      value: the function there.
      grad_norm: max |∇f| there; NaN if there was no accepted point.
      num_evals: evaluations of the value and the gradient.
      num_steps: accepted points after the first.
      distance: from the nearest known minimiser, Euclidean; NaN if none is known.
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
    """Minimise a function and listen.

    Args:
      landscape: the function.
      tx: the method.
      setting: the start, the precision, the tolerance and the budget.
      progress: called after every evaluation.

    Returns:
      The `Solution`. A run that fails has one too.

    Raises:
      KeyboardInterrupt: on Ctrl-C, within an evaluation.
    """
    heard: list[MinimizeProgress] = []
    planar = len(setting.start) == 2

    def hear(news: MinimizeProgress) -> None:
        news = jax.tree.map(np.asarray, news)
        heard.append(news if planar else news._replace(trial_params=np.zeros(0), params=None))
        progress(int(news.num_evals), float(news.value), float(news.grad_norm))

    @jax.jit
    def solve(x0: np.ndarray) -> Any:
        tol, max_evals = setting.tol, setting.max_evals
        result = minimize(landscape.fun, x0, tx, tol=tol, max_evals=max_evals, callback=hear)
        return result.params, result.status, result.num_evals, result.num_steps

    with jax.enable_x64(setting.dtype == "float64"), _interruptible():
        end = jax.device_get(solve(np.array(setting.start, setting.dtype)))
        jax.effects_barrier()

    params, status, num_evals, num_steps = end
    accepted = np.array([news.accepted for news in heard])
    grad_norms = np.array([news.grad_norm for news in heard])
    track = Track(
        value=np.array([news.trial_value for news in heard]),
        grad_norm=np.where(accepted, grad_norms, np.nan),
        accepted=accepted,
        points=np.stack([news.trial_params for news in heard]),
    )
    last = np.flatnonzero(accepted)[-1] if np.any(accepted) else 0
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


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C is heard in a callback, where JAX logs it and makes an error of its own from it."""
    logging.disable(logging.ERROR)
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "KeyboardInterrupt" in str(error):
            raise KeyboardInterrupt from None
        raise
    finally:
        logging.disable(logging.NOTSET)
