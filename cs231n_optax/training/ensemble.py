"""Ensembles (lecture 7-1-11): train several models and average their predictions.

    p(x) = Σᵢ wᵢ link(f(x; θᵢ)) / Σᵢ wᵢ         i = 1 ... M members

The members are M independent models (`fit_members`), the snapshots of one run
(`cs231n_optax.snapshots`), or anything else stacked on a leading axis.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cs231n_optax import _checks, _tree
from cs231n_optax.training.fit import FitResult, Loss, fit


def fit_members(
    loss: Loss,
    init: Callable[[jax.Array], Any],
    tx: optax.GradientTransformation,
    data: Any,
    *,
    num_members: int,
    steps: int,
    key: jax.Array,
    batch_size: int | None = None,
    needs_key: bool = False,
    model_state: Any = None,
    has_aux: bool = False,
    averaging: optax.GradientTransformation | None = None,
    evaluate: Callable[[Any], Any] | None = None,
    chunk_size: int = 100,
    members_at_once: int | None = None,
) -> FitResult:
    """Train M independent models in one compiled program.

    Member i has its own initial parameters and its own order of the data, both drawn from
    ``jax.random.fold_in(key, i)``, so adding members does not change the first ones. A member whose
    loss is not finite stops alone, as in `fit`.

    Pure: `jax.jit` and `jax.vmap` may trace it. To use several devices, `sweep` over
    ``{"member": range(M)}`` a `fit` with ``fold_in(key, hparams["member"])``.

    Args:
      loss: ``loss(params, batch) -> scalar``, pure, as in `fit`.
      init: ``init(key) -> params``, a tree of floating or complex arrays.
      tx: an Optax transformation, the same for all members.
      data: a tree of arrays with one leading axis of examples; not an iterator.
      num_members: M >= 1, a Python integer.
      steps: number of updates of each member.
      key: a `jax.random.key`.
      batch_size: examples per batch, as in `fit`.
      needs_key: as in `fit`; each member has keys of its own.
      model_state: as in `fit`: the first one of every member.
      has_aux: as in `fit`.
      averaging: as in `fit`.
      evaluate: as in `fit`.
      chunk_size: as in `fit`.
      members_at_once: members trained together under one `jax.vmap`; None: all. Use 1 where a
        vmapped step is slower, as are convolutions with one kernel per member on CPU.

    Returns:
      `FitResult` with a leading axis of M; `ensemble_predict` takes its ``params``.

    Raises:
      ValueError, TypeError: as `fit` does; if ``num_members`` or ``members_at_once`` is below 1,
        ``init`` no function, ``key`` no key, or ``data`` an iterator.

    Example:
      >>> import cs231n_optax, jax, jax.numpy as jnp
      >>> x = jnp.linspace(-1, 1, 64)
      >>> def init(key): return jax.random.normal(key, (3,))
      >>> def apply(w, x): return w[0] * jnp.tanh(w[1] * x + w[2])
      >>> def loss(w, batch): return jnp.mean((apply(w, batch["x"]) - batch["y"]) ** 2)
      >>> def train(key):
      ...     return cs231n_optax.fit_members(
      ...         loss, init, cs231n_optax.adam(0.05), {"x": x, "y": jnp.sin(x)},
      ...         num_members=4, steps=300, batch_size=16, key=key)
      >>> jax.eval_shape(train, jax.random.key(0)).params.shape  # traced, not run
      (4, 3)

    Source:
      Lecture 7-1-11; B. Lakshminarayanan, A. Pritzel and C. Blundell, "Simple and scalable
      predictive uncertainty estimation using deep ensembles", NeurIPS 2017.
    """
    _checks.function("init", init)
    _checks.key("key", key)
    num_members = _checks.static_int(
        "num_members", num_members, at_least=1, at_most=_checks.MAX_INT
    )
    if isinstance(data, Iterator):
        raise TypeError("data must be arrays that all members can share, not an iterator")
    if members_at_once is not None:
        members_at_once = _checks.static_int("members_at_once", members_at_once, at_least=1)

    def member(i: jax.Array) -> FitResult:
        init_key, batch_key = jax.random.split(jax.random.fold_in(key, i))
        return fit(
            loss,
            init(init_key),
            tx,
            data,
            steps=steps,
            batch_size=batch_size,
            key=batch_key,
            needs_key=needs_key,
            model_state=model_state,
            has_aux=has_aux,
            averaging=averaging,
            evaluate=evaluate,
            chunk_size=chunk_size,
        )

    members = jnp.arange(num_members, dtype=jnp.int32)
    at_once = num_members if members_at_once is None else members_at_once
    # No vmap of one member; and JAX can't concatenate groups of empty histories.
    group = None if at_once == 1 or not steps else min(at_once, num_members)
    return jax.jit(lambda members: jax.lax.map(member, members, batch_size=group))(members)


def ensemble_predict(
    apply_fn: Callable[[Any, Any], jax.Array],
    stacked_params: Any,
    x: Any,
    *,
    link: Callable[[jax.Array], jax.Array] = jax.nn.softmax,
    weights: jax.typing.ArrayLike | None = None,
    batch_size: int | None = None,
) -> jax.Array:
    """Average the predictions of several models.

    It evaluates one member at a time on ``batch_size`` examples, so it holds the activations of one
    member on one batch. Pure; `jax.jit` it to call it often.

    Args:
      apply_fn: ``apply_fn(params, x) -> outputs`` (N, ...), such as logits (N, K).
      stacked_params: a tree of arrays with one leading axis of M members: the ``params`` of
        `fit_members`, or ``snapshot_params(state)``. For a single model, such as
        ``averaged_params(state)``, pass ``jax.tree.map(lambda p: p[None], params)``.
      x: a tree of arrays with one leading axis of N examples.
      link: a function of the outputs of a batch, whose values are averaged; by default the
        probabilities softmax(logits). For regression, ``lambda outputs: outputs``.
      weights: (M,), >= 0 with a positive sum; None: equal. ``snapshots_filled(state)`` leaves out
        snapshots that have not been taken. A member of weight 0 is ignored, even if its outputs
        are not finite. Bad weights in a JAX array are not checked: the result is NaN.
      batch_size: examples at a time; None: all.

    Returns:
      The weighted mean over the members, (N, ...), in float32 or wider.

    Raises:
      ValueError, TypeError: if the members or the examples are no arrays of one common leading
        axis, the weights (other than a JAX array) are no weights for them, ``batch_size`` < 1, or
        ``apply_fn`` or ``link`` does not return an array with the examples first.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp
      >>> def apply(w, x): return x * w
      >>> members = jnp.array([1.0, 2.0, 6.0])
      >>> x = jnp.array([1.0, 10.0])
      >>> print(cs231n_optax.ensemble_predict(apply, members, x, link=lambda y: y))
      [ 3. 30.]

    Source:
      Lecture 7-1-11.
    """
    for name, function in (("apply_fn", apply_fn), ("link", link)):
        _checks.function(name, function)
    stacked_params = _checks.arrays("stacked_params", stacked_params)
    x = _checks.arrays("x", x)
    num_members = _leading_axis("the members", stacked_params)
    num_examples = _leading_axis("the examples", x)
    size = num_examples
    if batch_size is not None:
        size = min(size, _checks.static_int("batch_size", batch_size, at_least=1))
    shares = _shares(weights, num_members)

    def of_batch(x: Any) -> jax.Array:
        def member(params: Any) -> jax.Array:
            outputs = apply_fn(params, x)
            _check_outputs("apply_fn", outputs, x)
            linked = link(outputs)
            _check_outputs("link", linked, x)
            return _tree.widen(linked)

        def add(total: jax.Array, row: tuple[Any, jax.Array]) -> tuple[jax.Array, None]:
            params, share = row
            term = member(params) * _tree.cast(share, _tree.real_dtype(total))
            return total + jnp.where(share == 0, jnp.zeros_like(term), term), None

        one = jax.tree.map(lambda leaf: leaf[0], stacked_params)
        outputs = jax.eval_shape(member, one)
        return jax.lax.scan(add, jnp.zeros(outputs.shape, outputs.dtype), (stacked_params, shares))[
            0
        ]

    num_batches, rest = divmod(num_examples, size)
    whole = num_batches * size
    batches = jax.tree.map(lambda leaf: leaf[:whole].reshape(-1, size, *leaf.shape[1:]), x)
    mean = jax.lax.map(of_batch, batches)
    mean = mean.reshape(whole, *mean.shape[2:])
    if rest:
        mean = jnp.concatenate([mean, of_batch(jax.tree.map(lambda leaf: leaf[whole:], x))])
    return mean


def _shares(weights: Any, num_members: int) -> jax.Array:
    """The weights divided by their sum; NaN for an array that can't be weights."""
    given = np.ones(num_members) if weights is None else weights
    array = _checks.real_array("weights", given).astype(float)
    if array.shape != (num_members,):
        raise ValueError(f"weights must be of shape ({num_members},), got {array.shape}")
    if not (isinstance(given, jax.Array) or _can_be_weights(np, np.asarray(given))):
        raise ValueError(f"weights must be finite and >= 0 with a positive sum, got {weights}")
    good = _can_be_weights(jnp, array)
    return jnp.where(good, array / jnp.where(good, jnp.sum(array), 1), jnp.nan)


def _can_be_weights(numpy: Any, array: Any) -> Any:
    total = numpy.sum(array)
    return numpy.all(array >= 0) & (total > 0) & numpy.isfinite(total)


def _check_outputs(name: str, out: Any, x: Any) -> None:
    shape = getattr(out, "shape", None)
    size = len(jax.tree.leaves(x)[0])
    if not shape or shape[0] != size or (name == "link" and not _checks.is_inexact(out)):
        what = "a floating array" if name == "link" else "an array"
        raise TypeError(
            f"{name} must return {what} with the {size} examples first, got {_checks.brief(out)}"
        )


def _leading_axis(what: str, tree: Any) -> int:
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]
    sizes = {shape[0] if shape else 0 for shape in shapes}
    if len(sizes) != 1 or 0 in sizes:
        listed = ", ".join(map(str, shapes)) or "no arrays"
        raise ValueError(f"{what} need arrays of one common leading axis > 0, got {listed}")
    return sizes.pop()
