"""The order of magnitude of a learning rate (lecture 7-1-8), from one short run.

A step d of the rate α on a batch that is held promises a decrease of -g·d. On a quadratic it gives

    f(x) - f(x + d) = -g·d - ½ d·H d

where d ∝ α, so the ratio of the two falls from 1 in a straight line. It is ½ at the minimum along
d, which for gradient descent is α = g·g / g·H g, and 0 at twice that rate.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cs231n_optax import _checks, _tree
from cs231n_optax.globalization.trial import find_trial

ENOUGH = 0.5  # the ratio at the minimum along the step
WINDOW = 5  # rates over which decreases are summed
ROUNDING = 16  # ulps of the loss below which its decrease is not measurable
NARROW_ROUNDING = 2  # the same in ulps of narrower parameters


class LearningRateRange(NamedTuple):
    """What `learning_rate_range_test` returns.

    Attributes:
      suggested: scalar, the largest rate before the decrease falls short.
      found: bool scalar, whether that happened inside the range; else the suggested rate is an end
        of it, and the range has to be wider.
      rates: (num_rates,), the rates that were tried.
      losses: (num_rates,), the loss of each one's batch, before its step.
      ratios: (num_rates,), decrease over predicted decrease, at least -1; 1 where the predicted one
        is lost in rounding.
      num_evals: int32 scalar, evaluations of the loss, half of them with its gradient.
    """

    suggested: jax.Array
    found: jax.Array
    rates: jax.Array
    losses: jax.Array
    ratios: jax.Array
    num_evals: jax.Array


class Step(NamedTuple):
    """What one rate leaves behind: scalars, the decreases per unit of the rate."""

    loss: jax.Array
    ratio: jax.Array
    decrease: jax.Array
    predicted: jax.Array


def learning_rate_range_test(
    loss: Callable[[Any, Any], Any],
    params: Any,
    make_tx: Callable[[Any], optax.GradientTransformation],
    data: Any,
    *,
    key: jax.Array | None = None,
    batch_size: int | None = None,
    lowest: jax.typing.ArrayLike = 1e-6,
    highest: jax.typing.ArrayLike = 10.0,
    num_rates: int = 80,
) -> LearningRateRange:
    """Raise the learning rate from tiny, and suggest the last one whose steps kept their promise.

    Each rate takes one step from ``params``, on a batch of its own: the loss before and after gives
    the decrease, and the gradient the predicted one. The parameters go back, but the method keeps
    its moments. The suggested rate is the last before the decrease, summed over five rates, is less
    than half of the predicted one.

    It promises the order of magnitude and no more: the best rate of a run depends on its length and
    its schedule, on the noise, and on curvatures that it meets later.

    Pure: `jax.jit` and `jax.vmap` apply, over ``lowest``, ``highest``, the parameters and what
    ``make_tx`` closes over.

    Args:
      loss: ``loss(params, batch)``, the mean over the examples of a batch.
      params: tree of floating or complex arrays.
      make_tx: ``make_tx(learning_rate)`` makes the method, such as `adam`. It gets a traced rate.
      data: tree of arrays with one leading axis of examples.
      key: `jax.random.key` of the batches, whose examples are drawn with replacement.
      batch_size: examples of a batch; None: all.
      lowest: the first rate, > 0, a number or a scalar array (may be traced).
      highest: the last rate, above ``lowest``, likewise. The rates are evenly spaced on a log
        scale.
      num_rates: >= 5, a Python integer. It takes 2 ``num_rates`` evaluations. Ten per decade are
        enough.

    Returns:
      `LearningRateRange`.

    Raises:
      ValueError: if a number is out of its range, ``key`` is missing, or the method rejects points,
        as one with a line search does.
      TypeError: if an argument is not of its type, or ``loss`` does not return a real scalar.

    Example:
      >>> import cs231n_optax, jax, jax.numpy as jnp
      >>> def loss(x, batch): return 50 * jnp.mean((x - batch) ** 2)  # of curvature 100
      >>> found = cs231n_optax.learning_rate_range_test(
      ...     loss, jnp.array(1.0), cs231n_optax.sgd, jnp.zeros(10))
      >>> print(0.005 < found.suggested < 0.02, found.found, found.num_evals)
      True True 160

    Source:
      Lecture 7-1-8. L. N. Smith, "Cyclical learning rates for training neural networks", WACV 2017.

    Differs from:
      Smith's test and those after it, which read the rate off the curve of the losses of different
      batches, whose noise hides small changes.
    """
    loss = _checks.objective("loss", loss)
    _checks.function("make_tx", make_tx)
    data, n = _checks.examples(data)
    if batch_size is not None:
        batch_size = _checks.static_int("batch_size", batch_size, at_least=1, at_most=n)
    _checks.key_given(key, needed=batch_size is not None, purpose="to draw the batches")
    batch_key: Any = None if key is None else _checks.key("key", key)
    low: Any = _checks.positive("lowest", lowest)
    high: Any = _checks.positive("highest", highest)
    if not (isinstance(low, jax.Array) or isinstance(high, jax.Array)) and low >= high:
        raise ValueError(f"lowest must be less than highest, got {low} and {high}")
    num_rates = _checks.static_int("num_rates", num_rates, at_least=WINDOW)
    _checks.floating_tree("parameter", params, "close over other arrays in the loss")
    params = _checks.arrays("params", params)

    log_rates = jnp.log(jnp.asarray(low, float)), jnp.log(jnp.asarray(high, float))
    rates = jnp.exp(jnp.linspace(*log_rates, num_rates))
    opt_state = _checks.transformation("make_tx(rate)", make_tx(rates[0])).init(params)
    if find_trial(opt_state) is not None:
        raise ValueError("make_tx must make a method that accepts every point: others find a rate")

    def step(opt_state: Any, inputs: tuple[jax.Array, jax.Array]) -> tuple[Any, Step]:
        i, rate = inputs
        batch = data
        if batch_size is not None:
            rows = jax.random.randint(
                jax.random.fold_in(batch_key, i), (batch_size,), 0, n, jnp.int32
            )
            batch = jax.tree.map(lambda x: x[rows], data)
        value, grads = jax.value_and_grad(loss)(params, batch)
        grads = _tree.ascent_direction(grads, params)
        updates, opt_state = optax.with_extra_args_support(make_tx(rate)).update(
            grads, opt_state, params, value=value, grad=grads, value_fn=lambda x: loss(x, batch)
        )
        new = optax.apply_updates(params, updates)
        move = jax.tree.map(lambda x, y: _tree.widen(x) - _tree.widen(y), params, new)
        predicted = _tree.vdot(jax.tree.map(_tree.widen, grads), move)
        return opt_state, _compare(value, loss(new, batch), predicted, rate, narrow_eps)

    narrow_eps = max((float(jnp.finfo(x.dtype).eps) for x in jax.tree.leaves(params)), default=0.0)
    order = jnp.arange(num_rates, dtype=jnp.int32)
    _, steps = jax.lax.scan(step, _tree.copy(opt_state), (order, rates))
    first = _first_that_falls_short(steps)
    found = (first > 0) & (first < num_rates)
    return LearningRateRange(
        suggested=rates[jnp.maximum(first - 1, 0)],
        found=found,
        rates=rates,
        losses=steps.loss,
        ratios=steps.ratio,
        num_evals=jnp.asarray(2 * num_rates, jnp.int32),
    )


def _compare(
    value: jax.Array, after: jax.Array, predicted: jax.Array, rate: jax.Array, narrow_eps: float
) -> Step:
    """The decrease of a batch's loss beside the predicted one."""
    value = _tree.widen(value)
    resolution = max(ROUNDING * float(jnp.finfo(value.dtype).eps), NARROW_ROUNDING * narrow_eps)
    predicted, rate = _tree.cast(predicted, value.dtype), _tree.cast(rate, value.dtype)
    decrease = value - _tree.widen(after)

    # A decrease that is lost in rounding is taken to be the predicted one, and an increase, or a
    # loss that is not finite, to be no larger than that.
    is_small = jnp.abs(predicted) <= resolution * jnp.abs(value)
    predicted = jnp.where(jnp.isfinite(predicted), predicted, 1)
    decrease = jnp.where(is_small, predicted, jnp.where(jnp.isfinite(decrease), decrease, -jnp.inf))
    decrease = jnp.maximum(decrease, -jnp.abs(predicted))
    ratio = jnp.where(is_small, 1, decrease / jnp.where(predicted == 0, 1, predicted))
    return Step(value, ratio, decrease / rate, predicted / rate)


def _first_that_falls_short(steps: Step) -> jax.Array:
    """The first rate around which the decreases are less than half of the predicted ones."""
    around = jnp.ones(WINDOW, steps.decrease.dtype)
    decrease, predicted = (
        jnp.convolve(each, around, mode="same", precision="highest")
        for each in (steps.decrease, steps.predicted)
    )
    short = (predicted > 0) & (decrease < ENOUGH * predicted)
    return jnp.where(jnp.any(short), jnp.argmax(short), len(short)).astype(jnp.int32)
