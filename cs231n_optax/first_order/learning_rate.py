"""The learning rate as a transformation: u = -α g."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cs231n_optax import _checks, _tree


class ScheduledLearningRateState(NamedTuple):
    """What a scheduled learning rate remembers; a constant one remembers nothing.

    Attributes:
      count: int32 scalar, the number of updates so far.
      learning_rate: scalar of the default float dtype, the rate that the last update used.
    """

    count: jax.typing.ArrayLike
    learning_rate: jax.Array


def scale_by_learning_rate(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Multiply by -α, the step of descent, in the dtype of each gradient.

    This is ``optax.scale_by_learning_rate`` but for two things: a traced α is cast to the
    gradient's dtype instead of widening it, and a scheduled α can be read from the state.

    Args:
      learning_rate: a number >= 0, a scalar array, or a schedule of the update count.
    """
    rate = _checks.learning_rate(learning_rate)

    if not callable(rate):
        return optax.stateless(lambda updates, _: _descend(updates, rate))

    def rate_at(count: jax.typing.ArrayLike) -> jax.Array:
        return jnp.asarray(_checks.nonnegative("learning_rate(count)", rate(count)), float)

    def init(params: optax.Params) -> ScheduledLearningRateState:
        del params
        count = jnp.zeros((), jnp.int32)
        return ScheduledLearningRateState(count, rate_at(count))

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
    ) -> tuple[optax.Updates, ScheduledLearningRateState]:
        del params
        alpha = rate_at(state.count)
        count = optax.safe_increment(state.count)
        return _descend(updates, alpha), ScheduledLearningRateState(count, alpha)

    return optax.GradientTransformation(init, update)


def _descend(updates: optax.Updates, rate: Any) -> optax.Updates:
    (updates,) = _tree.leafwise(lambda g, rate: (-rate * g,), updates, rate=rate)
    return updates
