"""Argument checks that let tracers pass.

A hyperparameter is a Python or NumPy number, which is checked here and now, or a scalar JAX
array, whose value is never looked at: it may be a tracer, and reading a concrete one would wait
for the device. Every check returns the number as a plain Python one (a NumPy ``float64`` scalar
would promote float32 arithmetic under x64) and the array as it came.
"""

import math
import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cs231n_optax import _tree

_SMALLEST_EPS = float(np.finfo(np.float32).tiny)


def nonnegative(name: str, value: Any) -> Any:
    """A finite number >= 0."""
    return _number(name, value, "a finite number >= 0", lambda x: x >= 0)


def positive(name: str, value: Any) -> Any:
    """A finite number > 0."""
    return _number(name, value, "a finite number > 0", lambda x: x > 0)


def fraction(name: str, value: Any) -> Any:
    """A number in [0, 1]."""
    return _number(name, value, "a number in [0, 1]", lambda x: 0 <= x <= 1)


def decay_rate(name: str, value: Any) -> Any:
    """A number in [0, 1): what is left of an accumulator after one step."""
    return _number(name, value, "a number in [0, 1)", lambda x: 0 <= x < 1)


def epsilon(name: str, value: Any) -> Any:
    """A number that float32 can still tell from zero, so that 0 / (0 + eps) is 0."""
    wanted = f"a finite number >= {_SMALLEST_EPS:.4g}, float32's smallest normal number"
    return _number(name, value, wanted, lambda x: x >= _SMALLEST_EPS)


def learning_rate(value: Any) -> Any:
    """A finite number >= 0, a scalar array, or a schedule (a function of the step)."""
    return value if callable(value) else nonnegative("learning_rate", value)


def static_bool(name: str, value: Any) -> bool:
    """A Python bool: it decides what is compiled, so it can't be traced."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be a Python bool, got {value!r}")
    return bool(value)


def static_int(name: str, value: Any, *, at_least: int) -> int:
    """A Python integer: it decides a shape, so it can't be traced."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be a Python integer, got {value!r}")
    if value < at_least:
        raise ValueError(f"{name} must be an integer >= {at_least}, got {value}")
    return int(value)


def objective(out: Any) -> None:
    """What an objective returns, as `jax.eval_shape` sees it: a real floating scalar."""
    if not (
        isinstance(out, jax.ShapeDtypeStruct)
        and out.shape == ()
        and jnp.issubdtype(out.dtype, jnp.floating)
    ):
        raise TypeError(f"fun must return a real floating scalar, got {_tree.brief(out)}")


def _number(name: str, value: Any, wanted: str, holds: Callable[[float], bool]) -> Any:
    if isinstance(value, jax.Array):
        if not (
            jnp.issubdtype(value.dtype, jnp.floating) or jnp.issubdtype(value.dtype, jnp.integer)
        ):
            raise TypeError(f"{name} must be {wanted}, got an array of dtype {value.dtype}")
        if value.shape:
            raise ValueError(f"{name} must be a scalar, got an array of shape {value.shape}")
        return value
    if isinstance(value, np.ndarray) and value.shape == ():
        value = value.item()
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be {wanted}, got {value!r}")
    number = int(value) if isinstance(value, numbers.Integral) else float(value)
    if not (math.isfinite(number) and holds(number)):
        raise ValueError(f"{name} must be {wanted}, got {value}")
    return number
