"""The path of a method, which most figures draw."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import cs231n_optax


class Path(NamedTuple):
    """A run of a method: one row per evaluation, the first at the start.

    Attributes:
      points: (steps + 1, n), where the value and the gradient were evaluated.
      values: (steps + 1,).
      grads: (steps + 1, n).
      accepted: (steps + 1,), bool, whether the method kept the point.
      states: the states of the method before each update, stacked along a leading axis.
    """

    points: jax.Array
    values: jax.Array
    grads: jax.Array
    accepted: jax.Array
    states: Any


def descend(
    fun: Callable[[jax.Array], jax.Array],
    start: Any,
    tx: optax.GradientTransformation,
    num_steps: int,
) -> Path:
    """Run a method for a number of updates, in the ordinary Optax loop."""
    tx = optax.with_extra_args_support(tx)
    start = jnp.asarray(start, float)

    def step(carry: Any, _: None) -> tuple[Any, Path]:
        x, state = carry
        value, grads = jax.value_and_grad(fun)(x)
        updates, new_state = tx.update(grads, state, x, value=value, grad=grads, value_fn=fun)
        row = Path(x, value, grads, cs231n_optax.accepted(new_state), state)
        return (optax.apply_updates(x, updates), new_state), row

    @jax.jit
    def run(x: jax.Array) -> Path:
        return jax.lax.scan(step, (x, tx.init(x)), length=num_steps + 1)[1]

    return run(start)
