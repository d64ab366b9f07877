"""Learning-rate decays (lecture 7-1-8) and the cyclic schedule of snapshot ensembles (7-1-11).

    step_decay          α₀ factorᵏ,  k = ⌊t / every⌋
    exponential_decay   α₀ exp(-k t)
    inverse_time_decay  α₀ / (1 + k t)
    cyclic_cosine       α₀/2 (cos(π (t mod C) / C) + 1)

t = the step, from 0. Each function returns an Optax schedule, which maps the step (an integer or
float array of any shape) to the rate in the default float dtype. The step and every argument may be
traced, so a sweep over decays is a `jax.vmap`; Optax's schedules compare their arguments in Python.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cs231n_optax import _checks


def step_decay(
    init_value: jax.typing.ArrayLike,
    every: jax.typing.ArrayLike,
    factor: jax.typing.ArrayLike = 0.5,
) -> optax.Schedule:
    """Multiply the rate by a factor at regular intervals: α₀ factorᵏ, k = ⌊t / every⌋.

    Args:
      init_value: α₀ >= 0, the rate at step 0; a number or a scalar array (may be traced).
      every: > 0 steps between two drops; likewise. It need not be whole.
      factor: in [0, 1]; likewise. The lecture uses 1/2.

    Raises:
      ValueError, TypeError: if an argument is out of range or no number.

    Example:
      >>> import cs231n_optax
      >>> schedule = cs231n_optax.step_decay(init_value=0.1, every=100)
      >>> [round(float(schedule(t)), 4) for t in (0, 99, 100, 200)]
      [0.1, 0.1, 0.05, 0.025]

    Source:
      Lecture 7-1-8.

    Differs from:
      ``optax.exponential_decay(α₀, every, factor, staircase=True)``: equal, but can't be traced.
    """
    init_value = _checks.nonnegative("init_value", init_value)
    every, factor = _checks.positive("every", every), _checks.fraction("factor", factor)

    def schedule(count: Any) -> jax.Array:
        drops = jnp.floor_divide(*_same_kind(count, every))
        return _float(init_value) * _float(factor) ** _float(drops)

    return schedule


def exponential_decay(
    init_value: jax.typing.ArrayLike, rate: jax.typing.ArrayLike
) -> optax.Schedule:
    """Exponential decay: α₀ exp(-k t).

    Args:
      init_value: α₀ >= 0, the rate at step 0; a number or a scalar array (may be traced).
      rate: k >= 0 per step; likewise. The rate halves every ln 2 / k steps.

    Raises:
      ValueError, TypeError: if an argument is out of range or no number.

    Example:
      >>> import cs231n_optax
      >>> schedule = cs231n_optax.exponential_decay(init_value=0.1, rate=0.01)
      >>> [round(float(schedule(t)), 4) for t in (0, 100, 200)]
      [0.1, 0.0368, 0.0135]

    Source:
      Lecture 7-1-8.

    Differs from:
      ``optax.exponential_decay(α₀, transition_steps, decay_rate)``: equal for
      k = -ln(decay_rate) / transition_steps, but can't be traced.
    """
    init_value = _checks.nonnegative("init_value", init_value)
    rate = _checks.nonnegative("rate", rate)
    return lambda count: _float(init_value) * jnp.exp(-_float(rate) * _float(_real(count)))


def inverse_time_decay(
    init_value: jax.typing.ArrayLike, rate: jax.typing.ArrayLike
) -> optax.Schedule:
    """1/t decay: α₀ / (1 + k t).

    Args:
      init_value: α₀ >= 0, the rate at step 0; a number or a scalar array (may be traced).
      rate: k >= 0 per step; likewise. The rate has halved at step 1 / k.

    Raises:
      ValueError, TypeError: if an argument is out of range or no number.

    Example:
      >>> import cs231n_optax
      >>> schedule = cs231n_optax.inverse_time_decay(init_value=0.1, rate=0.01)
      >>> [round(float(schedule(t)), 4) for t in (0, 100, 300)]
      [0.1, 0.05, 0.025]

    Source:
      Lecture 7-1-8; it meets the condition of Robbins & Monro, 1951: Σ α = ∞, Σ α² < ∞.
    """
    init_value = _checks.nonnegative("init_value", init_value)
    rate = _checks.nonnegative("rate", rate)
    return lambda count: _float(init_value) / (1 + _float(rate) * _float(_real(count)))


def cyclic_cosine(
    init_value: jax.typing.ArrayLike, cycle_length: jax.typing.ArrayLike
) -> optax.Schedule:
    """Cosine annealing that restarts every C steps: α₀/2 (cos(π (t mod C) / C) + 1).

    Each cycle starts at α₀ and ends close to 0, where `snapshots` copies the parameters.

    Args:
      init_value: α₀ >= 0, the rate at each restart; a number or a scalar array (may be traced).
      cycle_length: C > 0 steps; likewise. It need not be whole.

    Raises:
      ValueError, TypeError: if an argument is out of range or no number.

    Example:
      >>> import cs231n_optax
      >>> schedule = cs231n_optax.cyclic_cosine(init_value=0.1, cycle_length=100)
      >>> [round(float(schedule(t)), 4) for t in (0, 50, 99, 100)]
      [0.1, 0.05, 0.0, 0.1]

    Source:
      Lecture 7-1-11; Huang et al., "Snapshot ensembles: train 1, get M for free", ICLR 2017,
      eq. 2, whose t starts at 1; Loshchilov & Hutter, "SGDR", ICLR 2017, for the restarts.

    Differs from:
      ``optax.sgdr_schedule``, a list of cosine cycles that can't be traced.
    """
    init_value = _checks.nonnegative("init_value", init_value)
    cycle_length = _checks.positive("cycle_length", cycle_length)

    def schedule(count: Any) -> jax.Array:
        phase = _float(jnp.mod(*_same_kind(count, cycle_length))) / _float(cycle_length)
        return _float(init_value) / 2 * (jnp.cos(math.pi * phase) + 1)

    return schedule


def _real(count: Any) -> jax.Array:
    return _checks.real_array("count", count)


def _float(x: Any) -> jax.Array:
    return jnp.asarray(x, float)


def _same_kind(count: Any, period: Any) -> tuple[jax.Array, jax.Array]:
    """Both as integers if both are, for an exact ⌊t / n⌋ and t mod n; otherwise as floats."""
    count, period = _real(count), jnp.asarray(period)
    whole = all(jnp.issubdtype(x.dtype, jnp.integer) for x in (count, period))
    dtype = int if whole else float
    return count.astype(dtype), period.astype(dtype)
