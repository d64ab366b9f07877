"""The combinator that makes a quadratic model globally convergent, one evaluation an update.

Each update hears the value and the gradient at the current trial point and compares the decrease
with what the model promised. If that was good enough, the trial becomes the anchor and gets a model
of its own; if not, the model stays and the radius, within which it is believed, shrinks. Either way
the parameters go to where the model is least within the radius.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cs231n_optax import _judgement, _tree
from cs231n_optax._judgement import NOISE, RUNNING, Answer, Progress
from cs231n_optax._lanes import in_one_kernel
from cs231n_optax._trial import Trial, first_trial

METHOD = "a trust region"
ENOUGH = 1e-4  # part of the promised decrease, for which a trial is accepted
BAD, POOR, GOOD = 0.1, 0.25, 0.75  # parts, of an accepted trial, that change the radius
SHRINKAGE = (0.1, 0.5)  # of the radius after a rejected trial, relative to the step
UNKNOWN = 0.25  # the shrinkage where the line's minimum is not known
GROWTH, LEAP = 3.0, 10.0  # of the radius after a good trial, relative to the step
PERFECT = 0.1  # how far from 1 a part may be for a leap
AT_BOUNDARY = 0.99  # of the radius, beyond which a step was limited by it

TRY, ACCEPT, FAIL = (np.int32(answer) for answer in (Answer.TRY, Answer.ACCEPT, Answer.FAIL))


LineMinimum = Callable[..., jax.Array]


class ModelStep(NamedTuple):
    """Where a model is least within a radius.

    Attributes:
      step: p, the tree of the parameters.
      decrease: scalar, -m(p), what the model promises.
      slope: scalar, ∇f · p at the anchor.
      length: scalar, ‖p‖.
    """

    step: optax.Updates
    decrease: jax.Array
    slope: jax.Array
    length: jax.Array


class Sight(NamedTuple):
    """What a model has seen at a point, besides the point's own state.

    Attributes:
      fine: bool scalar, whether the model is finite.
      reach: scalar, the first radius for a run that begins here.
      saddle: bool scalar, whether the curvature is negative somewhere.
    """

    fine: jax.Array
    reach: jax.Array
    saddle: jax.Array


class Model(NamedTuple):
    """A quadratic model of a function around an anchor.

    Attributes:
      init: ``init(params) -> state``.
      update: ``update(grads, state, params, wanted, radius, **extra_args) -> (state, Sight)``: the
        state for a new anchor, where it is ``wanted`` and fine, else the old one. ``radius`` is 0
        at the first point.
      step: ``step(state, radius, like) -> ModelStep``, in the tree of ``like``.
    """

    init: Callable[[Any], Any]
    update: Callable[..., tuple[Any, Sight]]
    step: Callable[[Any, jax.Array, Any], ModelStep]


class Region(NamedTuple):
    """The trust region and the trial in it: scalars.

    Attributes:
      radius: Δ.
      decrease: what the model promises for the trial.
      slope: of the function along the step, at the anchor.
      length: of the step.
      answer: an `Answer` about the last trial.
    """

    radius: jax.Array
    decrease: jax.Array
    slope: jax.Array
    length: jax.Array
    answer: jax.Array


class TrustRegionState(NamedTuple):
    """State of `with_trust_region`.

    Attributes:
      trial: the `Trial` record; its anchor is the last accepted point.
      model_state: that of the model at the anchor.
      step: from the anchor to the current trial, the tree of the parameters.
      region: scalars.
      progress: scalars.
    """

    trial: Trial
    model_state: Any
    step: optax.Updates
    region: Region
    progress: Progress


def with_trust_region(
    model: Model, line_minimum: LineMinimum, *, leave_saddles: bool
) -> optax.GradientTransformationExtraArgs:
    """A trust region around the minimum of a model, in the ordinary Optax loop.

    With m the model at the anchor x and p its minimum within ‖p‖ <= Δ, the trial x + p is accepted
    if ρ = (f(x) - f(x + p)) / (-m(p)) > 10⁻⁴. The next radius is

        a tenth to a half of ‖p‖     of a rejected trial: where a line through both ends is least
        ‖p‖ / 2, ‖p‖                 ρ < 0.1, ρ < 0.25
        3 ‖p‖, 10 ‖p‖                ρ > 0.75, |ρ - 1| < 0.1, if Δ limited the step
        Δ                            otherwise

    with 3 ‖p‖ in place of 10 ‖p‖ right after a rejection. Where the values differ, and should, by
    no more than rounding (10 ε |f|, or `_judgement.noise`), the slopes tell more: f(x) - f(x + p)
    is then taken to be -(∇f(x) + ∇f(x + p)) · p / 2.

    Args:
      model: the `Model`.
      line_minimum: as `cubic_minimum`, of the function along a step, from both ends.
      leave_saddles: whether a small gradient at a saddle may not end the run.

    Returns:
      A transformation as `with_line_search` gives, with the same `Status`.
    """

    def init(params: optax.Params) -> TrustRegionState:
        _judgement.check_params(METHOD, params)
        zero, none = jnp.zeros((), _tree.scalar_dtype(params)), jnp.zeros((), jnp.int32)
        return jax.tree.map(
            jnp.copy,
            TrustRegionState(
                trial=first_trial(params),
                model_state=model.init(params),
                step=_tree.zeros_like(params),
                region=Region(zero, zero, zero, zero, none),
                progress=_judgement.first_progress(zero.dtype),
            ),
        )

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        value: Any = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, TrustRegionState]:
        trial = state.trial
        value, grads, params = _judgement.check_update(
            METHOD, value, updates, params, trial.anchor_params
        )
        running, first = trial.status == RUNNING, trial.num_evals == 0

        # What the trial came to.
        one = jnp.ones((), value.dtype)
        near = first | _judgement.is_placed(params, trial.anchor_params, state.step, one)
        grad_norm = _tree.max_abs(grads)
        heard = in_one_kernel(
            running & near,
            functools.partial(_hear, line_minimum),
            state.region,
            value,
            grad_norm,
            _tree.vdot(grads, state.step),
            trial.anchor_value,
            _judgement.noise(state.progress),
            first,
            _tree.every(lambda x, a: jnp.all(x == a), params, trial.anchor_params),
        )

        # A model of its own for a trial that was good enough; one that is not finite rejects it.
        passed = running & near & (heard.answer == ACCEPT)
        model_state, sight = model.update(
            grads, state.model_state, params, passed, heard.radius, value=value, **extra_args
        )
        move, refused = passed & sight.fine, passed & ~sight.fine
        answer = jnp.where(refused, TRY, heard.answer)
        radius = jnp.where(refused, SHRINKAGE[0] * state.region.length, heard.radius)
        radius = jnp.where(first, sight.reach, radius)
        radius = jnp.clip(radius, np.finfo(radius.dtype).tiny, farthest(radius.dtype))
        step, decrease, slope, length = model.step(model_state, radius, trial.anchor_params)
        saddle = jnp.where(move, sight.saddle, trial.saddle)
        may_stop = ~saddle if leave_saddles else jnp.ones((), bool)
        verdict = in_one_kernel(
            running,
            functools.partial(_judgement.judge, may_restart=False),
            _judgement.no_verdict(trial, state.progress),
            value,
            grad_norm,
            near,
            answer,
            ~refused,
            may_stop,
            saddle,
        )
        anchor_params = _tree.select(verdict.move, params, trial.anchor_params)
        anchor_grad = _tree.select(verdict.move, grads, trial.anchor_grad)
        going = verdict.status == RUNNING
        steps = jax.tree.map(
            lambda a, p, x: a + jnp.where(going, p, 0) - x, anchor_params, step, params
        )
        return steps, TrustRegionState(
            trial=_judgement.next_trial(trial, verdict, anchor_params, anchor_grad)._replace(
                may_stop=may_stop,
                saddle=saddle,
                gain=jnp.where(move, jnp.where(saddle, 0, decrease), trial.gain),
            ),
            model_state=model_state,
            step=step,
            region=Region(
                radius=radius,
                decrease=decrease,
                slope=slope,
                length=length,
                answer=answer,
            ),
            progress=verdict.progress,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def farthest(dtype: Any) -> Any:
    """The largest radius, whose square is still finite."""
    return np.sqrt(np.finfo(dtype).max) / 8


def _hear(
    line_minimum: LineMinimum,
    old: Region,
    value: jax.Array,
    grad_norm: jax.Array,
    slope: jax.Array,
    anchor_value: jax.Array,
    noise: jax.Array,
    first: jax.Array,
    same: jax.Array,
) -> Region:
    """The answer about a trial, and the radius that follows from it.

    ``same`` says that the step has fallen below rounding: the trial is the anchor.
    """
    finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)
    floor = jnp.maximum(NOISE * np.finfo(value.dtype).eps * jnp.abs(anchor_value), noise)
    reduction = anchor_value - value
    level = (jnp.abs(reduction) <= floor) & (old.decrease <= floor)
    reduction = jnp.where(level, -(old.slope + slope) / 2, reduction)
    fulfilled = finite & (old.decrease > 0)
    ratio = jnp.where(fulfilled, reduction, -1) / jnp.where(fulfilled, old.decrease, 1)
    zero, one = jnp.zeros_like(value), jnp.ones_like(value)
    shrunk = line_minimum(zero, anchor_value, old.slope, one, value, slope)
    shrunk = jnp.where(jnp.isfinite(shrunk), shrunk, UNKNOWN)
    shrunk = jnp.clip(jnp.where(finite, shrunk, 0), *SHRINKAGE) * old.length
    trusted = (jnp.abs(ratio - 1) < PERFECT) & (old.answer == ACCEPT)
    grown = jnp.where(trusted, LEAP, GROWTH) * old.length
    limited = old.length > AT_BOUNDARY * old.radius
    radius = jnp.where((ratio > GOOD) & limited, jnp.maximum(old.radius, grown), old.radius)
    radius = jnp.where(ratio < POOR, old.length, radius)
    radius = jnp.where(ratio < BAD, old.length / 2, radius)
    radius = jnp.where(ratio > ENOUGH, radius, shrunk)
    answer = jnp.where(ratio > ENOUGH, ACCEPT, jnp.where(same, FAIL, TRY))
    return Region(
        radius=radius,
        decrease=old.decrease,
        slope=old.slope,
        length=old.length,
        answer=jnp.where(first, jnp.where(finite, ACCEPT, FAIL), answer),
    )
