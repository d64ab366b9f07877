"""Diagnostics during training: computed every few hundred steps, and nothing in between."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from cs231n_optax import _checks


def record_every(
    num_steps: int, diagnose: Callable[[Any], Any], records: list[tuple[int, Any]]
) -> Callable[[Any], None]:
    """A callback for `fit` that records a diagnostic of the parameters every so many steps.

    `fit` calls it after each chunk, so that it records at the first end of a chunk after every
    ``num_steps`` steps: at exactly these steps if ``chunk_size`` divides ``num_steps``. The
    diagnostic is compiled once, and costs nothing at other steps.

    Args:
      num_steps: >= 1.
      diagnose: ``diagnose(params) -> tree of arrays``, such as a lambda with
        `extreme_eigenvalues`, `classify_point` or `gradient_noise`.
      records: a list, to which ``(step, diagnosis)`` is appended, as NumPy arrays.

    Returns:
      ``callback(progress)``, to be passed to `fit`.

    Raises:
      ValueError: if ``num_steps`` < 1.
      TypeError: if an argument is not of its type.

    Example:
      >>> import cs231n_optax, jax, jax.numpy as jnp
      >>> x = jnp.linspace(-1, 1, 64)
      >>> def loss(w, batch): return jnp.mean((w * batch - 2 * batch) ** 2)
      >>> records = []
      >>> callback = cs231n_optax.record_every(
      ...     50, lambda w: cs231n_optax.gradient_noise(loss, w, x, key=jax.random.key(0)), records)
      >>> result = cs231n_optax.fit(loss, jnp.array(0.0), cs231n_optax.sgd(0.1), x, steps=100,
      ...                           callback=callback, chunk_size=50)
      >>> print([step for step, _ in records], records[0][1].trace > records[1][1].trace)
      [50, 100] True
    """
    num_steps = _checks.static_int("num_steps", num_steps, at_least=1)
    _checks.function("diagnose", diagnose)
    _checks.instance("records", records, list, "a list")
    compiled = jax.jit(diagnose)
    blocks_seen = 0

    def callback(progress: Any) -> None:
        nonlocal blocks_seen
        step = int(progress.state.step)
        if step // num_steps > blocks_seen:
            blocks_seen = step // num_steps
            records.append((step, jax.tree.map(np.asarray, compiled(progress.params))))

    return callback
