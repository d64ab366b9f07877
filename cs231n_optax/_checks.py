"""Checks of arguments. All of them let tracers pass.

A numeric hyperparameter is either a Python or NumPy number, whose value is checked, or a scalar
JAX array, of which only shape and dtype are checked: it may be a tracer, and reading a concrete
array would wait for the device. A check returns a number as a plain Python number (a NumPy
``float64`` scalar would promote float32 arithmetic under x64) and an array unchanged. A number
outside the range of the default float dtype is refused, since it would become infinite or zero.
"""

import functools
import math
import numbers
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

MAX_INT = int(np.iinfo(np.int32).max)
MAX_BYTES = 4 * 2**30  # of a dense matrix or a table

SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)

FREEZE = (
    'freeze it by optax.partition({"train": tx, "freeze": optax.set_to_zero()}, labels), or close '
    "over it in the loss"
)


def nonnegative(name: str, value: Any) -> Any:
    """A finite number >= 0."""
    return _number(name, value, "a finite number >= 0", lambda x: x >= 0)


def positive(name: str, value: Any) -> Any:
    """A finite number > 0 that is still > 0 in float32."""
    number = _number(name, value, "a finite number > 0", lambda x: x > 0)
    if isinstance(number, float) and number < SMALLEST_NORMAL:
        raise ValueError(f"{name} must be a number > 0 in float32, too, got {value}")
    return number


def fraction(name: str, value: Any) -> Any:
    """A number in [0, 1]."""
    return _number(name, value, "a number in [0, 1]", lambda x: 0 <= x <= 1)


def decay_rate(name: str, value: Any) -> Any:
    """A number in [0, 1): the fraction of an accumulator that one step keeps."""
    return _number(name, value, "a number in [0, 1)", lambda x: 0 <= x < 1)


def epsilon(name: str, value: Any) -> Any:
    """A number that is not rounded to zero in float32, so that 0 / (0 + eps) is 0."""
    wanted = f"a finite number >= {SMALLEST_NORMAL:.4g}, float32's smallest normal number"
    return _number(name, value, wanted, lambda x: x >= SMALLEST_NORMAL)


def learning_rate(value: Any) -> Any:
    """A finite number >= 0, a scalar array, or a schedule (a function of the step)."""
    return value if callable(value) else nonnegative("learning_rate", value)


def static_bool(name: str, value: Any) -> bool:
    """A Python bool; it selects the program that is compiled, so it can't be traced."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be a Python bool, got {value!r}")
    return bool(value)


def static_int(name: str, value: Any, *, at_least: int, at_most: float = math.inf) -> int:
    """A Python integer; it determines a shape, so it can't be traced."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise TypeError(
            f"{name} must be a Python integer, got {value!r}{_if_injected(name, value)}"
        )
    if value < at_least:
        raise ValueError(f"{name} must be an integer >= {at_least}, got {value}")
    if value > at_most:
        raise ValueError(f"{name} must be an integer <= {at_most}, got {value}")
    return int(value)


def _if_injected(name: str, value: Any) -> str:
    """The remedy where a wrapper has made an array of a Python number."""
    if not isinstance(value, jax.Array):
        return ""
    return f"; with optax.inject_hyperparams, name it: static_args=({name!r},)"


def function(name: str, value: Any) -> Any:
    """Anything that can be called."""
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {value!r}")
    return value


def pair_of_functions(name: str, value: Any, wanted: str) -> None:
    """Two functions, in a tuple or a list."""
    is_pair = isinstance(value, tuple | list) and len(value) == 2
    if not (is_pair and all(callable(part) for part in value)):
        raise TypeError(f"{name} must be a pair {wanted}, got {value!r}")


def objective(name: str, fun: Any) -> Callable[..., Any]:
    """A function to be differentiated; its output is checked at each call."""
    function(name, fun)

    def checked(*args: Any) -> Any:
        out = fun(*args)
        real_scalar(name, out)
        return out

    return checked


def objective_given(method: str, value_fn: Any, *, or_hessian: bool = False) -> None:
    """An objective passed to an ``update`` that needs it."""
    if value_fn is None:
        alternative = ", or its Hessian at params, hessian=..." if or_hessian else ""
        raise TypeError(
            f"{method} needs the objective: update(grads, state, params, value=..., "
            f"value_fn=loss){alternative}"
        )


def real_scalar(name: str, out: Any) -> None:
    """The output of an objective: a real floating scalar."""
    is_scalar = getattr(out, "shape", None) == () and jnp.issubdtype(out.dtype, jnp.floating)
    if not (is_scalar or isinstance(out, float)):
        raise TypeError(f"{name} must return a real floating scalar, got {brief(out)}")


def transformation(name: str, value: Any) -> Any:
    """An Optax transformation, or an object with its two functions, such as `optax.MultiSteps`."""
    if not all(callable(getattr(value, part, None)) for part in ("init", "update")):
        raise TypeError(f"{name} must be an Optax transformation, got {value!r}")
    return value


def instance(name: str, value: Any, kind: type, wanted: str) -> None:
    """An instance of a class of this library."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {wanted}, got {value!r}")


def key(name: str, value: Any) -> Any:
    """One key, typed (`jax.random.key`) or raw (`jax.random.PRNGKey`)."""
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ()
    if not (typed or (dtype == jnp.uint32 and shape in ((2,), (4,)))):
        raise TypeError(f"{name} must be one key, jax.random.key(seed), got {brief(value)}")
    return value


def arrays(name: str, tree: Any) -> Any:
    """A tree of arrays or numbers, converted to JAX arrays."""
    if all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(tree)):
        return tree
    return jax.tree.map_with_path(
        lambda path, leaf: _array(name + jax.tree_util.keystr(path), leaf), tree
    )


def real_array(name: str, value: Any) -> jax.Array:
    """A real number, or a list or an array of them, converted to a JAX array."""
    array = _array(name, _plain(value) if isinstance(value, numbers.Real) else value)
    real_dtype(name, array)
    return array


def real_dtype(name: str, array: Any) -> None:
    """A JAX or NumPy array of real numbers."""
    if not any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.floating, jnp.integer, bool)):
        raise TypeError(f"{name} must be real numbers, got {brief(array)}")


def fits_in_memory(what: str, size: int, instead: str) -> None:
    """Refuse a dense array of more than 4 GiB; ``size`` in bytes."""
    if size > MAX_BYTES:
        raise ValueError(f"{what} of {size:,} bytes, more than {MAX_BYTES:,}: {instead}")


# Trees.


def floating_tree(what: str, tree: Any, remedy: str) -> None:
    """A tree of floating or complex arrays."""
    if not all(is_inexact(leaf) for leaf in jax.tree.leaves(tree)):
        paths = jax.tree.leaves_with_path(tree)
        path, leaf = next((path, leaf) for path, leaf in paths if not is_inexact(leaf))
        raise TypeError(
            f"every {what} must be a floating or complex array, but {what}"
            f"{jax.tree_util.keystr(path)} is {dtype_or_type(leaf)}; {remedy}"
        )


def same_structure(what: str, tree: Any, like: Any, of: str) -> None:
    """A tree with the structure of another."""
    structure, expected = jax.tree.structure(tree), jax.tree.structure(like)
    if structure != expected:
        raise ValueError(
            f"the {what}' tree is not the tree of {of}: got {structure}, expected {expected}"
        )


def like(what: str, tree: Any, like: Any, of: str = "the parameters given to init") -> None:
    """A tree with the structure, shapes and dtypes of another."""
    same_structure(what, tree, like, of)
    for x, a in zip(jax.tree.leaves(tree), jax.tree.leaves(like), strict=True):
        if jnp.shape(x) != a.shape or jnp.result_type(x) != a.dtype:
            raise ValueError(
                f"the {what} have a leaf {jnp.result_type(x)}{jnp.shape(x)} where "
                f"{of} had {a.dtype}{a.shape}"
            )


def tangent(name: str, v: Any, params: Any) -> None:
    """A tree with the structure, shapes and dtypes of the parameters, for a derivative along it."""
    if jax.tree.structure(v) != jax.tree.structure(params):
        raise TypeError(
            f"{name}'s tree is not that of the parameters: got {jax.tree.structure(v)}, expected "
            f"{jax.tree.structure(params)}"
        )
    for x, p in zip(jax.tree.leaves(v), jax.tree.leaves(params), strict=True):
        if x.dtype != p.dtype:
            raise TypeError(f"{name} has a leaf of dtype {x.dtype} where a parameter has {p.dtype}")
        if x.shape != p.shape:
            raise ValueError(
                f"{name} has a leaf of shape {x.shape} where a parameter has {p.shape}"
            )


def gradient_shape(g: jax.Array, accumulator: jax.Array) -> None:
    """A gradient of the shape that its parameter had at ``init``."""
    if g.shape != accumulator.shape:
        raise ValueError(
            f"a gradient has shape {g.shape} where the parameters given to init had shape "
            f"{accumulator.shape}"
        )


def gradient_not_complex(g: jax.Array, new: jax.Array, accumulator: jax.Array) -> None:
    """A new accumulator that is complex only if the old one is."""
    if new.dtype.kind == "c" != accumulator.dtype.kind:
        raise ValueError(
            f"a gradient is {g.dtype} where the parameters given to init were {accumulator.dtype}"
        )


def state(state: Any, like: Any) -> None:
    """A state of the same transformation, for the same parameters, as another."""
    got, expected = jax.tree.structure(state), jax.tree.structure(like)
    if got == expected:
        got, expected = brief(jax.tree.leaves(state)), brief(jax.tree.leaves(like))
    if got != expected:
        raise ValueError(
            f"state is not one of this transformation and these parameters: got {got}, expected "
            f"{expected}"
        )


def own_state(method: str, state: Any, kind: type) -> None:
    """A state from the method's own ``init``, as ``update`` needs it."""
    if not isinstance(state, kind):
        raise TypeError(
            f"{method} needs a state of its own, a {kind.__name__} from init, got "
            f"{type(state).__name__}"
        )


def own_chain(method: str, state: Any, length: int) -> None:
    """A state of a method that is a chain of ``length`` transformations."""
    if not isinstance(state, tuple) or len(state) != length:
        raise TypeError(
            f"{method} needs a state of its own, a tuple of {length} from init, got "
            f"{type(state).__name__}"
        )


def own_rows(method: str, name: str, size: int, rows: int) -> None:
    """A state with as many rows as the method's own ``init`` makes."""
    if rows != size:
        raise ValueError(f"{method} with {name}={size} needs a state of its own, got one of {rows}")


def direction_state(method: str, state: Any, like: Any) -> None:
    """A state of the direction of a method, with the structure that its ``init`` gives."""
    got, expected = jax.tree.structure(state), jax.tree.structure(like)
    if got != expected:
        raise ValueError(
            f"{method} needs a state of its own direction, got {got}, expected {expected}"
        )


def params_given(method: str, params: Any) -> None:
    """Parameters passed to an ``update`` that needs them."""
    if params is None:
        raise ValueError(f"{method} needs the parameters: update(grads, state, params)")


def is_left_out(node: Any) -> bool:
    """Whether a node stands for leaves that a mask has taken out."""
    return isinstance(node, optax.MaskedNode)


def applicable_updates(updates: Any, grads: Any, params: Any, *, anchor: Any) -> None:
    """Updates that a loop can apply.

    ``optax.masked`` returns the gradient itself as the update of a leaf that it keeps from its
    transformation. A line search there would see a function that changes under it. An update of an
    integer would be rounded.

    Args:
      updates: as the transformation returned them.
      grads: those that it was given.
      params: the parameters.
      anchor: of the trial record, with a node without leaves for what a mask has kept from it; None
        if there is no record.
    """

    def not_passed_on(path: Any, node: Any, update: Any, grad: Any) -> None:
        pairs = zip(jax.tree.leaves(update), jax.tree.leaves(grad), strict=True)
        if is_left_out(node) and any(u is g for u, g in pairs):
            raise ValueError(
                f"tx returns the gradient of params{jax.tree_util.keystr(path)} as its update: "
                f"optax.masked passes on what it keeps from its transformation; {FREEZE}"
            )

    if anchor is not None:
        jax.tree.map_with_path(not_passed_on, anchor, updates, grads, is_leaf=is_left_out)
    for (path, p), u in zip(
        jax.tree.leaves_with_path(params), jax.tree.leaves(updates), strict=True
    ):
        if not is_inexact(p) and is_inexact(u):
            raise TypeError(
                f"every parameter must be a floating or complex array, but parameter"
                f"{jax.tree_util.keystr(path)} is {p.dtype}, and tx would update it; {FREEZE}"
            )


# Arguments of `init` and `update` of a method that rejects trial points.


def trial_params(method: str, params: Any) -> None:
    """Parameters of at least 32 bits, so that adding an update reaches the trial point."""
    for path, leaf in jax.tree.leaves_with_path(params):
        remedy = ""
        if not is_inexact(leaf):
            remedy = FREEZE
        elif jnp.finfo(jnp.result_type(leaf)).bits < 32:
            remedy = "keep them in float32, and cast them in the loss"
        if remedy:
            raise TypeError(
                f"{method} needs floating parameters of 32 bits or more, but params"
                f"{jax.tree_util.keystr(path)} is {dtype_or_type(leaf)}: {remedy}"
            )


def trial_evaluation(
    method: str, grads: Any, params: Any, value: Any, *, anchor: Any
) -> tuple[Any, Any, jax.Array]:
    """The gradients, parameters and value of an ``update``, converted to JAX arrays.

    Gradients and parameters must be trees like ``anchor``, and the value a real scalar.
    """
    if value is None:
        raise TypeError(
            f"{method} needs the loss at params: update(grads, state, params, value=...)"
        )
    if params is None and jax.tree.leaves(anchor):
        raise ValueError(f"{method} needs the parameters: update(grads, state, params, ...)")
    grads, params = arrays("gradient", grads), arrays("parameter", params)
    like("gradients", grads, anchor)
    if params is not None:
        like("parameters", params, anchor)
    value = real_array("value", value)
    if value.shape:
        raise TypeError(f"value must be a real scalar, got {brief(value)}")
    return grads, params, value


# Minimisation.


def evaluations(name: str, value: Any) -> Any:
    """A number > 0 of evaluations; a Python number beyond int32 becomes the largest int32."""
    value = positive(name, value)
    return value if isinstance(value, jax.Array) else min(math.ceil(value), MAX_INT)


def further_arguments(name: str, value: Any) -> tuple[Any, ...]:
    """A tuple or a list of arguments."""
    if not isinstance(value, tuple | list):
        raise TypeError(f"{name} must be a tuple, got {type(value).__name__}: {name}=(a,) for one")
    return tuple(value)


def objective_output(name: str, out: Any, *, has_aux: bool) -> Any:
    """The output of an objective: a real scalar, or a pair of one and a tree of arrays."""
    value = out
    if has_aux:
        value, aux = _pair(out, f"with has_aux=True {name} must return (value, aux)")
        arrays("aux", aux)
    real_scalar(name, value)
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
        batch_size = static_int("batch_size", batch_size, at_least=1)
        if batch_size > sizes[0]:
            raise ValueError(
                f"batch_size must be at most the {sizes[0]} examples, got {batch_size}"
            )
    return arrays("data", data), batch_size


def examples(data: Any) -> tuple[Any, int]:
    """Arrays with one leading axis; and its length."""
    if isinstance(data, Iterator):
        raise TypeError("data must be a tree of arrays, got an iterator")
    data, _ = training_data(data, None)
    return data, jax.tree.leaves(data)[0].shape[0]


def iterator_batches(batches: list[Any]) -> None:
    """Batches of one tree and one shape, so that they can be stacked."""
    structures = {jax.tree.structure(batch) for batch in batches}
    if len(structures) > 1:
        raise ValueError(f"an iterator's batches need one tree, got {structures}")
    for leaves in zip(*map(jax.tree.leaves, batches), strict=True):
        shapes = sorted({np.shape(leaf) for leaf in leaves})
        if len(shapes) > 1:
            raise ValueError(f"an iterator's batches need one shape, got {shapes}")


def key_given(key: Any, *, needed: bool, purpose: str) -> None:
    """A key, where one is needed."""
    if needed and key is None:
        raise ValueError(f"key is needed {purpose}: pass key=jax.random.key(seed)")


def tree_of_state(name: str, tree: Any, in_state: Any) -> None:
    """A tree with the structure of the one in a state."""
    got, expected = jax.tree.structure(tree), jax.tree.structure(in_state)
    if got != expected:
        raise ValueError(
            f"{name} does not have the tree of state.{name}: got {got}, expected {expected}"
        )


def loss_output(out: Any, *, model_state: Any, has_aux: bool) -> tuple[Any, tuple[Any, Any]]:
    """The output of the loss of `fit`, as ``(value, (model_state, aux))``; None for what is off.

    A model state must have the tree, shapes and dtypes of the one that the loss was given.
    """
    has_state = model_state is not None
    value, new_state, aux = out, None, None
    if has_state and has_aux:
        wanted = "with model_state= and has_aux=True loss must return (value, (model_state, aux))"
        value, rest = _pair(out, wanted)
        new_state, aux = _pair(rest, wanted)
    elif has_state:
        value, new_state = _pair(out, "with model_state= loss must return (value, model_state)")
    elif has_aux:
        value, aux = _pair(out, "with has_aux=True loss must return (value, aux)")
    elif isinstance(out, tuple | list):
        raise TypeError(
            "loss must return a real floating scalar, or with has_aux=True or model_state= a pair, "
            f"got {brief(out)}"
        )
    real_scalar("loss", value)
    new_state = arrays("model_state", new_state)
    if not _same_arrays(new_state, model_state):
        raise ValueError(
            "loss must return a model_state of the tree, shapes and dtypes of the one it takes: "
            f"got {brief(new_state)}, expected {brief(model_state)}"
        )
    return value, (new_state, arrays("aux", aux))


def _pair(out: Any, wanted: str) -> Any:
    if not isinstance(out, tuple | list) or len(out) != 2:
        raise TypeError(f"{wanted}, got {brief(out)}")
    return out


def _same_arrays(tree: Any, like: Any) -> bool:
    """Whether two trees have one structure, and their arrays the same shapes and dtypes."""

    def aval(x: Any) -> Any:
        return x.shape, x.dtype

    return jax.tree.structure(tree) == jax.tree.structure(like) and list(
        map(aval, jax.tree.leaves(tree))
    ) == list(map(aval, jax.tree.leaves(like)))


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
    real_dtype("the metric", values)
    if values.shape != (num_rows,):
        raise ValueError(f"metric must give an array of shape ({num_rows},), got {values.shape}")
    values = values.astype(float)
    if not np.isfinite(values).any():
        raise ValueError(f"none of the {num_rows} values of the metric is finite")
    return values


# Parts of error messages, and the conversions behind the checks.


def brief(tree: Any) -> str:
    """The leaves' dtypes and shapes."""

    def leaf(x: Any) -> str:
        return f"{x.dtype}{list(x.shape)}" if hasattr(x, "dtype") else repr(x)

    return str(jax.tree.map(leaf, tree))


def dtype_or_type(leaf: Any) -> Any:
    """The dtype of an array, or the type's name of anything else."""
    return getattr(leaf, "dtype", type(leaf).__name__)


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf is a floating or complex array or number."""
    dtype = getattr(leaf, "dtype", None)
    return isinstance(leaf, float | complex) if dtype is None else _is_inexact_dtype(dtype)


@functools.cache
def _is_inexact_dtype(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.inexact)


def _array(name: str, value: Any) -> jax.Array:
    try:
        return jnp.asarray(np.asarray(value) if isinstance(value, str | bytes) else value)
    except (TypeError, ValueError):
        got = brief(value) if hasattr(value, "dtype") else repr(value)
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
    """Convert to a Python number: an integer beyond int32 to a float."""
    if isinstance(value, numbers.Integral) and abs(int(value)) <= MAX_INT:
        return int(value)
    try:
        return float(value)
    except OverflowError:
        return math.inf
