"""What each framework's training is asked, one row of the methods' table at a time.

A framework brings a `Training`: a model of two linear layers, one on x and one on cos x, and a
step as its users write it, in which the transformation is the one line of ours. The loss is convex,
so that pure Newton descends as well.
"""

import functools
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from methods import METHODS, Method

X = jnp.asarray(np.random.default_rng(0).standard_normal((16, 4)), jnp.float32)
Y = jnp.sin(X @ jnp.array([1.0, -1.0, 0.5, 2.0]))

every_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)


class Training(Protocol):
    """A model in training; ``Training(tx, dtype=..., param_dtype=...)`` starts it.

    ``traces`` is shared by all trainings of one transformation and the same dtypes, which share a
    compiled step.
    """

    traces: list[None]

    def step(self) -> jax.Array:
        """Make an update in place; the loss before it."""
        ...

    def arrays(self) -> list[jax.Array]:
        """All that a step changes."""
        ...

    def params(self) -> list[jax.Array]: ...

    def save(self, path: Any) -> None: ...

    def restore(self, path: Any) -> None: ...


def mean_squared_error(predictions: jax.Array) -> jax.Array:
    """In float32, whatever the model computes in."""
    return jnp.mean((predictions.astype(jnp.float32)[:, 0] - Y) ** 2)


@functools.cache
def descending(name: str) -> optax.GradientTransformationExtraArgs:
    """The transformation of a row; a direction of ascent with a small rate behind it."""
    method = next(method for method in METHODS if method.name == name)
    tx = method.factory(**method.hyperparams)
    return optax.chain(tx, optax.scale(-0.05)) if name.startswith("scale_by_") else tx


def check_trains_and_goes_on(start: Callable[..., Training], method: Method, path: Any) -> None:
    """It descends, in one compile, reusing its buffers; a checkpoint goes on to the same bits."""
    training = start(descending(method.name))
    losses = [float(training.step()) for _ in range(3)]
    training.save(path)
    old = training.arrays()
    losses += [float(training.step()) for _ in range(5)]
    assert all(array.is_deleted() for array in old if array.ndim)  # the rate is never read
    assert min(losses) < 0.9 * losses[0]
    assert np.isfinite(losses).all()

    other = start(descending(method.name))
    other.restore(path)
    assert [float(other.step()) for _ in range(5)] == losses[3:]
    for one, same in zip(other.arrays(), training.arrays(), strict=True):
        np.testing.assert_array_equal(one, same)
    assert len(training.traces) == 1


def check_mixed_precision(start: Callable[..., Training], method: Method) -> None:
    """bfloat16 parameters where the method takes them, and else bfloat16 computation."""
    tx = descending(method.name)
    if "bfloat16" in method.dtypes:
        training = start(tx, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
        wanted = jnp.bfloat16
    else:
        with pytest.raises(TypeError, match="bfloat16"):
            start(tx, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
        training = start(tx, dtype=jnp.bfloat16)
        wanted = jnp.float32
    losses = [float(training.step()) for _ in range(8)]
    assert min(losses) < losses[0]
    assert np.isfinite(losses).all()
    assert {leaf.dtype for leaf in training.params()} == {jnp.dtype(wanted)}
    assert len(training.traces) == 1
