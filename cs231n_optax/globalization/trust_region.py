"""A trust region around the minimum of a quadratic model, with one evaluation an update.

Each update takes the value and gradient at the trial point and compares the decrease with the
model's prediction. If the trial is accepted, it becomes the anchor and a new model is made there.
If not, the model stays and the radius shrinks. Then the update moves to the model's minimum within
the radius.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cs231n_optax import _checks, _tree
from cs231n_optax._batching import fused_if
from cs231n_optax._eager import compiled_when_eager
from cs231n_optax.globalization.acceptance import (
    NOISE,
    Answer,
    Evaluation,
    check_evaluation,
    decide,
    gradient_tolerance,
    noise,
)
from cs231n_optax.globalization.search import LinePoint, first_true
from cs231n_optax.globalization.trial import RUNNING, Trial, first_trial, next_count

METHOD = "a trust region"
ACCEPTABLE = 1e-4  # least ρ of an accepted trial
BAD, POOR, GOOD = 0.1, 0.25, 0.75  # bounds on ρ for the radius after an accepted trial
SHRINKAGE = (0.1, 0.5)  # bounds on radius / ‖p‖ after a rejected trial
DEFAULT_SHRINKAGE = 0.25  # if the minimum along p is unknown
GROWTH, FAST_GROWTH = 3.0, 10.0  # of the radius after a good trial, relative to ‖p‖
NEARLY_EXACT = 0.1  # largest |ρ - 1| at which the radius grows tenfold
AT_BOUNDARY = 0.99  # ‖p‖ / Δ above which the step counts as on the boundary


class ModelStep(NamedTuple):
    """The minimum of a model within a radius.

    Attributes:
      step: p, the tree of the parameters.
      predicted_decrease: scalar, m(0) - m(p).
      slope: scalar, ∇f · p at the anchor.
      length: scalar, ‖p‖.
    """

    step: optax.Updates
    predicted_decrease: jax.Array
    slope: jax.Array
    length: jax.Array


class ModelInfo(NamedTuple):
    """Properties of a new model.

    Attributes:
      is_finite: bool scalar, whether the model can be used.
      initial_radius: scalar, the radius of a run that starts here.
      saddle: bool scalar, whether there is negative curvature.
    """

    is_finite: jax.Array
    initial_radius: jax.Array
    saddle: jax.Array


class Model(NamedTuple):
    """A quadratic model of a function around an anchor.

    Attributes:
      init: ``init(params) -> state``.
      update: ``update(state, evaluation, *, wanted, radius, choose_radius, **extra_args) ->
        (state, ModelInfo)``: the state for a new anchor, if it is wanted and the model is finite,
        else the old state. ``wanted`` and ``choose_radius`` are bool scalars; with the second one
        there is no radius yet, and the model chooses its own.
      step: ``step(state, radius, like) -> ModelStep``, with p in the tree of ``like``.
    """

    init: Callable[[Any], Any]
    update: Callable[..., tuple[Any, ModelInfo]]
    step: Callable[[Any, jax.Array, Any], ModelStep]


class Region(NamedTuple):
    """The radius, and the trial within it: scalars.

    Attributes:
      radius: Δ.
      predicted_decrease: m(0) - m(p) of the trial step p.
      slope: ∇f · p at the anchor.
      length: ‖p‖.
      answer: an `Answer` about the last trial.
    """

    radius: jax.Array
    predicted_decrease: jax.Array
    slope: jax.Array
    length: jax.Array
    answer: jax.Array


class TrustRegionState(NamedTuple):
    """State of `with_trust_region`.

    Attributes:
      count: int32, see `next_count`.
      trial: the `Trial` record; its anchor is the last accepted point.
      model_state: the state of the model at the anchor.
      step: p, from the anchor to the current trial point, the tree of the parameters.
      region: see `Region`.
    """

    count: jax.Array
    trial: Trial
    model_state: Any
    step: optax.Updates
    region: Region


def with_trust_region(
    model: Model,
    line_minimum: Callable[[LinePoint, LinePoint], jax.Array],
    *,
    leave_saddles: bool,
    tol: jax.typing.ArrayLike = 0.0,
    atol: jax.typing.ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Add a trust region to a model, in the ordinary Optax loop.

    With m the model at the anchor x, and p its minimum within ‖p‖ <= Δ, the trial point x + p is
    accepted if

        ρ = (f(x) - f(x + p)) / (m(0) - m(p)) > 10⁻⁴

    The next radius is

        a tenth to a half of ‖p‖     after a rejection: at the minimum along p
        ‖p‖ / 2                      if ρ < 0.1
        ‖p‖                          if 0.1 < ρ < 0.25
        3 ‖p‖                        if ρ > 0.75, and p is at the boundary
        10 ‖p‖                       if also |ρ - 1| < 0.1, unless right after a rejection
        Δ                            otherwise

    If the actual and the predicted decrease
    are both within rounding (10 ε |f| or `noise`), the slopes are more accurate than the values:
    then f(x) - f(x + p) is replaced by -(∇f(x) + ∇f(x + p)) · p / 2.

    Args:
      model: the `Model`.
      line_minimum: the minimum along a step, from its two ends; such as `cubic_minimum`.
      leave_saddles: whether a run goes on from a saddle, where the gradient is small.
      tol: see `has_converged`.
      atol: see `has_converged`. The model receives the keyword ``tolerance``, the largest
        ‖∇f‖∞ that ends the run.

    Returns:
      A transformation like that of `with_line_search`, with the same `Status`.

    Source:
      J. Nocedal and S. Wright, "Numerical Optimization", 2nd ed., 2006, algorithm 4.1, with
      another rule for the radius.
    """
    tol, atol = _checks.nonnegative("tol", tol), _checks.nonnegative("atol", atol)

    def init(params: optax.Params) -> TrustRegionState:
        _checks.trial_params(METHOD, params)
        zero = jnp.zeros((), _tree.scalar_dtype(params))
        state = TrustRegionState(
            count=jnp.zeros((), jnp.int32),
            trial=first_trial(params),
            model_state=model.init(params),
            step=_tree.zeros_like(params),
            region=Region(zero, zero, zero, zero, answer=jnp.zeros((), jnp.int32)),
        )
        return jax.tree.map(jnp.copy, state)  # no two fields share a buffer

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        value: Any = None,
        tolerance: jax.typing.ArrayLike = 0.0,
        **extra_args: Any,
    ) -> tuple[optax.Updates, TrustRegionState]:
        # 1. Check the input: the value and gradient at the trial point.
        _checks.own_state(METHOD, state, TrustRegionState)
        old = state.trial
        evaluation = check_evaluation(
            METHOD, updates, params, value, trial=old, direction=state.step
        )
        # 2. Compare the decrease with the prediction.
        region = _compare(line_minimum, state, evaluation)
        # 3. Make a new model at an acceptable point. One that is not finite rejects the point.
        accepted = (region.answer == Answer.ACCEPT) | (region.answer == Answer.UNBOUNDED)
        acceptable = (old.status == RUNNING) & evaluation.at_trial_point & accepted
        dtype, first = evaluation.grad_norm.dtype, old.num_evals == 0
        start = jnp.where(first, evaluation.grad_norm, old.progress.start_grad_norm)
        own_tolerance = gradient_tolerance(start, tol, atol)
        model_state, info = model.update(
            state.model_state,
            evaluation,
            wanted=acceptable,
            radius=region.radius,
            choose_radius=~old.progress.has_stepped,
            value=evaluation.value,
            tolerance=jnp.maximum(jnp.asarray(tolerance, dtype), own_tolerance),
            **extra_args,
        )
        unusable = acceptable & ~info.is_finite
        answer = jnp.where(unusable, jnp.int32(Answer.TRY), region.answer)
        # 4. Propose the next trial: the model's minimum within the radius.
        radius = jnp.where(unusable, SHRINKAGE[0] * region.length, region.radius)
        radius = jnp.where(first, info.initial_radius, radius)
        radius = jnp.clip(radius, np.finfo(radius.dtype).tiny, largest_radius(radius.dtype))
        proposal = model.step(model_state, radius, old.anchor_params)
        # 5. Accept or reject the point, and go to the trial point.
        trial, _ = decide(
            _with_curvature(old, info, proposal, acceptable, leave_saddles=leave_saddles),
            evaluation,
            answer,
            may_restart=False,
            model_is_finite=~unusable,
            tol=tol,
            atol=atol,
        )
        steps = _step_to_trial(trial, proposal.step, evaluation.params)
        return steps, TrustRegionState(
            count=next_count(state, trial),
            trial=trial,
            model_state=model_state,
            step=proposal.step,
            region=Region(
                radius=radius,
                predicted_decrease=proposal.predicted_decrease,
                slope=proposal.slope,
                length=proposal.length,
                answer=answer,
            ),
        )

    return optax.GradientTransformationExtraArgs(init, compiled_when_eager(update))


def largest_radius(dtype: Any) -> Any:
    """A radius whose square is finite."""
    return np.sqrt(np.finfo(dtype).max) / 8


def _compare(
    line_minimum: Callable[[LinePoint, LinePoint], jax.Array],
    state: TrustRegionState,
    evaluation: Evaluation,
) -> Region:
    """The answer about a trial, and the radius that follows from it."""
    trial, value, slope = state.trial, evaluation.value, evaluation.slope
    unchanged = _tree.every(lambda x, a: jnp.all(x == a), evaluation.params, trial.anchor_params)

    def compare(old: Region) -> tuple[Region, None]:
        first = trial.num_evals == 0
        is_finite = jnp.isfinite(value) & jnp.isfinite(evaluation.grad_norm)

        # ρ, eq. 4.4: by the values, or by the slopes where the values are within rounding.
        reduction = trial.anchor_value - value
        floor = NOISE * np.finfo(value.dtype).eps * jnp.abs(trial.anchor_value)
        floor = jnp.maximum(floor, noise(trial.progress))
        level = (jnp.abs(reduction) <= floor) & (old.predicted_decrease <= floor)
        reduction = jnp.where(level, -(old.slope + slope) / 2, reduction)
        usable = is_finite & (old.predicted_decrease > 0)
        ratio = jnp.where(usable, reduction, -1) / jnp.where(usable, old.predicted_decrease, 1)

        # The radius after a rejected trial.
        zero, one = jnp.zeros_like(value), jnp.ones_like(value)
        shrinkage = line_minimum(
            LinePoint(zero, trial.anchor_value, old.slope), LinePoint(one, value, slope)
        )
        shrinkage = jnp.where(jnp.isfinite(shrinkage), shrinkage, DEFAULT_SHRINKAGE)
        shrunk = jnp.clip(jnp.where(is_finite, shrinkage, 0), *SHRINKAGE) * old.length

        # The radius after an accepted trial.
        nearly_exact = (jnp.abs(ratio - 1) < NEARLY_EXACT) & (old.answer == Answer.ACCEPT)
        grown = jnp.where(nearly_exact, FAST_GROWTH, GROWTH) * old.length
        limited = old.length > AT_BOUNDARY * old.radius
        radius = jnp.where((ratio > GOOD) & limited, jnp.maximum(old.radius, grown), old.radius)
        radius = jnp.where(ratio < POOR, old.length, radius)
        radius = jnp.where(ratio < BAD, old.length / 2, radius)

        # A step below rounding, which leaves the anchor where it is, ends the search. So does the
        # longest step possible, if the value still falls. The first point has no step.
        accept = jnp.where(first, is_finite, ratio > ACCEPTABLE)
        fail = jnp.where(first, ~is_finite, unchanged)
        endless = accept & (old.length > AT_BOUNDARY * largest_radius(value.dtype))
        answer = first_true(
            (endless, Answer.UNBOUNDED),
            (accept, Answer.ACCEPT),
            (fail, Answer.FAIL),
            default=Answer.TRY,
        )
        radius = jnp.where(ratio > ACCEPTABLE, radius, shrunk)
        radius = jnp.where(first, old.radius, radius)  # no trial has been compared
        return old._replace(radius=radius, answer=answer), None

    is_evaluated = (trial.status == RUNNING) & evaluation.at_trial_point
    region, _ = fused_if(is_evaluated, compare, state.region)
    return region


def _with_curvature(
    old: Trial, info: ModelInfo, proposal: ModelStep, acceptable: jax.Array, *, leave_saddles: bool
) -> Trial:
    """The record with the saddle and the predicted decrease of the model at a new anchor."""
    moves = acceptable & info.is_finite
    saddle = jnp.where(moves, info.saddle, old.saddle)
    predicted_decrease = jnp.where(saddle, 0, proposal.predicted_decrease)
    return old._replace(
        may_stop=~saddle if leave_saddles else jnp.ones((), bool),
        saddle=saddle,
        predicted_decrease=jnp.where(moves, predicted_decrease, old.predicted_decrease),
    )


def _step_to_trial(trial: Trial, step: Any, params: Any) -> optax.Updates:
    """The update from ``params`` to the trial point, or to the anchor of a run that has ended."""
    running = trial.status == RUNNING
    return jax.tree.map(
        lambda a, p, x: a + jnp.where(running, p, 0) - x, trial.anchor_params, step, params
    )
