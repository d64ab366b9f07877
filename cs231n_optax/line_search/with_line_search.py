"""The combinator that makes a direction globally convergent, one evaluation an update.

Each update hears the value and the gradient at the current trial point, and answers whether it
was good enough. If so, it becomes the anchor, the direction gives a new line from there, and the
parameters go to the line's first trial; if not, they go to the next trial on the same line.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cs231n_optax import _checks, _judgement, _tree
from cs231n_optax._judgement import RUNNING, Progress, Verdict
from cs231n_optax._lanes import in_one_kernel
from cs231n_optax._trial import Trial, first_trial
from cs231n_optax.line_search.search import Search
from cs231n_optax.line_search.wolfe import wolfe

METHOD = "a line search"


class LineSearchState(NamedTuple):
    """State of `with_line_search`.

    Attributes:
      trial: the `Trial` record; its anchor is the last accepted point.
      direction_state: that of the direction.
      direction: the line from the anchor, the tree of the parameters; the current trial is
        anchor + search.step · direction.
      search: the state of the search along it.
      progress: scalars.
    """

    trial: Trial
    direction_state: optax.OptState
    direction: optax.Updates
    search: Any
    progress: Progress


def with_line_search(
    direction: optax.GradientTransformation,
    search: Search = wolfe(),  # noqa: B008
    *,
    unit_step: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """A line search along a direction, in the ordinary Optax loop.

        x ← x - t u,        u from the direction, t > 0 from the search

    ``update(grads, state, params, value=...)`` takes the value and the gradient at ``params``,
    which the loop has just computed, and nothing else: no objective, no inner loop. The
    parameters in hand are a trial point, which may be rejected; `accepted_params` gives the last
    accepted point, `accepted` whether the last update accepted one, and `status` how it stands:

    - RUNNING;
    - CONVERGED, if a gradient was exactly zero (`minimize` also sets it, by its tolerance);
    - STALLED, if a search failed along steepest descent, too, with values equal to the anchor's
      to rounding; or if 20 accepted steps in a row improved neither the best value nor the best
      gradient so far;
    - FAILED, if the first value was not finite, or such searches failed for another reason;
    - MISPLACED, if the parameters given to ``update`` are not where the last update sent them,
      five times in a row: something after this transformation changes the updates.

    All but RUNNING are final: the parameters go back to the last accepted point, and stay.

    A value or slope that is not finite is a rejection and shortens the step. A direction that
    does not descend is replaced by steepest descent. When a search fails, the direction's state
    is made anew and steepest descent is searched from the same point.

    Args:
      direction: a transformation from gradients to a direction of ascent, as Optax's
        ``scale_by_*``: ``optax.identity()`` for gradient descent, `scale_by_lbfgs`,
        `scale_by_bfgs`. What shapes the gradient (clipping, weight decay) goes in here or into
        the loss. It is updated on accepted points only, and may take the keywords ``accept``
        and ``restart``, bool scalars, if its state selects itself.
      search: `wolfe` or `backtracking`.
      unit_step: whether the direction has a length of its own, as Newton's and its like have:
        then each search tries t = 1 first. Else the first trial would repeat the decrease of the
        last step, were the function linear.

    Returns:
      A transformation from gradients to the step to be added to the parameters. Nothing may
      change the updates after it, and a mini-batch has to stay the same until `accepted` is
      True. Memory: three times the parameters, and the direction's.

    Raises:
      TypeError: if ``direction`` is no transformation, ``search`` no search, or ``unit_step`` no
        Python bool; from ``init``, if a parameter is narrower than float32 or not floating; from
        ``update``, if ``value`` is missing or no real scalar, or a leaf no array.
      ValueError: from ``update``, if ``params`` are missing, or the trees, shapes or dtypes are not
        those given to ``init``.

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
      chapter 3; eq. 3.60 for the first trial. Reverse communication: B. M. Averick and J. J.
      Moré, "User guide for the MINPACK-2 test problem collection", 1991.

    Differs from:
      ``optax.lbfgs`` and ``optax.scale_by_zoom_linesearch``, whose ``update`` evaluates the
      objective itself, as often as the search needs it; under vmap every lane then waits for the
      slowest search. Loops written for them run unchanged: ``grad`` and ``value_fn`` are taken
      and handed to the direction.
    """
    inner = optax.with_extra_args_support(_checks.transformation("direction", direction))
    if not isinstance(search, Search):
        raise TypeError(f"search must be wolfe(...) or backtracking(...), got {search!r}")
    unit_step = _checks.static_bool("unit_step", unit_step)

    def init(params: optax.Params) -> LineSearchState:
        _judgement.check_params(METHOD, params)
        zero = jnp.zeros((), _tree.scalar_dtype(params))
        return jax.tree.map(
            jnp.copy,
            LineSearchState(
                trial=first_trial(params),
                direction_state=inner.init(params),
                direction=_tree.zeros_like(params),
                search=search.init(zero, zero, zero),
                progress=_judgement.first_progress(zero.dtype),
            ),
        )

    def aim(
        old: Any, verdict: Verdict, slope: jax.Array, max_step: jax.Array, steepest: jax.Array
    ) -> Any:
        """A search along a new line.

        Along the steepest descent, scaled to a largest element of 1, the very first trial is as
        far as the gradient's direction of length 1, and one after a failure no farther than the
        gradient.
        """
        del old
        decrease, fall = verdict.decrease, jnp.maximum(-slope, _checks.SMALLEST_NORMAL)
        length = jnp.sqrt(verdict.grad_norm / fall)
        length = jnp.where(verdict.restart, jnp.minimum(verdict.grad_norm, length), length)
        if unit_step:
            step = jnp.where(steepest, length, 1)
        else:
            step = jnp.where(decrease > 0, 2.02 * decrease / fall, length)
        noise = _judgement.noise(verdict.progress)
        return search.init(verdict.value, slope, jnp.minimum(step, max_step), noise)

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        value: Any = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, LineSearchState]:
        trial, step = state.trial, state.search.step
        value, grads, params = _judgement.check_update(
            METHOD, value, updates, params, trial.anchor_params
        )
        running = trial.status == RUNNING

        # What the trial came to.
        near = _judgement.is_placed(params, trial.anchor_params, state.direction, step)
        slope = _tree.vdot(grads, state.direction)
        heard = in_one_kernel(running & near, search.step, state.search, value, slope)
        verdict = in_one_kernel(
            running,
            functools.partial(_judgement.judge, may_restart=True),
            _judgement.no_verdict(trial, state.progress),
            value,
            _tree.max_abs(grads),
            near,
            heard.answer,
            jnp.ones((), bool),
            trial.may_stop,
            trial.saddle,
        )
        accept, restart, turn = verdict.accept, verdict.restart, verdict.turn

        # A new line from the new anchor, or steepest descent from the old one.
        anchor_params = _tree.select(verdict.move, params, trial.anchor_params)
        anchor_grad = _tree.select(verdict.move, grads, trial.anchor_grad)
        direction_state = _tree.select(~restart, state.direction_state, inner.init(anchor_params))
        ascent, new_direction_state = inner.update(
            anchor_grad,
            direction_state,
            anchor_params,
            value=verdict.value,
            accept=accept,
            restart=restart,
            **extra_args,
        )
        ascent_slope = _tree.vdot(anchor_grad, ascent)
        begins = (verdict.num_evals == 1) & (state.progress.best_grad_norm == 0)
        steepest = begins | restart | ~_is_positive(ascent_slope)
        scale = -1 / jnp.maximum(verdict.grad_norm, _checks.SMALLEST_NORMAL)

        def new_line(g: jax.Array, u: jax.Array, d: jax.Array) -> jax.Array:
            return jnp.where(turn, jnp.where(steepest, g * _tree.cast(scale, g.dtype), -u), d)

        line = jax.tree.map(new_line, anchor_grad, ascent, state.direction)
        # From a trial √max of the dtype away one can still come back by adding.
        max_step = np.sqrt(np.finfo(step.dtype).max) / jnp.maximum(_tree.max_abs(line), 1)
        aimed = in_one_kernel(
            turn, aim, heard, verdict, _tree.vdot(anchor_grad, line), max_step, steepest
        )
        aimed = aimed._replace(step=jnp.minimum(aimed.step, max_step))
        to_go = jnp.where(verdict.status == RUNNING, aimed.step, 0)
        steps = jax.tree.map(
            lambda a, d, x: a + _tree.cast(to_go, d.dtype) * d - x, anchor_params, line, params
        )
        return steps, LineSearchState(
            trial=_judgement.next_trial(trial, verdict, anchor_params, anchor_grad),
            direction_state=_tree.select(turn, new_direction_state, direction_state),
            direction=line,
            search=aimed,
            progress=verdict.progress,
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _is_positive(x: jax.Array) -> jax.Array:
    return (x > 0) & jnp.isfinite(x)
