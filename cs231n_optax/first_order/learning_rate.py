"""The learning rate as a transformation: u = -α g."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cs231n_optax import _checks, _tree
from cs231n_optax._precision import in_float32


class ScheduledLearningRateState(NamedTuple):
    """State of a scheduled rate: the number of updates, int32, and the rate of the last one."""

    count: jax.typing.ArrayLike
    learning_rate: jax.Array


def _rule(g: jax.Array, *, rate: Any) -> tuple[jax.Array]:
    return (-rate * g,)


def scale_by_learning_rate(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Multiply by -α, in the dtype of each gradient.

    Args:
      learning_rate: α >= 0, a number, a scalar array (may be traced) or a schedule.

    Differs from:
      ``optax.scale_by_learning_rate``, where a traced α may widen the gradients, and the state
      does not hold the rate of a schedule.
    """
    rate = _checks.learning_rate(learning_rate)
    return _scale_by_schedule(rate) if callable(rate) else _scale_by_constant(rate)


def named_chain(
    method: str, *parts: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    """``optax.chain`` in float32 or wider; the error for a foreign state names the method."""
    chain = optax.chain(*parts)

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None, **extra_args: Any
    ) -> tuple[optax.Updates, optax.OptState]:
        _checks.own_chain(method, state, len(parts))
        return chain.update(updates, state, params, **extra_args)

    return in_float32(optax.GradientTransformationExtraArgs(chain.init, update))


def _scale_by_constant(rate: Any) -> optax.GradientTransformation:
    def init(params: optax.Params) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del params
        _checks.own_state("a constant learning rate", state, optax.EmptyState)
        return _tree.leafwise(_rule, updates, rate=rate)[0], state

    return optax.GradientTransformation(init, update)


def _scale_by_schedule(schedule: Callable[[Any], Any]) -> optax.GradientTransformation:
    def rate_at(count: jax.typing.ArrayLike) -> jax.Array:
        rate = _checks.nonnegative("learning_rate(count)", schedule(count))
        return jnp.asarray(rate, float)

    def init(params: optax.Params) -> ScheduledLearningRateState:
        del params
        count = jnp.zeros((), jnp.int32)
        return ScheduledLearningRateState(count, rate_at(count))

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, ScheduledLearningRateState]:
        del params
        _checks.own_state("a scheduled learning rate", state, ScheduledLearningRateState)
        rate = rate_at(state.count)
        (updates,) = _tree.leafwise(_rule, updates, rate=rate)
        return updates, ScheduledLearningRateState(optax.safe_increment(state.count), rate)

    return optax.GradientTransformation(init, update)
