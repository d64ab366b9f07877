"""A line search for any direction, with one evaluation an update.

Each update takes the value and gradient at the trial point and accepts or rejects it. If it is
accepted, it becomes the anchor, the direction gives a new line from there, and the update moves to
the first trial on that line. If not, the update moves to the next trial on the same line.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cs231n_optax import _checks, _tree
from cs231n_optax._batching import fused_if
from cs231n_optax._eager import compiled_when_eager
from cs231n_optax.globalization.acceptance import (
    Answer,
    Decision,
    Evaluation,
    check_evaluation,
    decide,
    has_converged,
    noise,
)
from cs231n_optax.globalization.search import Search
from cs231n_optax.globalization.trial import (
    CONVERGED,
    RUNNING,
    Trial,
    first_trial,
    next_count,
    scalars_of,
)
from cs231n_optax.globalization.wolfe import wolfe

METHOD = "a line search"
SHORTEST_FIRST, LONGEST_FIRST = 1e-3, 1e2  # bounds on a step along -g, relative to the parameters
LEAP = 100.0  # growth of a step that changes nothing
MIN_ULPS = 300  # by which a step after a failed search moves a parameter


class LineSearchState(NamedTuple):
    """State of `with_line_search`.

    Attributes:
      count: int32, see `next_count`.
      trial: the `Trial` record; its anchor is the last accepted point.
      direction_state: the state of the direction.
      direction: d, the line from the anchor, the tree of the parameters. The current trial point is
        anchor + search_state.step · d.
      search_state: the state of the search along it.
    """

    count: jax.Array
    trial: Trial
    direction_state: optax.OptState
    direction: optax.Updates
    search_state: Any


class Outlook(NamedTuple):
    """What a new direction says about the anchor: fields of the `Trial`."""

    predicted_decrease: jax.Array
    status: jax.Array


class Line(NamedTuple):
    """A line from the anchor.

    Attributes:
      direction: d, the tree of the parameters.
      direction_state: the state of the direction.
      is_steepest: bool scalar, whether d is steepest descent, scaled to a largest element of 1.
    """

    direction: optax.Updates
    direction_state: optax.OptState
    is_steepest: jax.Array


def with_line_search(
    direction: optax.GradientTransformation,
    search: Search = wolfe(),  # noqa: B008
    *,
    unit_step: bool = False,
    tol: jax.typing.ArrayLike = 0.0,
    atol: jax.typing.ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Add a line search to a direction, in the ordinary Optax loop.

        x ← x - t u,        u from the direction, t > 0 from the search

    ``update(grads, state, params, value=...)`` takes the value and the gradient at ``params``,
    which the loop has just computed. It needs no objective and has no inner loop. The parameters
    of the loop are a trial point, which may be rejected. `accepted_params` gives the last accepted
    point, `accepted` tells whether the last update accepted its point, and `status` is one of

    - RUNNING;
    - CONVERGED: the gradient is zero, or within the tolerance;
    - STALLED: a search along steepest descent has failed too, with values equal to the anchor's
      up to rounding; or 20 accepted steps in a row improved neither the best value nor the best
      gradient;
    - FAILED: the first value was not finite, or both searches failed for another reason;
    - UNBOUNDED: the value still falls at the longest step possible, or as far as it is not -∞. The
      last accepted point is the lowest one that was evaluated on that line;
    - MISPLACED: five times in a row the parameters given to ``update`` were not where the last
      update sent them, because something after this transformation changes the updates.

    All but RUNNING are final: the parameters return to the last accepted point and stay there.

    A point where the value or slope is not finite is rejected, and the step shrinks. A direction
    that is not a descent direction is replaced by steepest descent. When a search fails, the
    direction's state is reset, and steepest descent is searched from the same anchor.

    Args:
      direction: a transformation from gradients to a direction of ascent, as Optax's
        ``scale_by_*``: ``optax.identity()`` for gradient descent, `scale_by_lbfgs`,
        `scale_by_bfgs`. It decides where the search goes, but not where it ends: the minimum is
        that of the value, so weight decay has an effect in the loss only. It is updated at accepted
        points only. If its state has ``handles_accept``, it takes the keywords ``accept`` and
        ``restart``, bool scalars.
      search: `wolfe` or `backtracking`.
      unit_step: whether the direction is scaled, as the directions of Newton's and quasi-Newton
        methods are. Then each search tries t = 1 first. Otherwise the first trial is the minimum
        of the parabola that would repeat the last decrease, 2 (f - f_last) / φ′(0). The very first
        trial has the length 1, within 10⁻³ to 10² times the largest modulus of a parameter.
      tol: relative tolerance: the run ends CONVERGED at an accepted point x with
        ‖∇f(x)‖∞ <= atol + tol · max(1, ‖∇f(x₀)‖∞). With ``unit_step`` the predicted decrease,
        g·u / 2, must be at most ``10 (tol + atol / max(1, ‖∇f(x₀)‖∞)) (1 + |f(x)|)``, too. Both
        >= 0, numbers or scalar arrays (may be traced). With both 0, only a zero gradient ends it.
      atol: absolute tolerance, see ``tol``.

    Returns:
      A transformation from gradients to the step to be added to the parameters. Nothing may
      change the updates after it, and a mini-batch has to stay the same until `accepted` is
      True. Memory: three times the parameters, and the direction's.

    Raises:
      TypeError: for an argument of another type; from ``init``, if a parameter is narrower than
        float32 or not floating; from ``update``, if ``value`` is missing or not a real scalar.
      ValueError: if ``tol`` or ``atol`` is negative; from ``update``, if ``params`` are missing, or
        trees, shapes or dtypes differ from those given to ``init``.

    Example:
      >>> import cs231n_optax, jax, jax.numpy as jnp, numpy as np, optax
      >>> def loss(x): return jnp.sum((x - 3.0) ** 2 * jnp.array([1.0, 10.0]))
      >>> tx = cs231n_optax.with_line_search(optax.identity())
      >>> params = jnp.zeros(2)
      >>> state = tx.init(params)
      >>> for _ in range(40):
      ...     value, grads = jax.value_and_grad(loss)(params)
      ...     updates, state = tx.update(grads, state, params, value=value)
      ...     params = optax.apply_updates(params, updates)
      >>> print(np.asarray(cs231n_optax.accepted_params(state)).round(2))
      [3. 3.]

    Source:
      Lecture 7-1-9 and 7-1-10. J. Nocedal and S. Wright, "Numerical Optimization", 2nd ed., 2006,
      chapter 3. Reverse communication: B. M. Averick and J. J. Moré, "User guide for the MINPACK-2
      test problem collection", 1991.

    Differs from:
      ``optax.lbfgs`` and ``optax.scale_by_zoom_linesearch``, whose ``update`` evaluates the
      objective itself, as often as the search needs it. Under vmap all batch elements then wait
      for the slowest search. Loops written for them run unchanged, with
      ``optax.value_and_grad_from_state`` and the fields ``count`` and ``grad`` of the state, too:
      every point is evaluated anew, and the keywords ``grad`` and ``value_fn`` are passed on to the
      direction.
    """
    inner = optax.with_extra_args_support(_checks.transformation("direction", direction))
    _checks.instance("search", search, Search, "wolfe(...) or backtracking(...)")
    unit_step = _checks.static_bool("unit_step", unit_step)
    tol, atol = _checks.nonnegative("tol", tol), _checks.nonnegative("atol", atol)

    def init(params: optax.Params) -> LineSearchState:
        _checks.trial_params(METHOD, params)
        zero = jnp.zeros((), _tree.scalar_dtype(params))
        state = LineSearchState(
            count=jnp.zeros((), jnp.int32),
            trial=first_trial(params),
            direction_state=inner.init(params),
            direction=_tree.zeros_like(params),
            search_state=search.init(zero, zero, zero),
        )
        return jax.tree.map(jnp.copy, state)  # no two fields share a buffer

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        value: Any = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, LineSearchState]:
        # 1. Check the input: the value and gradient at the trial point.
        _checks.own_state(METHOD, state, LineSearchState)
        evaluation = check_evaluation(
            METHOD,
            updates,
            params,
            value,
            trial=state.trial,
            direction=state.direction,
            step=state.search_state.step,
        )
        # 2. Accept or reject the point, by the conditions of the search.
        search_state = _advance_search(search, state, evaluation)
        trial, decision = decide(state.trial, evaluation, search_state.answer, may_restart=True)
        # 3. Turn to a new direction from a new anchor, or keep the line.
        line = _turn(inner, state, trial, decision, extra_args=extra_args)
        # 4. Propose the next trial: the first on a new line, or the next on the old one.
        search_state, outlook = _propose(
            search,
            search_state,
            trial,
            decision,
            line=line,
            unit_step=unit_step,
            tol=tol,
            atol=atol,
        )
        trial = trial._replace(**outlook._asdict())
        steps = _step_to_trial(trial, line.direction, search_state.step, evaluation.params)
        return steps, LineSearchState(
            count=next_count(state, trial),
            trial=trial,
            direction_state=line.direction_state,
            direction=line.direction,
            search_state=search_state,
        )

    return optax.GradientTransformationExtraArgs(init, compiled_when_eager(update))


def _advance_search(search: Search, state: LineSearchState, evaluation: Evaluation) -> Any:
    """The search after the evaluation at its step."""
    trial, value, slope = state.trial, evaluation.value, evaluation.slope

    def advance(old: Any) -> tuple[Any, None]:
        new = search.step(old, value, slope)
        # As long as the value has never decreased, its scale is unknown. Then a step that changes
        # neither the value nor the gradient is no failure, but too short.
        unchanged = (value == trial.anchor_value) & (evaluation.grad_norm == trial.grad_norm)
        is_short = unchanged & (old.step < np.sqrt(np.finfo(old.step.dtype).max) / LEAP)
        too_short = is_short & (trial.progress.noise_allowance == 0) & (new.answer == Answer.FAIL)
        return new._replace(
            step=jnp.where(too_short, LEAP * old.step, new.step),
            answer=jnp.where(too_short, jnp.int32(Answer.TRY), new.answer),
        ), None

    search_state, _ = fused_if(
        (trial.status == RUNNING) & evaluation.at_trial_point, advance, state.search_state
    )
    return search_state


def _turn(
    inner: optax.GradientTransformationExtraArgs,
    state: LineSearchState,
    trial: Trial,
    decision: Decision,
    *,
    extra_args: dict[str, Any],
) -> Line:
    """The line to search next: a new one if the decision needs a direction, else the old one."""
    # Update the direction. A restart resets its state first; a state with handles_accept passes
    # the select unchanged and is told by the keyword.
    restart, needs_direction = decision.restart, decision.needs_direction
    fresh_state = inner.init(trial.anchor_params)
    _checks.direction_state(METHOD, state.direction_state, fresh_state)
    direction_state = _tree.select(~restart, state.direction_state, fresh_state)
    ascent, new_direction_state = inner.update(
        trial.grad,
        direction_state,
        trial.anchor_params,
        value=trial.anchor_value,
        accept=decision.accept,
        restart=restart,
        **extra_args,
    )

    # Steepest descent is searched at the start, after a failure, and instead of a direction that
    # is not a descent direction. It is scaled to a largest element of 1.
    slope = _tree.vdot(trial.grad, ascent)
    descends = (slope > 0) & jnp.isfinite(slope)
    is_steepest = decision.is_start | restart | ~descends
    scale = -1 / jnp.maximum(trial.grad_norm, _tree.narrowest(trial.grad).tiny)

    def leaf(g: jax.Array, u: jax.Array, d: jax.Array) -> jax.Array:
        new = jnp.where(is_steepest, g * _tree.cast(scale, g.dtype), -u)
        return jnp.where(needs_direction, new, d)

    return Line(
        direction=jax.tree.map(leaf, trial.grad, ascent, state.direction),
        direction_state=_tree.select(needs_direction, new_direction_state, direction_state),
        is_steepest=is_steepest,
    )


def _propose(
    search: Search,
    search_state: Any,
    trial: Trial,
    decision: Decision,
    *,
    line: Line,
    unit_step: bool,
    tol: jax.typing.ArrayLike,
    atol: jax.typing.ArrayLike,
) -> tuple[Any, Outlook]:
    """The search with its next step: restarted on a new line, or as it is.

    With a new direction comes the prediction of the model behind it, and whether the run ends.
    """
    slope, size, length = _tree.one_pass(
        vdots=((trial.grad, line.direction),), maxima=(trial.anchor_params, line.direction)
    )
    info = _tree.narrowest(line.direction)
    # A trial point much farther away could not be left again by adding an update.
    longest = jnp.clip(LONGEST_FIRST * size, np.sqrt(info.max), info.max / 8)
    max_step = longest / jnp.maximum(length, info.tiny)
    max_step = jnp.minimum(max_step, info.max)

    def start_search(record: tuple[Any, Outlook]) -> tuple[tuple[Any, Outlook], None]:
        old, _ = record
        # Along d = -g / ‖g‖∞ this t is ‖g‖∞ / ‖g‖₂, so that the step has the length 1, unless the
        # parameters are of another order of magnitude.
        descent = jnp.maximum(-slope, info.tiny)
        step = jnp.sqrt(trial.grad_norm / descent)
        at_most = jnp.where(size > 0, LONGEST_FIRST * size, jnp.inf)
        step = jnp.clip(step, SHORTEST_FIRST * size, at_most)
        # After a failure it is no longer than the gradient. As long as the value has never
        # decreased, it is shorter by as much as the failed search was, but long enough to move the
        # parameters.
        shorter = jnp.minimum(trial.grad_norm, step)
        moving = jnp.minimum(shorter, jnp.minimum(old.step, 1) * step)
        moving = jnp.maximum(moving, MIN_ULPS * info.eps * size)
        shorter = jnp.where(trial.progress.noise_allowance == 0, moving, shorter)
        step = jnp.where(decision.restart, shorter, step)
        if unit_step:
            step = jnp.where(line.is_steepest, step, 1)
        else:
            # Nocedal and Wright, eq. 3.60, times 1.01, without their bound of 1 on t, since d has
            # no natural length.
            by_decrease = 2.02 * decision.decrease / descent
            step = jnp.where(decision.decrease > 0, by_decrease, step)
        step = jnp.minimum(step, max_step)
        new = search.init(trial.anchor_value, slope, step, noise(trial.progress))

        # The model g·p + p·Bp / 2 of a quasi-Newton method decreases by -g·p / 2 at its minimum
        # p = -B⁻¹ g.
        predicted = jnp.where(line.is_steepest | (not unit_step), 0, -slope / 2)
        here = scalars_of(trial)._replace(predicted_decrease=predicted)
        status = jnp.where(has_converged(here, tol, atol), CONVERGED, trial.status)
        return (new, Outlook(predicted, status)), None

    outlook = Outlook(trial.predicted_decrease, trial.status)
    (search_state, outlook), _ = fused_if(
        decision.needs_direction, start_search, (search_state, outlook)
    )
    step = jnp.minimum(search_state.step, max_step)
    return search_state._replace(step=step), outlook


def _step_to_trial(trial: Trial, direction: Any, step: jax.Array, params: Any) -> optax.Updates:
    """The update from ``params`` to the trial point, or to the anchor of a run that has ended."""
    step = jnp.where(trial.status == RUNNING, step, 0)
    # As one expression, so that XLA rounds a + t d once.
    return jax.tree.map(
        lambda a, d, x: a + _tree.cast(step, d.dtype) * d - x,
        trial.anchor_params,
        direction,
        params,
    )
