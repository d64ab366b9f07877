"""The record of a trial point, for transformations that may reject one.

A line search or a trust region sends the parameters to a trial point and hears, at the next
update, whether it was good enough. Whoever drives such a transformation needs to know; the record
says it, wherever in a state it lies.
"""

import enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
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
      accepted: bool scalar, whether the last update accepted the point that it was given.
      may_stop: bool scalar, whether a small gradient at the anchor may end the run.
      status: int32 scalar, a `Status`.
      num_evals: int32 scalar, value-and-gradient evaluations so far.
    """

    anchor_params: optax.Params
    anchor_value: jax.Array
    anchor_grad: optax.Updates
    accepted: jax.Array
    may_stop: jax.Array
    status: jax.Array
    num_evals: jax.Array


def find_trial(state: optax.OptState) -> Trial | None:
    """The trial record in a state, or None.

    Raises:
      ValueError: if there is more than one: two searches can't both steer the parameters.
    """
    found = _tree.find(state, Trial)
    if len(found) > 1:
        raise ValueError(f"the state holds {len(found)} trial records, expected at most 1")
    return found[0] if found else None


def accepted(state: Any) -> jax.Array:
    """Whether the last update accepted its point: a bool scalar, True where nothing rejects."""
    trial = find_trial(state)
    return jnp.array(True) if trial is None else trial.accepted
