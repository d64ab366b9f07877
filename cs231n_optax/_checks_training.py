"""Checks of the arguments of `minimize`, `fit` and `sweep`, to be appended to `_checks.py`."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from cs231n_optax import _checks, _tree


def instance(name: str, value: Any, kind: type, wanted: str) -> None:
    """An instance of a class of this library."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {wanted}, got {value!r}")


# Minimisation.


def evaluations(name: str, value: Any) -> Any:
    """A number > 0 of evaluations; a Python number beyond int32 becomes the largest int32."""
    value = _checks.positive(name, value)
    return value if isinstance(value, jax.Array) else min(value, _checks.MAX_INT)


def further_arguments(name: str, value: Any) -> tuple[Any, ...]:
    """A tuple or a list of arguments."""
    if not isinstance(value, tuple | list):
        raise TypeError(f"{name} must be a tuple, got {type(value).__name__}: {name}=(a,) for one")
    return tuple(value)


def objective_output(name: str, out: Any, *, has_aux: bool) -> Any:
    """The output of an objective: a real scalar, or a pair of one and a tree of arrays."""
    value = out
    if has_aux:
        if not isinstance(out, tuple | list) or len(out) != 2:
            raise TypeError(
                f"with has_aux=True {name} must return (value, aux), got {_tree.brief(out)}"
            )
        value, aux = out
        _checks.arrays("aux", aux)
    _checks.real_scalar(name, value)
    return out


# Training.


def training_data(data: Any, batch_size: int | None) -> tuple[Any, int | None]:
    """Arrays with one leading axis of at least ``batch_size`` examples, or an iterator."""
    if isinstance(data, Iterator):
        if batch_size is not None:
            raise ValueError("batch_size must be None for an iterator, which yields batches")
        return data, None
    leaves = jax.tree.leaves(data)
    if not leaves or not all(hasattr(leaf, "shape") for leaf in leaves):
        raise TypeError(
            "data must be a tree of arrays or an iterator of batches (of a loader, iter(loader)), "
            f"got {type(data).__name__}"
        )
    sizes = sorted({leaf.shape[0] if leaf.shape else 0 for leaf in leaves})
    if len(sizes) > 1 or sizes[0] == 0:
        shapes = ", ".join(str(leaf.shape) for leaf in leaves)
        raise ValueError(f"the data's arrays need one common leading axis > 0, got {shapes}")
    if batch_size is not None:
        batch_size = _checks.static_int("batch_size", batch_size, at_least=1)
        if batch_size > sizes[0]:
            raise ValueError(
                f"batch_size must be at most the {sizes[0]} examples, got {batch_size}"
            )
    return _checks.arrays("data", data), batch_size


def iterator_batches(batches: list[Any]) -> None:
    """Batches of one tree and one shape, so that they can be stacked."""
    structures = {jax.tree.structure(batch) for batch in batches}
    if len(structures) > 1:
        raise ValueError(f"an iterator's batches need one tree, got {structures}")
    for leaves in zip(*map(jax.tree.leaves, batches), strict=True):
        shapes = sorted({np.shape(leaf) for leaf in leaves})
        if len(shapes) > 1:
            raise ValueError(f"an iterator's batches need one shape, got {shapes}")


def shuffling_key(key: Any, batch_size: int | None) -> None:
    """A key, where the data are shuffled."""
    if batch_size is not None and key is None:
        raise ValueError("key is needed to shuffle the data: pass key=jax.random.key(seed)")


def params_of_state(params: Any, state_params: Any) -> None:
    """Parameters with the tree of those in a state."""
    got, expected = jax.tree.structure(params), jax.tree.structure(state_params)
    if got != expected:
        raise ValueError(f"params are not of the state's tree: got {got}, expected {expected}")


def same_averaging(in_state: bool, averaging: Any) -> None:
    """An average in the state if, and only if, ``averaging`` is given."""
    if in_state != (averaging is not None):
        wanted = "averaging=" if in_state else "no averaging"
        raise ValueError(f"the state is that of a fit with {wanted}: go on with the same")


def not_traced(tree: Any) -> None:
    """Arrays with values, for a callback or an iterator on the host."""
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree)):
        raise TypeError("a callback or an iterator runs on the host: leave it out to trace fit")


# Sweeps.


def sweep_output(output: Any) -> None:
    """A tree of arrays of numbers, by their shapes and dtypes."""
    for key, leaf in jax.tree.leaves_with_path(output):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            where = jax.tree_util.keystr(key)
            raise TypeError(f"run must return arrays of numbers, but output{where} is {leaf.dtype}")


def sweep_metric(values: Any, num_rows: int) -> np.ndarray:
    """One real number per row, at least one of them finite; as an array of floats."""
    values = np.asarray(values)
    _checks.real_dtype("the metric", values)
    if values.shape != (num_rows,):
        raise ValueError(f"metric must give an array of shape ({num_rows},), got {values.shape}")
    values = values.astype(float)
    if not np.isfinite(values).any():
        raise ValueError(f"none of the {num_rows} values of the metric is finite")
    return values
