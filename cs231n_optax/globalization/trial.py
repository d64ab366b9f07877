"""The record of a trial point, kept by every transformation that may reject one.

A line search or a trust region moves the parameters to a trial point and decides at the next
update, from the value and gradient there, whether to accept it. The last accepted point is the
anchor. The accessors find the record anywhere in a state: chained, injected, wrapped.
"""

import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cs231n_optax import _checks, _tree


class Status(enum.IntEnum):
    """The status of a run. All but RUNNING are final."""

    def __new__(cls, value: int, doc: str) -> "Status":
        member = int.__new__(cls, value)
        member._value_ = value
        member.__doc__ = doc
        return member

    RUNNING = 0, "the run has not ended."
    CONVERGED = 1, "the gradient is zero, or within the tolerance."
    STALLED = 2, "rounding errors prevent a further decrease."
    FAILED = 3, "a value or gradient was not finite, or no step decreases the value."
    BUDGET = 4, "`minimize` has used up its evaluations."
    SADDLE = 5, "the gradient is small, and the curvature negative in some direction."
    MISPLACED = 6, "the parameters were not where the last update sent them."
    UNBOUNDED = 7, "the value falls without limit: the function seems to have no lower bound."
    STOPPED = 8, "the callback of `minimize` asked for the end."


# For help(Status), which shows no documentation of a member.
Status.__doc__ = "\n".join(
    [f"{Status.__doc__}\n", *(f"- {status.name}: {status.__doc__}" for status in Status)]
)

RUNNING, CONVERGED, STALLED, FAILED, BUDGET, SADDLE, MISPLACED, UNBOUNDED, STOPPED = map(
    np.int32, Status
)


class Progress(NamedTuple):
    """Scalars that `decide` keeps from one update to the next.

    Attributes:
      has_stepped: bool, whether a step has been proposed since ``init``.
      restarted: bool, whether the search has been restarted at the current anchor.
      reissues: int32, how often the current trial has been issued again.
      idle_steps: int32, accepted steps since the best value or gradient last improved.
      start_value: |f| at the first point.
      start_grad_norm: ‖∇f‖∞ at the first point.
      fell: bool, whether a value was -∞ since the best value or gradient last improved.
      noise_allowance: the last decreases, each halved at every accepted step since; the largest.
        It bounds the rises of the value that count as noise, see `noise`.
      best_value, best_grad_norm: the least of all accepted points.
    """

    has_stepped: jax.Array
    restarted: jax.Array
    reissues: jax.Array
    idle_steps: jax.Array
    start_value: jax.Array
    start_grad_norm: jax.Array
    fell: jax.Array
    noise_allowance: jax.Array
    best_value: jax.Array
    best_grad_norm: jax.Array


class Trial(NamedTuple):
    """The anchor, and the status of the run.

    Attributes:
      anchor_params: the last accepted point, the tree of the parameters.
      grad: the gradient there, the tree of the parameters.
      value: scalar, always infinite: so `optax.value_and_grad_from_state`, which takes a finite
        value and the ``grad`` beside it for those at the next point, evaluates that point.
      anchor_value: scalar, the objective at the anchor.
      grad_norm: scalar, the largest |element| of the gradient there.
      accepted: bool scalar, whether the last update accepted its point.
      may_stop: bool scalar, whether a small gradient at the anchor may end the run.
      saddle: bool scalar, whether negative curvature is known at the anchor, so that a small
        gradient does not mean a minimum.
      predicted_decrease: scalar, the predicted further decrease of the value; 0 if unknown.
      status: int32 scalar, a `Status`.
      num_evals: int32 scalar, evaluations of the value and gradient in this run.
      progress: see `Progress`.
    """

    anchor_params: optax.Params
    grad: optax.Updates
    value: jax.Array
    anchor_value: jax.Array
    grad_norm: jax.Array
    accepted: jax.Array
    may_stop: jax.Array
    saddle: jax.Array
    predicted_decrease: jax.Array
    status: jax.Array
    num_evals: jax.Array
    progress: Progress


def first_trial(params: optax.Params) -> Trial:
    """The record before the first update, in buffers of its own."""
    dtype = _tree.scalar_dtype(params)

    def zero(dtype: Any = dtype) -> jax.Array:
        return jnp.zeros((), dtype)

    return Trial(
        anchor_params=_tree.copy(params),
        grad=_tree.zeros_like(params),
        value=jnp.full((), jnp.inf, dtype),
        anchor_value=zero(),
        grad_norm=zero(),
        accepted=zero(bool),
        may_stop=jnp.ones((), bool),
        saddle=zero(bool),
        predicted_decrease=zero(),
        status=zero(jnp.int32),
        num_evals=zero(jnp.int32),
        progress=Progress(
            has_stepped=zero(bool),
            restarted=zero(bool),
            reissues=zero(jnp.int32),
            idle_steps=zero(jnp.int32),
            start_value=zero(),
            start_grad_norm=zero(),
            fell=zero(bool),
            noise_allowance=zero(),
            best_value=zero(),
            best_grad_norm=zero(),
        ),
    )


def next_count(old: Any, trial: Trial) -> jax.Array:
    """The number of updates, int32; the largest int32 if one has ended the run.

    Loops written for Optax's L-BFGS end when this reaches a limit. A run that has ended may have a
    gradient above their tolerance, and its state stays as it is.

    Args:
      old: the state before an update, with ``count`` and ``trial``.
      trial: the record after it.
    """
    count = jnp.where(trial.status == RUNNING, optax.safe_increment(old.count), _checks.MAX_INT)
    return jnp.where(old.trial.status == RUNNING, count, old.count)


def scalars_of(trial: Trial) -> Trial:
    """The record without its two trees, for `fused_if`."""
    return trial._replace(anchor_params=None, grad=None)


def find_trial(state: optax.OptState) -> Trial | None:
    """The trial record in a state, or None.

    Raises:
      ValueError: if there are several, since two searches can't both move the parameters.
    """
    found = _tree.find(state, Trial)
    if len(found) > 1:
        raise ValueError(f"the state holds {len(found)} trial records, expected at most 1")
    return found[0] if found else None


def accepted_params(state: Any, params: Any = None) -> Any:
    """The last accepted point: the answer so far of a method that rejects trial points.

    The parameters of the loop may be a trial point that will be rejected.

    Args:
      state: a state of `with_line_search`, or any state that contains one.
      params: the parameters of the loop, for a method inside ``optax.partition``, whose state
        knows only the leaves that it moves: the others are taken from here.

    Returns:
      The point, with the tree, shapes and dtypes of the parameters; before the first update, the
      parameters given to ``init``. Without ``params``, `optax.MaskedNode` for leaves that the
      method does not know.

    Raises:
      ValueError: if the state holds no trial record, or several, or ``params`` are of another tree.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp
      >>> tx = cs231n_optax.lbfgs()
      >>> state = tx.init(jnp.ones(2))
      >>> print(cs231n_optax.accepted_params(state))
      [1. 1.]
    """
    anchor = _require_trial(state).anchor_params
    if params is None:
        return anchor
    try:
        return _tree.fill(anchor, _tree.plain(params))
    except ValueError as error:
        raise ValueError(f"params are not of the tree of the state: {error}") from None


def accepted(state: Any) -> jax.Array:
    """Whether the last update accepted its point, a bool scalar.

    Args:
      state: of any transformation. One without a trial record accepts every point. One with a
        record has accepted none before its first update.

    Raises:
      ValueError: if the state holds several trial records.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp
      >>> print(cs231n_optax.accepted(cs231n_optax.sgd(0.1).init(jnp.ones(2))))
      True
    """
    trial = find_trial(state)
    return jnp.array(True) if trial is None else trial.accepted


def accepted_grad_norm(state: Any) -> jax.Array:
    """The largest modulus of the gradient's elements at the last accepted point, a scalar.

    `minimize` compares it with its tolerance.

    Args:
      state: a state of `with_line_search`, or any state that contains one.

    Returns:
      The norm; infinite before the first update. At a first point that is not finite, it may be
      NaN.

    Raises:
      ValueError: if the state holds no trial record, or several.

    Example:
      >>> import cs231n_optax, jax, jax.numpy as jnp, optax
      >>> def loss(x): return jnp.sum(jnp.cosh(x - 3.0))
      >>> tx, params = cs231n_optax.lbfgs(), jnp.zeros(2)
      >>> state, update = tx.init(params), jax.jit(tx.update)
      >>> while cs231n_optax.accepted_grad_norm(state) > 1e-3:
      ...     value, grads = jax.value_and_grad(loss)(params)
      ...     updates, state = update(grads, state, params, value=value)
      ...     params = optax.apply_updates(params, updates)
      >>> print(cs231n_optax.accepted_params(state).round(1))
      [3. 3.]
    """
    trial = _require_trial(state)
    return jnp.where(trial.num_evals == 0, jnp.inf, trial.grad_norm)


def status(state: Any) -> jax.Array:
    """The `Status` of a run, an int32 scalar.

    Args:
      state: a state of `with_line_search`, or any state that contains one.

    Raises:
      ValueError: if the state holds no trial record, or several.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp
      >>> state = cs231n_optax.lbfgs().init(jnp.ones(2))
      >>> cs231n_optax.Status(int(cs231n_optax.status(state)))
      <Status.RUNNING: 0>
    """
    return _require_trial(state).status


def _require_trial(state: Any) -> Trial:
    trial = find_trial(state)
    if trial is None:
        raise ValueError("the state holds no trial record: its method accepts every point")
    return trial


def with_status(state: Any, status: jax.Array) -> Any:
    """The state with another status in its trial record."""
    return _map_trials(lambda trial: trial._replace(status=status), state)


def reset_run(state: Any) -> Any:
    """Reset ``status`` and ``num_evals`` for a run from a new point; keep all else."""
    return _map_trials(
        lambda trial: trial._replace(
            status=jnp.zeros_like(trial.status), num_evals=jnp.zeros_like(trial.num_evals)
        ),
        state,
    )


def _map_trials(change: Callable[[Trial], Trial], state: Any) -> Any:
    def is_trial(node: Any) -> bool:
        return isinstance(node, Trial)

    return jax.tree.map(
        lambda node: change(node) if is_trial(node) else node, state, is_leaf=is_trial
    )


class AlwaysAcceptingState(NamedTuple):
    """State of `always_accepting`: the record, and the state of the transformation."""

    trial: Trial
    inner: optax.OptState


def always_accepting(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """Give a trial record to a transformation that has none: it accepts every finite point.

    The anchor is the point of the last finite value and gradient, or the first point. If a value
    or gradient is not finite, or the status is final, the update returns to the anchor.
    """
    inner = optax.with_extra_args_support(tx)

    def init(params: optax.Params) -> AlwaysAcceptingState:
        return AlwaysAcceptingState(first_trial(params), inner.init(params))

    def update(
        updates: optax.Updates,
        state: Any,
        params: Any = None,
        *,
        value: Any = None,
        tolerance: Any = None,
        **extra_args: Any,
    ) -> tuple[optax.Updates, AlwaysAcceptingState]:
        del tolerance  # Optax's line searches refuse this keyword
        _checks.own_state("minimize", state, AlwaysAcceptingState)
        old = state.trial
        grad_norm = _tree.max_abs(updates).astype(old.grad_norm.dtype)
        running = old.status == RUNNING
        is_finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)
        accept = running & is_finite
        here = old._replace(
            anchor_params=params,
            grad=updates,
            anchor_value=jnp.asarray(value).astype(old.anchor_value.dtype),
            grad_norm=grad_norm,
            progress=old.progress._replace(
                start_grad_norm=jnp.where(
                    old.num_evals == 0, grad_norm, old.progress.start_grad_norm
                )
            ),
        )
        trial = _tree.select(accept | (old.num_evals == 0), here, old)
        trial = trial._replace(
            accepted=jnp.where(running, accept, old.accepted),
            status=jnp.where(running & ~is_finite, FAILED, old.status),
            num_evals=jnp.where(running, optax.safe_increment(old.num_evals), old.num_evals),
        )
        steps, inner_state = inner.update(updates, state.inner, params, value=value, **extra_args)
        back = jax.tree.map(jnp.subtract, trial.anchor_params, params)
        return _tree.select(accept, steps, back), AlwaysAcceptingState(
            trial, _tree.select(accept, inner_state, state.inner)
        )

    return optax.GradientTransformationExtraArgs(init, update)
