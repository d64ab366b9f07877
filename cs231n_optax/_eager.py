"""Functions that are compiled when they are called outside of any trace.

Called operation by operation, an update of a line search takes more than a second: each of its
hundreds of operations is compiled and started by itself. So a call outside of any trace goes
through a `jax.jit` of its own. Inside `jax.jit`, `jax.vmap` or `jax.grad` nothing changes.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

try:
    from jax.extend.core import get_opaque_trace_state
except ImportError:  # before jax 0.9
    from jax.core import get_opaque_trace_state  # pyright: ignore

MAX_CACHED = 32  # programs kept for each function

with jax.ensure_compile_time_eval():
    TOP_LEVEL = get_opaque_trace_state()


def is_traced() -> bool:
    """Whether this call is inside a trace: of `jax.jit`, `jax.vmap`, `jax.grad`, ..."""
    return get_opaque_trace_state() != TOP_LEVEL


class ById:
    """An object as a key: equal only to itself, whatever its own ``==`` says."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ById) and self.value is other.value


def compiled_when_eager(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, compiled when it is called outside of any trace.

    Arrays and numbers among the arguments are inputs of the program. Functions (``value_fn``) and
    bools are part of it: each new one compiles anew, and the last 32 programs are kept. With other
    objects among the arguments nothing is compiled.
    """

    @functools.lru_cache(MAX_CACHED)
    def compiled(structure: Any, others: tuple[ById | None, ...]) -> Callable[..., Any]:
        def call(arrays: list[Any]) -> Any:
            inputs = iter(arrays)
            leaves = [next(inputs) if x is None else x.value for x in others]
            args, kwargs = jax.tree.unflatten(structure, leaves)
            return function(*args, **kwargs)

        return jax.jit(call)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if is_traced():
            return function(*args, **kwargs)
        leaves, structure = jax.tree.flatten((args, kwargs))
        arrays = [x for x in leaves if _is_array(x)]
        others = tuple(None if _is_array(x) else ById(x) for x in leaves)
        if not all(x is None or _is_static(x.value) for x in others):
            return function(*args, **kwargs)
        return compiled(structure, others)(arrays)

    return call


def _is_array(x: Any) -> bool:
    if isinstance(x, np.ndarray | np.generic):
        return x.dtype.kind not in "OSUMm"  # objects, texts, times
    return isinstance(x, jax.Array | int | float | complex) and not isinstance(x, bool)


def _is_static(x: Any) -> bool:
    return isinstance(x, bool) or (callable(x) and not hasattr(x, "__jax_array__"))
