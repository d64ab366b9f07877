"""Argument checks that let tracers pass.

A hyperparameter is a Python or NumPy number, which is checked here and now, or a scalar JAX
array, whose value is never looked at: it may be a tracer, and reading a concrete one would wait
for the device. Every check returns the number as a plain Python one (a NumPy ``float64`` scalar
would promote float32 arithmetic under x64) and the array as it came. A number that the default
float dtype can't hold is refused, for it would be infinite there, or zero.
"""

import math
import numbers
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cs231n_optax import _tree

MAX_INT = int(np.iinfo(np.int32).max)
MAX_BYTES = 4 * 2**30  # of a matrix or a table that is kept whole

SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)


def nonnegative(name: str, value: Any) -> Any:
    """A finite number >= 0."""
    return _number(name, value, "a finite number >= 0", lambda x: x >= 0)


def positive(name: str, value: Any) -> Any:
    """A finite number > 0, also in float32."""
    number = _number(name, value, "a finite number > 0", lambda x: x > 0)
    if isinstance(number, float) and number < SMALLEST_NORMAL:
        raise ValueError(f"{name} must be a number > 0 in float32, too, got {value}")
    return number


def fraction(name: str, value: Any) -> Any:
    """A number in [0, 1]."""
    return _number(name, value, "a number in [0, 1]", lambda x: 0 <= x <= 1)


def decay_rate(name: str, value: Any) -> Any:
    """A number in [0, 1): what is left of an accumulator after one step."""
    return _number(name, value, "a number in [0, 1)", lambda x: 0 <= x < 1)


def epsilon(name: str, value: Any) -> Any:
    """A number that float32 can still tell from zero, so that 0 / (0 + eps) is 0."""
    wanted = f"a finite number >= {SMALLEST_NORMAL:.4g}, float32's smallest normal number"
    return _number(name, value, wanted, lambda x: x >= SMALLEST_NORMAL)


def learning_rate(value: Any) -> Any:
    """A finite number >= 0, a scalar array, or a schedule (a function of the step)."""
    return value if callable(value) else nonnegative("learning_rate", value)


def static_bool(name: str, value: Any) -> bool:
    """A Python bool: it decides what is compiled, so it can't be traced."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be a Python bool, got {value!r}")
    return bool(value)


def static_int(name: str, value: Any, *, at_least: int, at_most: float = math.inf) -> int:
    """A Python integer: it decides a shape, so it can't be traced."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be a Python integer, got {value!r}")
    if value < at_least:
        raise ValueError(f"{name} must be an integer >= {at_least}, got {value}")
    if value > at_most:
        raise ValueError(f"{name} must be an integer <= {at_most}, got {value}")
    return int(value)


def function(name: str, value: Any) -> Any:
    """Anything that can be called."""
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {value!r}")
    return value


def objective(name: str, fun: Any) -> Callable[..., Any]:
    """A function to be differentiated: what it returns is checked when it is called."""
    function(name, fun)

    def checked(*args: Any) -> Any:
        out = fun(*args)
        real_scalar(name, out)
        return out

    return checked


def real_scalar(name: str, out: Any) -> None:
    """What an objective has returned: a real floating scalar."""
    is_scalar = getattr(out, "shape", None) == () and jnp.issubdtype(out.dtype, jnp.floating)
    if not (is_scalar or isinstance(out, float)):
        raise TypeError(f"{name} must return a real floating scalar, got {_tree.brief(out)}")


def transformation(name: str, value: Any) -> Any:
    """An Optax transformation, or what has the same two functions, as `optax.MultiSteps`."""
    if not all(callable(getattr(value, part, None)) for part in ("init", "update")):
        raise TypeError(f"{name} must be an Optax transformation, got {value!r}")
    return value


def key(name: str, value: Any) -> Any:
    """One key of `jax.random`: a typed one, or the words that `jax.random.PRNGKey` gives."""
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ()
    if not (typed or (dtype == jnp.uint32 and shape in ((2,), (4,)))):
        raise TypeError(f"{name} must be one key, jax.random.key(seed), got {_tree.brief(value)}")
    return value


def arrays(name: str, tree: Any) -> Any:
    """A tree of arrays or numbers, as arrays of JAX."""
    if all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(tree)):
        return tree
    return jax.tree.map_with_path(
        lambda path, leaf: _array(name + jax.tree_util.keystr(path), leaf), tree
    )


def real_array(name: str, value: Any) -> jax.Array:
    """Real numbers, a list or an array of them, as an array of JAX."""
    array = _array(name, _plain(value) if isinstance(value, numbers.Real) else value)
    real_dtype(name, array)
    return array


def real_dtype(name: str, array: Any) -> None:
    """An array of real numbers, of JAX or of NumPy."""
    if not any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.floating, jnp.integer, bool)):
        raise TypeError(f"{name} must be real numbers, got {_tree.brief(array)}")


def fits(what: str, size: int, instead: str) -> None:
    """Refuse what would not fit in memory; ``size`` in bytes."""
    if size > MAX_BYTES:
        raise ValueError(f"{what} of {size:,} bytes, more than {MAX_BYTES:,}: {instead}")


def _array(name: str, value: Any) -> jax.Array:
    try:
        return _tree.as_array(np.asarray(value) if isinstance(value, str | bytes) else value)
    except (TypeError, ValueError):
        got = _tree.brief(value) if hasattr(value, "dtype") else repr(value)
        kind = type(value).__name__
        raise TypeError(f"{name} must be numbers, got {got}, of type {kind}") from None
    except OverflowError as error:
        raise ValueError(f"{name} must be numbers that JAX can hold: {error}") from None


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
    number = _plain(value)
    if not (math.isfinite(number) and holds(number)):
        raise ValueError(f"{name} must be {wanted}, got {value}")
    info = jnp.finfo(jax.dtypes.canonicalize_dtype(float))
    if abs(number) > float(info.max):
        raise ValueError(f"{name} must be a number that {info.dtype} can hold, got {value}")
    return number


def _plain(value: numbers.Real) -> int | float:
    """As a Python number; a whole one that JAX's integers can't hold as a float."""
    if isinstance(value, numbers.Integral) and abs(int(value)) <= MAX_INT:
        return int(value)
    try:
        return float(value)
    except OverflowError:
        return math.inf
