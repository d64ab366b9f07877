"""The loss over a whole data set, one block of examples at a time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cs231n_optax import _checks, _tree

Objective = Callable[[Any], jax.Array]
Operation = Callable[[Objective], Any]


def over_blocks(loss: Callable[..., Any], data: Any, block_size: int | None) -> Any:
    """Apply a linear operation to the mean loss over the data, in bounded memory.

    The value, the gradient and a Hessian-vector product of a mean are the means of those of its
    terms. Block i of q takes the examples i, i + q, i + 2q, …, so that every device has a part of
    each block if the data are sharded along the examples.

    Args:
      loss: ``loss(params, batch)``, the mean over the batch; ``loss(params)`` if ``data`` is None.
      data: tree of arrays with one leading axis of n examples, or None.
      block_size: examples per block; None: all of them.

    Returns:
      ``apply(operation)``, the mean of ``operation(objective)`` over the blocks, weighted by their
      sizes, for an ``objective(params)``.
    """
    loss = _checks.objective("loss", loss)
    if data is None:
        if block_size is not None:
            raise ValueError(f"block_size needs data, got block_size={block_size} without")
        return lambda operation: operation(loss)
    data, n = _checks.examples(data)
    size = n
    if block_size is not None:
        size = min(n, _checks.static_int("block_size", block_size, at_least=1))
    num_blocks, rest = divmod(n, size)

    def apply(operation: Operation) -> Any:
        def on_batch(batch: Any) -> Any:
            return operation(lambda params: loss(params, batch))

        def block(i: jax.Array) -> Any:
            def rows(x: jax.Array) -> jax.Array:
                whole = x[: n - rest].reshape(size, num_blocks, *x.shape[1:])
                return jax.lax.dynamic_index_in_dim(whole, i, axis=1, keepdims=False)

            return on_batch(jax.tree.map(rows, data))

        def add(total: Any, i: jax.Array) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, block(i)), None

        if num_blocks == 1 and not rest:
            return on_batch(data)
        zeros = _tree.zeros_like(jax.eval_shape(block, jnp.int32(0)))
        total, _ = jax.lax.scan(add, zeros, jnp.arange(num_blocks, dtype=jnp.int32))
        mean = _tree.scale(jnp.asarray(size / n, float), total)
        if rest:
            last = on_batch(jax.tree.map(lambda x: x[n - rest :], data))
            mean = _tree.axpy(jnp.asarray(rest / n, float), last, mean)
        return mean

    return apply
