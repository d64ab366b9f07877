"""Decide whether a trial point is accepted; shared by line searches and trust regions.

A line search or a trust region answers whether its own conditions hold at the trial point. From
that answer `decide` derives the next anchor and the status of the run: convergence, a stall in
rounding noise, failure.
"""

import enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cs231n_optax import _checks, _tree
from cs231n_optax._batching import fused_if
from cs231n_optax.globalization.trial import (
    CONVERGED,
    FAILED,
    MISPLACED,
    RUNNING,
    SADDLE,
    STALLED,
    UNBOUNDED,
    Progress,
    Trial,
    scalars_of,
)

MAX_REISSUES = 4  # of a trial that the parameters did not reach
MAX_ULPS = 8  # by which the parameters may miss the trial point
PATIENCE = 20  # accepted steps without a new best value or gradient
VALUE_FACTOR = 10  # tolerance of the predicted decrease / relative tolerance of the gradient
NOISE = 10  # rises up to NOISE · ε |f(x₀)| may be rounding noise, see `noise`


class Answer(enum.IntEnum):
    """The answer of a line search or trust region about its last trial."""

    TRY = 0  # rejected; the search goes on
    ACCEPT = 1
    FAIL = 2  # rejected; the search has given up
    UNBOUNDED = 3  # accepted; the value falls as far as the search can go


class Evaluation(NamedTuple):
    """The input of one update, checked.

    Attributes:
      params: the point, the tree of the parameters.
      grads: the gradient there.
      value: scalar, the objective there.
      grad_norm: scalar, the largest |element| of the gradient.
      slope: scalar, g·d along the direction d of the trial.
      at_trial_point: bool scalar, whether ``params`` is the trial point of the last update.
    """

    params: optax.Params
    grads: optax.Updates
    value: jax.Array
    grad_norm: jax.Array
    slope: jax.Array
    at_trial_point: jax.Array


class Decision(NamedTuple):
    """What follows from a trial: scalars.

    Attributes:
      accept: bool, the trial point is accepted.
      restart: bool, the search has failed for the first time at this anchor; search along steepest
        descent from it.
      moves_anchor: bool, the trial point is the new anchor. The first point is, accepted or not.
      is_start: bool, there has been no step since ``init``.
      decrease: of the value, by an accepted step; else 0.
    """

    accept: jax.Array
    restart: jax.Array
    moves_anchor: jax.Array
    is_start: jax.Array
    decrease: jax.Array

    @property
    def needs_direction(self) -> jax.Array:
        """Whether a new direction is needed."""
        return self.accept | self.restart


def check_evaluation(
    method: str,
    grads: Any,
    params: Any,
    value: Any,
    *,
    trial: Trial,
    direction: Any,
    step: jax.typing.ArrayLike = 1.0,
) -> Evaluation:
    """Check the input of an update.

    Args:
      method: a name for error messages.
      grads: as given to ``update``.
      params: as given to ``update``.
      value: as given to ``update``.
      trial: the record of the last update.
      direction: d, the tree of the parameters.
      step: t. The trial point is anchor + t d.
    """
    anchor = trial.anchor_params
    grads, params, value = _checks.trial_evaluation(method, grads, params, value, anchor=anchor)
    misses = _misses(params, anchor, _tree.scale(jnp.asarray(step), direction))
    slope, missed, grad_norm = _tree.one_pass(vdots=((grads, direction),), maxima=(misses, grads))
    return Evaluation(
        params=params,
        grads=grads,
        value=_tree.cast(value, _tree.scalar_dtype(anchor)),
        grad_norm=grad_norm,
        slope=slope,
        at_trial_point=(trial.num_evals == 0) | (missed == 0),
    )


def _misses(params: Any, anchor: Any, displacement: Any) -> Any:
    """0 where params = anchor + displacement, up to the rounding of the loop's additions, or 1."""

    def leaf(x: jax.Array, a: jax.Array, d: jax.Array) -> jax.Array:
        tolerance = MAX_ULPS * np.finfo(x.dtype).eps * (jnp.abs(a) + jnp.abs(d))
        return jnp.where(jnp.abs(x - (a + d)) <= tolerance, 0, jnp.ones_like(tolerance))

    return jax.tree.map(leaf, params, anchor, displacement)


def decide(
    old: Trial,
    evaluation: Evaluation,
    answer: jax.Array,
    *,
    may_restart: bool,
    model_is_finite: jax.typing.ArrayLike = True,
    tol: jax.typing.ArrayLike = 0.0,
    atol: jax.typing.ArrayLike = 0.0,
) -> tuple[Trial, Decision]:
    """Accept or reject a trial point, and update the record.

    Args:
      old: the record before this evaluation. ``may_stop`` and ``saddle`` describe the new point.
      evaluation: at the trial point.
      answer: an `Answer`. At the first point, which no search has chosen, it is not used.
      may_restart: whether the search restarts after its first failure at an anchor.
      model_is_finite: bool scalar, whether the first point is usable apart from value and gradient.
      tol: see `has_converged`.
      atol: see `has_converged`.

    Returns:
      The next record, and the decision. A run that has ended decides nothing.
    """
    scalars, decision = fused_if(
        old.status == RUNNING,
        lambda scalars: _decide_scalars(
            scalars,
            evaluation,
            answer,
            may_restart=may_restart,
            model_is_finite=model_is_finite,
            tol=tol,
            atol=atol,
        ),
        scalars_of(old),
    )
    trial = scalars._replace(
        anchor_params=_tree.select(decision.moves_anchor, evaluation.params, old.anchor_params),
        grad=_tree.select(decision.moves_anchor, evaluation.grads, old.grad),
    )
    return trial, decision


def _decide_scalars(
    old: Trial,
    evaluation: Evaluation,
    answer: jax.Array,
    *,
    may_restart: bool,
    model_is_finite: jax.typing.ArrayLike,
    tol: jax.typing.ArrayLike,
    atol: jax.typing.ArrayLike,
) -> tuple[Trial, Decision]:
    """`decide`, but for the trees of the record."""
    first, before = old.num_evals == 0, old.progress
    value, grad_norm = evaluation.value, evaluation.grad_norm
    at_trial_point = evaluation.at_trial_point

    # No search has chosen the first point. It is accepted if it is finite.
    is_finite = model_is_finite & jnp.isfinite(value) & jnp.isfinite(grad_norm)
    endless = ~first & at_trial_point & (answer == Answer.UNBOUNDED)
    accept = jnp.where(first, is_finite, endless | (answer == Answer.ACCEPT))
    failed = jnp.where(first, ~is_finite, answer == Answer.FAIL)

    # If the parameters did not reach the trial point, their value says nothing about it.
    accept &= at_trial_point
    failed &= at_trial_point
    reissues = jnp.where(at_trial_point, 0, before.reissues + 1)

    # The first failure at an anchor restarts the search there, the second one is final.
    restart = failed & ~first & ~before.restarted if may_restart else jnp.zeros_like(failed)
    restarted = jnp.where(accept, False, before.restarted | restart)

    # Accepted steps that improve neither the best value nor the best gradient are idle.
    improved = first | (value < before.best_value) | (grad_norm < before.best_grad_norm)
    better = accept & improved
    idle_steps = jnp.where(better, 0, before.idle_steps + accept.astype(jnp.int32))

    # The status. A later condition overrides an earlier one.
    fell = ~first & ~better & (before.fell | (value == -jnp.inf))
    status = jnp.where(idle_steps >= PATIENCE, jnp.where(fell, UNBOUNDED, STALLED), old.status)
    change = jnp.abs(value - old.anchor_value)
    level = ~first & (change <= noise_floor(old.anchor_value, noise(before)))
    failure = jnp.where(fell, UNBOUNDED, jnp.where(level, STALLED, FAILED))
    status = jnp.where(failed & ~restart, failure, status)
    status = jnp.where(endless, UNBOUNDED, status)
    status = jnp.where(reissues > MAX_REISSUES, MISPLACED, status)

    # The noise allowance: this decrease, or half of the old allowance if that is larger.
    decrease = jnp.where(accept & ~first, old.anchor_value - value, 0)
    allowance = jnp.maximum(decrease, before.noise_allowance / 2)

    def least(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(better, jnp.where(first, new, jnp.minimum(new, old)), old)

    moves_anchor = accept | first
    num_evals: Any = optax.safe_increment(old.num_evals)
    new = old._replace(
        anchor_value=jnp.where(moves_anchor, value, old.anchor_value),
        grad_norm=jnp.where(moves_anchor, grad_norm, old.grad_norm),
        accepted=accept,
        status=status,
        num_evals=num_evals,
        progress=Progress(
            has_stepped=before.has_stepped | (accept & (grad_norm > 0)),
            restarted=restarted,
            reissues=reissues,
            idle_steps=idle_steps,
            start_value=jnp.where(first, jnp.abs(value), before.start_value),
            start_grad_norm=jnp.where(first, grad_norm, before.start_grad_norm),
            fell=fell,
            noise_allowance=jnp.where(accept, allowance, before.noise_allowance),
            best_value=least(value, before.best_value),
            best_grad_norm=least(grad_norm, before.best_grad_norm),
        ),
    )
    converged = jnp.where(old.saddle, SADDLE, CONVERGED)
    new = new._replace(status=jnp.where(has_converged(new, tol, atol), converged, status))
    return new, Decision(
        accept=accept,
        restart=restart,
        moves_anchor=moves_anchor,
        is_start=~before.has_stepped,
        decrease=decrease,
    )


def has_converged(trial: Trial, tol: jax.typing.ArrayLike, atol: jax.typing.ArrayLike) -> jax.Array:
    """Whether the last update has accepted a point where a run may end.

    There the gradient is within `gradient_tolerance`. With unit = max(1, ‖∇f(x₀)‖∞), the predicted
    decrease, if it is known, is at most 10 (tol + atol / unit) (1 + |f(x)|), since a huge gradient
    at x₀ makes the first condition weak. A zero gradient needs neither.

    It reads scalars only, for `fused_if`.
    """
    start = trial.progress.start_grad_norm
    tolerance, unit = gradient_tolerance(start, tol, atol), jnp.maximum(start, 1)
    scale = VALUE_FACTOR * (tolerance / unit) * (1 + jnp.abs(trial.anchor_value))
    small = (trial.grad_norm <= tolerance) & (trial.predicted_decrease <= scale)
    return trial.accepted & trial.may_stop & (small | (trial.grad_norm == 0))


def gradient_tolerance(
    start: jax.Array, tol: jax.typing.ArrayLike, atol: jax.typing.ArrayLike
) -> jax.Array:
    """The largest ‖∇f‖∞ that ends a run: atol + tol · max(1, ‖∇f(x₀)‖∞), from ‖∇f(x₀)‖∞."""
    return jnp.asarray(atol, start.dtype) + jnp.asarray(tol, start.dtype) * jnp.maximum(start, 1)


def noise(progress: Progress) -> jax.Array:
    """How far the value may rise by rounding.

    The rounding error of f is relative to the largest terms that it sums, which may be as large
    as |f(x₀)|. So rises up to 10 ε |f(x₀)| may be noise. The noise allowance keeps the sum of all
    rises since the last decrease below twice that decrease.
    """
    eps = np.finfo(progress.noise_allowance.dtype).eps
    return jnp.minimum(NOISE * eps * progress.start_value, progress.noise_allowance)


def noise_floor(value: jax.Array, noise: Any) -> jax.Array:
    """Differences from ``value`` below this count as rounding error: at least 2 ε |value|."""
    return jnp.maximum(2 * np.finfo(value.dtype).eps * jnp.abs(value), noise)
