"""Nonlinear conjugate gradients as a direction for a line search: the example of the docs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class ConjugateGradientsState(NamedTuple):
    grads: Any
    direction: Any


def scale_by_conjugate_gradients():
    """The direction u = g + β u_last with β = max(0, g · (g - g_last) / g_last · g_last)."""

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return ConjugateGradientsState(zeros, zeros)

    def update(grads, state, params=None):
        change = optax.tree.sub(grads, state.grads)
        length = optax.tree.vdot(state.grads, state.grads)
        beta = jnp.maximum(optax.tree.vdot(grads, change) / jnp.where(length > 0, length, 1), 0)
        direction = optax.tree.add_scale(grads, jnp.where(length > 0, beta, 0), state.direction)
        return direction, ConjugateGradientsState(grads, direction)

    return optax.GradientTransformation(init, update)
