"""Problem C (lecture 7-1-2): how noisy the gradient of a mini-batch is.

With G the gradient of the whole data set and Σ the covariance of the gradients of single examples,
the gradient g of B examples drawn independently has

    E[g] = G        E‖g‖² = ‖G‖² + tr Σ / B

Two batch sizes give two equations for the two unknowns.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cs231n_optax import _checks, _tree


class GradientNoise(NamedTuple):
    """What `gradient_noise` returns, all scalars.

    Attributes:
      trace: tr Σ, the variance of one example's gradient, summed over the parameters; unbiased.
      squared_norm: ‖G‖² of the whole data set's gradient; unbiased, so it may be negative.
      signal_to_noise: ‖G‖² / tr Σ for one example; a batch has B times that.
      noise_scale: tr Σ / ‖G‖², the batch size at which signal and noise are equal; infinite if
        ``squared_norm`` <= 0.
      trace_error, squared_norm_error, noise_scale_error: standard errors.
    """

    trace: jax.Array
    squared_norm: jax.Array
    signal_to_noise: jax.Array
    noise_scale: jax.Array
    trace_error: jax.Array
    squared_norm_error: jax.Array
    noise_scale_error: jax.Array


def gradient_noise(
    loss: Callable[[Any, Any], Any],
    params: Any,
    data: Any,
    *,
    key: jax.Array,
    batch_sizes: tuple[int, int] = (8, 64),
    num_repeats: int = 32,
) -> GradientNoise:
    """The variance of mini-batch gradients, and the simple noise scale.

    From gradients g of b and of B > b examples, each repeat estimates without bias

        tr Σ = (‖g_b‖² - ‖g_B‖²) / (1/b - 1/B)
        ‖G‖² = (B ‖g_B‖² - b ‖g_b‖²) / (B - b)

    The large batch is the union of B / b small ones. Examples are drawn independently, with
    replacement. Below a noise scale tr Σ / ‖G‖², doubling the batch nearly doubles the progress
    per update. Far above, it gains nothing.

    Pure: `jax.jit` and `jax.vmap` apply. It evaluates ``num_repeats`` · B examples, b at a time.

    Args:
      loss: ``loss(params, batch)``, the mean over the examples of a batch.
      params: tree of floating or complex arrays.
      data: tree of arrays with one leading axis of examples.
      key: `jax.random.key` of the draws.
      batch_sizes: b and B, 1 <= b < B, and b divides B.
      num_repeats: >= 2.

    Returns:
      `GradientNoise`. The standard errors of the trace and of ‖G‖² are those of the mean of the
      repeats; that of the noise scale is the jackknife's, for a ratio of means.

    Raises:
      ValueError: if a number is out of its range or the data's arrays have no common leading axis.
      TypeError: if an argument is not of its type, or ``loss`` does not return a real scalar.

    Example:
      >>> import cs231n_optax, jax, jax.numpy as jnp
      >>> data = 3 + jax.random.normal(jax.random.key(0), (1000, 4))  # G = mean of x - data
      >>> def loss(x, batch): return jnp.mean(jnp.sum((x - batch) ** 2, axis=-1)) / 2
      >>> noise = cs231n_optax.gradient_noise(loss, jnp.zeros(4), data, key=jax.random.key(1))
      >>> print(abs(noise.trace - 4) < 3 * noise.trace_error)
      True

    Source:
      Lecture 7-1-2 C. S. McCandlish, J. Kaplan, D. Amodei et al., "An empirical model of
      large-batch training", 2018 (arXiv:1812.06162), appendix A.1.
    """
    loss = _checks.objective("loss", loss)
    data, n = _checks.examples(data)
    small, large = _checked_sizes(batch_sizes)
    num_repeats = _checks.static_int("num_repeats", num_repeats, at_least=2)
    _checks.floating_tree("parameter", params, "close over other arrays in the loss")
    params = _checks.arrays("params", params)

    def repeat(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        rows = jax.random.randint(key, (large // small, small), 0, n, jnp.int32)

        def add(total: tuple[Any, jax.Array], rows: jax.Array) -> tuple[Any, None]:
            batch = jax.tree.map(lambda x: x[rows], data)
            grads = jax.tree.map(_tree.widen, jax.grad(loss)(params, batch))
            return (jax.tree.map(jnp.add, total[0], grads), total[1] + _squared(grads)), None

        zeros = jax.tree.map(_tree.widen, _tree.zeros_like(params))
        (total, squares), _ = jax.lax.scan(add, (zeros, _squared(zeros)), rows)
        return squares * small / large, _squared(total) * (small / large) ** 2

    of_small, of_large = jax.lax.map(repeat, jax.random.split(_checks.key("key", key), num_repeats))
    trace = (of_small - of_large) / (1 / small - 1 / large)
    squared_norm = (large * of_large - small * of_small) / (large - small)
    mean_trace, mean_norm = jnp.mean(trace), jnp.mean(squared_norm)
    return GradientNoise(
        trace=mean_trace,
        squared_norm=mean_norm,
        signal_to_noise=mean_norm / mean_trace,
        noise_scale=jnp.where(mean_norm > 0, mean_trace / mean_norm, jnp.inf),
        trace_error=_standard_error(trace),
        squared_norm_error=_standard_error(squared_norm),
        noise_scale_error=_error_of_ratio(trace, squared_norm),
    )


def _checked_sizes(batch_sizes: Any) -> tuple[int, int]:
    if not isinstance(batch_sizes, tuple | list) or len(batch_sizes) != 2:
        raise TypeError(f"batch_sizes must be a pair of integers, got {batch_sizes!r}")
    small = _checks.static_int("batch_sizes[0]", batch_sizes[0], at_least=1)
    large = _checks.static_int("batch_sizes[1]", batch_sizes[1], at_least=small + 1)
    if large % small:
        raise ValueError(f"batch_sizes[0] must divide batch_sizes[1], got {batch_sizes}")
    return small, large


def _squared(tree: Any) -> jax.Array:
    return _tree.vdot(tree, tree)


def _standard_error(x: jax.Array) -> jax.Array:
    return jnp.std(x, ddof=1) / jnp.sqrt(jnp.asarray(len(x), x.dtype))


def _error_of_ratio(x: jax.Array, y: jax.Array) -> jax.Array:
    """The jackknife's standard error of mean(x) / mean(y)."""
    m = len(x)
    left_out = (jnp.sum(x) - x) / (jnp.sum(y) - y)
    return jnp.sqrt(jnp.asarray((m - 1) ** 2 / m, x.dtype)) * jnp.std(left_out, ddof=1)
