"""The record of a trial point, for transformations that may reject one.

A line search or a trust region sends the parameters to a trial point and hears, at the next
update, whether it was good enough. Whoever drives such a transformation needs to know; the record
says it, wherever in a state it lies.
"""

import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cs231n_optax import _tree


class Status(enum.IntEnum):
    """How a run of trials stands. All but RUNNING are final."""

    RUNNING = 0
    CONVERGED = 1
    STALLED = 2
    FAILED = 3
    BUDGET = 4
    SADDLE = 5
    MISPLACED = 6


class Trial(NamedTuple):
    """What a transformation that rejects points keeps.

    Attributes:
      anchor_params: the last accepted point, the tree of the parameters.
      anchor_value: scalar, the objective there.
      anchor_grad: the gradient there, the tree of the parameters.
      grad_norm: scalar, the largest modulus of an element of it.
      accepted: bool scalar, whether the last update accepted the point that it was given.
      may_stop: bool scalar, whether a small gradient at the anchor may end the run.
      status: int32 scalar, a `Status`.
      num_evals: int32 scalar, value-and-gradient evaluations so far.
      saddle: bool scalar, whether the curvature there is known to be negative somewhere: then a
        small gradient does not mean a minimum.
      gain: scalar, by how much the method expects the value to fall yet; 0 if it can't say.
    """

    anchor_params: optax.Params
    anchor_value: jax.Array
    anchor_grad: optax.Updates
    grad_norm: jax.Array
    accepted: jax.Array
    may_stop: jax.Array
    status: jax.Array
    num_evals: jax.Array
    saddle: Any = np.False_
    gain: Any = np.float32(0)


def first_trial(params: optax.Params) -> Trial:
    """The record before the first update, with buffers of its own."""
    dtype = _tree.scalar_dtype(params)
    return Trial(
        anchor_params=_tree.copy(params),
        anchor_value=jnp.zeros((), dtype),
        anchor_grad=_tree.zeros_like(params),
        grad_norm=jnp.zeros((), dtype),
        accepted=jnp.zeros((), bool),
        may_stop=jnp.ones((), bool),
        saddle=jnp.zeros((), bool),
        gain=jnp.zeros((), dtype),
        status=jnp.zeros((), jnp.int32),
        num_evals=jnp.zeros((), jnp.int32),
    )


def find_trial(state: optax.OptState) -> Trial | None:
    """The trial record in a state, or None.

    Raises:
      ValueError: if there is more than one: two searches can't both steer the parameters.
    """
    found = _tree.find(state, Trial)
    if len(found) > 1:
        raise ValueError(f"the state holds {len(found)} trial records, expected at most 1")
    return found[0] if found else None


def accepted_params(state: Any) -> Any:
    """The last accepted point: of a method with a line search, the answer so far.

    The parameters of the loop may be a trial that will be rejected.

    Args:
      state: the state of `with_line_search`, or any that holds one (chained, injected, ...).

    Returns:
      The point, with the tree, shapes and dtypes of the parameters; before the first update, the
      parameters given to ``init``.

    Raises:
      ValueError: if the state holds no trial record, or more than one.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp
      >>> tx = cs231n_optax.lbfgs()
      >>> state = tx.init(jnp.ones(2))
      >>> print(cs231n_optax.accepted_params(state))
      [1. 1.]
    """
    return _need_trial(state).anchor_params


def accepted(state: Any) -> jax.Array:
    """Whether the last update accepted its point: a bool scalar.

    Args:
      state: of any transformation; one without a trial record accepts every point.

    Returns:
      Whether; before the first update of a method with trials, False.

    Raises:
      ValueError: if the state holds more than one trial record.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp
      >>> print(cs231n_optax.accepted(cs231n_optax.sgd(0.1).init(jnp.ones(2))))
      True
    """
    trial = find_trial(state)
    return jnp.array(True) if trial is None else trial.accepted


def status(state: Any) -> jax.Array:
    """How a run of trials stands.

    Args:
      state: the state of `with_line_search`, or any that holds one (chained, injected, ...).

    Returns:
      An int32 scalar, a `Status`.

    Raises:
      ValueError: if the state holds no trial record, or more than one.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp
      >>> state = cs231n_optax.lbfgs().init(jnp.ones(2))
      >>> cs231n_optax.Status(int(cs231n_optax.status(state)))
      <Status.RUNNING: 0>
    """
    return _need_trial(state).status


def _need_trial(state: Any) -> Trial:
    trial = find_trial(state)
    if trial is None:
        raise ValueError("the state holds no trial record: its method accepts every point")
    return trial


def with_status(state: Any, status: jax.Array) -> Any:
    """The state with another status in its trial record."""
    return _replace(state, lambda trial: trial._replace(status=status))


def begin_again(state: Any) -> Any:
    """The state, to run on from a new first point, with all that the direction has learnt."""
    return _replace(
        state,
        lambda trial: trial._replace(
            status=jnp.zeros_like(trial.status), num_evals=jnp.zeros_like(trial.num_evals)
        ),
    )


def _replace(state: Any, change: Callable[[Trial], Trial]) -> Any:
    return jax.tree.map(
        lambda node: change(node) if isinstance(node, Trial) else node,
        state,
        is_leaf=lambda node: isinstance(node, Trial),
    )


class AlwaysAcceptingState(NamedTuple):
    """State of `always_accepting`: the record and the transformation's own state."""

    trial: Trial
    inner: optax.OptState


def always_accepting(tx: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """A transformation without trials as one that accepts every finite point.

    The anchor is the point at which the last finite value and gradient were evaluated (or the
    first, whatever it is). A value or a gradient that is not finite, or a final status, leads
    back there.
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
        del tolerance  # which Optax's line searches refuse
        old = state.trial
        grad_norm = _tree.max_abs(updates).astype(old.grad_norm.dtype)
        running = old.status == Status.RUNNING
        finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)
        accept = running & finite
        steps, inner_state = inner.update(updates, state.inner, params, value=value, **extra_args)
        status = jnp.where(running & ~finite, jnp.int32(Status.FAILED), old.status)
        new = Trial(
            anchor_params=params,
            anchor_value=jnp.asarray(value).astype(old.anchor_value.dtype),
            anchor_grad=updates,
            grad_norm=grad_norm,
            accepted=accept,
            may_stop=old.may_stop,
            saddle=old.saddle,
            gain=old.gain,
            status=status,
            num_evals=old.num_evals,
        )
        first = old.num_evals == 0
        trial = _tree.select(accept | first, new, old._replace(status=status))
        trial = trial._replace(
            accepted=jnp.where(running, accept, old.accepted),
            num_evals=jnp.where(running, optax.safe_increment(old.num_evals), old.num_evals),
        )
        back = jax.tree.map(jnp.subtract, trial.anchor_params, params)
        return _tree.select(accept, steps, back), AlwaysAcceptingState(
            trial, _tree.select(accept, inner_state, state.inner)
        )

    return optax.GradientTransformationExtraArgs(init, update)
