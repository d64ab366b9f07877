"""Training by mini-batches: any loss, any Optax transformation, one compiled loop."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from cs231n_optax import _checks, _tree
from cs231n_optax.averaging.accepted_points import (
    AcceptedPointsState,
    on_accepted_points,
    refuse_rejected_points,
)
from cs231n_optax.globalization.trial import accepted, find_trial

Loss = Callable[[Any, Any], jax.Array]
Callback = Callable[["FitHistory"], bool | None]


class FitState(NamedTuple):
    """Everything that training needs to go on, bit for bit, where it stopped.

    Attributes:
      params: the parameters at which the next loss is evaluated.
      finite_params: the parameters at which the loss was last finite (at first, the initial ones).
      opt_state: the transformation's state.
      key: the random key that shuffles the data, or None.
      step: int32 scalar, the number of updates so far.
      batch: int32 scalar, the number of batches used up so far: that of updates, unless a line
        search keeps a batch for several.
      nonfinite_step: int32 scalar, the step whose loss was not finite and ended the run; -1 while
        there is none. A run that has ended takes no further step.
      pending: batches drawn from an iterator and not used up yet.
    """

    params: Any
    finite_params: Any
    opt_state: optax.OptState
    key: Any
    step: jax.Array
    batch: jax.Array
    nonfinite_step: jax.Array
    pending: tuple[Any, ...] = ()


class FitHistory(NamedTuple):
    """What was recorded, one row a step; rows after the end of a run are NaN.

    Attributes:
      step: int32 (steps,), counted from 0.
      loss: float (steps,), the loss of the step's batch, before its update.
      learning_rate: float (steps,), the rate that the update used, where the state tells: with a
        scheduled rate, or under ``optax.inject_hyperparams``. NaN elsewhere.
      grad_norm: float (steps,), the Euclidean norm of the gradient.
      evaluation: what ``evaluate`` returned, stacked, one row a chunk; None without it.
    """

    step: Any
    loss: Any
    learning_rate: Any
    grad_norm: Any
    evaluation: Any


class FitResult(NamedTuple):
    """What `fit` returns.

    Attributes:
      params: the trained parameters: those after the last update; where the loss stopped being
        finite, those of the last finite loss; after a line search, the last accepted ones.
      state: to go on from here, and to read ``nonfinite_step``.
      history: a row a step.
    """

    params: Any
    state: FitState
    history: FitHistory


def fit(
    loss: Loss,
    params: Any,
    tx: optax.GradientTransformation,
    data: Any,
    *,
    steps: int,
    batch_size: int | None = None,
    key: jax.Array | None = None,
    state: FitState | None = None,
    averaging: optax.GradientTransformation | None = None,
    callback: Callback | None = None,
    evaluate: Callable[[Any], Any] | None = None,
    chunk_size: int = 100,
) -> FitResult:
    """Minimise the mean of a loss over mini-batches.

    Each step evaluates ``jax.value_and_grad(loss)(params, batch)`` once, calls
    ``tx.update(grads, state, params, value=..., grad=..., value_fn=...)`` and applies the updates.
    The steps run in compiled chunks (`jax.lax.scan`) whose buffers are reused.

    A non-finite loss ends the run: its update is not applied, ``state.nonfinite_step`` says the
    step, and ``params`` are those of the last finite loss. With a transformation that rejects
    trial points (a line search), a batch stays until one is accepted on it, and only an accepted
    loss that is not finite ends the run.

    Without a callback, and with data in arrays, this is a pure function that `jax.jit` and
    `jax.vmap` may trace, over ``params``, ``key``, ``data`` and whatever ``loss`` and ``tx`` close
    over: so a sweep is a vmap. Each call compiles afresh; put it under one `jax.jit` to call it
    often.

    Args:
      loss: ``loss(params, batch) -> scalar``, pure.
      params: tree of floating or complex arrays. With ``state``, training goes on from
        ``state.params``, and these only have to be of the same tree.
      tx: an Optax transformation.
      data: a tree of arrays with one leading axis of n examples; or an iterator of batches (trees
        of arrays of one shape). If an iterator ends, so does the run.
      steps: number of updates, >= 0. A Python integer.
      batch_size: examples a batch, at most n. The data are shuffled anew each epoch by ``key``,
        and the n mod batch_size examples at the end of each epoch are left out. None: every step
        sees all n, in order. For an iterator: None.
      key: `jax.random.key` for the shuffling; ``state`` carries its own.
      state: the state of an earlier call with the same loss, transformation and data: the two
        calls then do, bit for bit, what one call does.
      averaging: `polyak_average`, `snapshots` or a chain of them, shown the new parameters of each
        update, or, where ``tx`` rejects trial points, each accepted point after the first. Read
        it with `averaged_params` or `snapshot_params` of ``result.state``. A run that ends at a
        non-finite loss keeps what was averaged before that step's update, which includes the
        parameters of that loss.
      callback: called after each chunk with its `FitHistory` as NumPy arrays; if it returns True,
        the run ends there.
      evaluate: ``evaluate(params) -> tree of arrays``, pure: recorded at the end of each chunk.
      chunk_size: steps in one compiled chunk.

    Returns:
      `FitResult` ``(params, state, history)``.

    Raises:
      ValueError: if ``steps``, ``batch_size`` or ``chunk_size`` is out of its range; if the arrays
        have no common leading axis, or no example, or an iterator's batches not one tree and
        shape; if ``key`` is missing, ``params`` are not of the state's tree, or the state is not
        one of ``tx``; if an average is chained to a ``tx`` that rejects points, or ``averaging``
        is not that of the state.
      TypeError: if ``loss`` does not return a real scalar, a parameter is not floating or complex,
        ``data`` is neither arrays of numbers nor an iterator of them, ``tx`` or ``averaging`` is
        no transformation, ``key`` no key, ``state`` no `FitState`, ``callback`` or ``evaluate`` no
        function; for a callback or an iterator under a JAX transformation.

    Example:
      >>> import cs231n_optax, jax, jax.numpy as jnp
      >>> x = jnp.linspace(-1, 1, 64)
      >>> data = {"x": x, "y": 3 * x + 1}
      >>> def loss(params, batch):
      ...     return jnp.mean((params["w"] * batch["x"] + params["b"] - batch["y"]) ** 2)
      >>> params = {"w": jnp.array(0.0), "b": jnp.array(0.0)}
      >>> result = cs231n_optax.fit(loss, params, cs231n_optax.momentum(0.1), data, steps=200,
      ...                           batch_size=16, key=jax.random.key(0))
      >>> print(f"{result.params['w']:.3f} {result.params['b']:.3f}")
      3.000 1.000

    Source:
      Lecture 7-1-1 and 7-1-2 C.
    """
    loss = _checks.objective("loss", loss)
    tx = _checks.transformation("tx", tx)
    for name, value in (("callback", callback), ("evaluate", evaluate)):
        if value is not None:
            _checks.function(name, value)
    steps = _checks.static_int("steps", steps, at_least=0, at_most=_checks.MAX_INT)
    chunk_size = _checks.static_int("chunk_size", chunk_size, at_least=1)
    from_iterator = isinstance(data, Iterator)
    if from_iterator and batch_size is not None:
        raise ValueError("batch_size must be None for an iterator, which yields batches")
    if not from_iterator:
        batch_size = _check_arrays(data, batch_size)
        data = _checks.arrays("data", data)
    if averaging is not None:
        tx = on_accepted_points(tx, averaging)
    start = _start(params, tx, key, state)
    _check_averaging(start.opt_state, averaging)
    if state is not None:
        _checks.state(start.opt_state, jax.eval_shape(tx.init, start.params))
    if batch_size is not None and start.key is None:
        raise ValueError("key is needed to shuffle the data: pass key=jax.random.key(seed)")

    def run_chunk(state: FitState, data: Any, length: int) -> tuple[FitState, FitHistory]:
        first = state.batch
        take = _rows(data) if from_iterator else _shuffled(data, batch_size, state, length)

        def body(carry: tuple[FitState, jax.Array], _: None) -> Any:
            state, alive = carry
            state, alive, record = _step(loss, tx, state, alive, take(state.batch - first))
            return (state, alive), (alive, record)

        alive = state.nonfinite_step < 0
        (end, _), (survived, record) = jax.lax.scan(body, (state, alive), length=length)
        end, history = _account(state, end, alive, survived, record)
        if evaluate is not None:
            evaluation = evaluate(_answer(end))
            history = history._replace(
                evaluation=jax.tree.map(lambda x: x[None], _checks.arrays("evaluation", evaluation))
            )
        return end, history

    if callback is None and not from_iterator:
        run = jax.jit(lambda state, data: _scan_chunks(run_chunk, state, data, steps, chunk_size))
        end, history = run(start, data)
    else:
        end, history = _loop_over_chunks(run_chunk, start, data, steps, chunk_size, callback)
    return FitResult(_answer(end), end, history)


def _check_arrays(data: Any, batch_size: int | None) -> int | None:
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
    if batch_size is None:
        return None
    batch_size = _checks.static_int("batch_size", batch_size, at_least=1)
    if batch_size > sizes[0]:
        raise ValueError(f"batch_size must be at most the {sizes[0]} examples, got {batch_size}")
    return batch_size


def _start(
    params: Any, tx: optax.GradientTransformation, key: jax.Array | None, state: FitState | None
) -> FitState:
    """A state that owns its buffers, so that they can be donated."""
    _checks.floating_tree("parameter", params, "close over other arrays in the loss")
    params = _checks.arrays("params", params)
    if state is None:
        if key is not None:
            _checks.key("key", key)
        zero = jnp.zeros((), jnp.int32)
        state = FitState(params, params, tx.init(params), key, zero, zero, jnp.int32(-1))
    elif not isinstance(state, FitState):
        raise TypeError(f"state must be a FitState, as of an earlier result, got {state!r}")
    elif jax.tree.structure(params) != jax.tree.structure(state.params):
        raise ValueError(
            f"params are not of the state's tree: got {jax.tree.structure(params)}, expected "
            f"{jax.tree.structure(state.params)}"
        )
    return jax.tree.map(jnp.copy, state)


def _check_averaging(opt_state: Any, averaging: optax.GradientTransformation | None) -> None:
    refuse_rejected_points(opt_state)
    if isinstance(opt_state, AcceptedPointsState) != (averaging is not None):
        wanted = "no averaging" if averaging is not None else "averaging="
        raise ValueError(f"the state is that of a fit with {wanted}: go on with the same")


def _rows(data: Any) -> Callable[[jax.Array], Any]:
    return lambda i: jax.tree.map(lambda leaf: leaf[i], data)


def _shuffled(
    data: Any, batch_size: int | None, state: FitState, length: int
) -> Callable[[jax.Array], Any]:
    """The i-th of the chunk's batches; the orders of its epochs are drawn beforehand."""
    if batch_size is None:
        return lambda _: data
    num_examples = jax.tree.leaves(data)[0].shape[0]
    per_epoch = num_examples // batch_size
    num_epochs = (per_epoch - 1 + length - 1) // per_epoch + 1
    first_epoch, offset = jnp.divmod(state.batch, per_epoch)

    def order(epoch: jax.Array) -> jax.Array:
        return _permutation(jax.random.fold_in(state.key, epoch), num_examples)

    orders = jax.vmap(order)(first_epoch + jnp.arange(num_epochs, dtype=jnp.int32))
    batches = orders[:, : per_epoch * batch_size].reshape(-1, batch_size)

    return lambda i: _rows(data)(batches[offset + i])


def _permutation(key: jax.Array, n: int) -> jax.Array:
    """The numbers 0 … n - 1 in random order.

    What `jax.random.permutation` does, sorting by random bits, but with the bits and the position
    packed into one word: XLA sorts one operand 6 times faster than a pair of them on CPU, and that
    was half of the time of a small network's step. Where a word has few random bits to spare,
    further rounds make up for it: less than one pair is expected to tie in all of them.
    """
    position_bits = max(1, (n - 1).bit_length())
    random_bits = 32 - position_bits
    position = jnp.arange(n, dtype=jnp.uint32)
    order = position
    for round_key in jax.random.split(key, math.ceil((2 * position_bits - 1) / random_bits)):
        bits = jax.random.bits(round_key, (n,), jnp.uint32)
        words = jnp.sort((bits << position_bits) | position)
        order = order[words & jnp.uint32(2**position_bits - 1)]
    return order


def _step(
    loss: Loss, tx: optax.GradientTransformation, state: FitState, alive: jax.Array, batch: Any
) -> tuple[FitState, jax.Array, tuple[Any, ...]]:
    """One step of a run that is alive; a dead one stays as it is."""
    value, grads = jax.value_and_grad(loss)(state.params, batch)
    grads = jax.tree.map(jnp.conj, grads)  # of a complex parameter: the direction of ascent
    updates, opt_state = optax.with_extra_args_support(tx).update(
        grads,
        state.opt_state,
        state.params,
        value=value,
        grad=grads,
        value_fn=lambda params: loss(params, batch),
    )
    took = accepted(opt_state)
    alive &= jnp.isfinite(value) | ~took
    after = state._replace(
        params=optax.apply_updates(state.params, updates),
        finite_params=_select(took, state.params, state.finite_params),
        opt_state=opt_state,
        batch=state.batch + took.astype(jnp.int32),
    )
    record = (_tree.widen(value), _learning_rate(opt_state), _tree.norm(grads))
    return _select(alive, after, state), alive, record


def _account(
    start: FitState, end: FitState, alive: jax.Array, survived: jax.Array, record: tuple[Any, ...]
) -> tuple[FitState, FitHistory]:
    """Count a chunk's steps and blank the rows after its end, at once rather than step by step.

    In the loop each of these scalars would be a kernel of its own, as dear as a layer's bias.
    """
    step = start.step + jnp.sum(survived, dtype=jnp.int32)
    died = alive & ~jnp.all(survived)
    end = end._replace(step=step, nonfinite_step=jnp.where(died, step, start.nonfinite_step))
    evaluated = jnp.append(alive, survived[:-1])
    loss, learning_rate, grad_norm = record
    history = FitHistory(
        step=start.step + jnp.arange(len(survived), dtype=jnp.int32),
        loss=jnp.where(evaluated, loss, jnp.nan),
        learning_rate=jnp.where(survived, learning_rate, jnp.nan),
        grad_norm=jnp.where(evaluated, grad_norm, jnp.nan),
        evaluation=None,
    )
    return end, history


def _scan_chunks(
    run_chunk: Callable[..., tuple[FitState, FitHistory]],
    state: FitState,
    data: Any,
    steps: int,
    chunk_size: int,
) -> tuple[FitState, FitHistory]:
    chunks, rest = divmod(steps, chunk_size)
    histories = []
    if chunks or not rest:
        state, history = jax.lax.scan(
            lambda state, _: run_chunk(state, data, chunk_size), state, length=chunks
        )
        histories.append(jax.tree.map(_rows_of_chunks, history))
    if rest:
        state, history = run_chunk(state, data, rest)
        histories.append(history)
    return state, _concatenate(histories)


def _rows_of_chunks(x: jax.Array) -> jax.Array:
    """(chunks, rows, ...) -> (chunks · rows, ...), of which any may be 0."""
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def _loop_over_chunks(
    run_chunk: Callable[..., tuple[FitState, FitHistory]],
    state: FitState,
    data: Any,
    steps: int,
    chunk_size: int,
    callback: Callback | None,
) -> tuple[FitState, FitHistory]:
    _refuse_tracers(state)
    compiled = jax.jit(run_chunk, static_argnums=2, donate_argnums=0)
    state, batches = state._replace(pending=()), list(state.pending)
    histories: list[FitHistory] = []
    while steps:
        length = min(steps, chunk_size)
        used = int(state.batch)
        if isinstance(data, Iterator):
            batches += itertools.islice(data, max(0, length - len(batches)))
            length = min(length, len(batches))
            if not length:
                break
            stacked = _stack_batches(batches[:length])
            state, history = compiled(state, stacked, length)
        else:
            state, history = compiled(state, data, length)
        _refuse_tracers(history)
        history = jax.tree.map(np.asarray, history)
        histories.append(history)
        steps -= length
        batches = batches[int(state.batch) - used :]
        stop = callback(history) if callback is not None else False
        if stop or state.nonfinite_step >= 0:
            break
    state = state._replace(pending=tuple(batches))
    if not histories:
        none = jnp.zeros(0)
        return state, FitHistory(none.astype(jnp.int32), none, none, none, evaluation=None)
    return state, _concatenate(histories)


def _refuse_tracers(tree: Any) -> None:
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree)):
        raise TypeError("a callback or an iterator runs on the host: leave it out to trace fit")


def _stack_batches(batches: list[Any]) -> Any:
    structures = {jax.tree.structure(batch) for batch in batches}
    if len(structures) > 1:
        raise ValueError(f"an iterator's batches need one tree, got {structures}")
    return _checks.arrays("batch", jax.tree.map(_stack, *batches))


def _stack(*leaves: Any) -> Any:
    try:
        return (jnp.stack if isinstance(leaves[0], jax.Array) else np.stack)(leaves)
    except ValueError as error:
        shapes = sorted({np.shape(leaf) for leaf in leaves})
        raise ValueError(f"an iterator's batches need one shape, got {shapes}") from error


def _concatenate(histories: list[FitHistory]) -> FitHistory:
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *histories)


def _answer(state: FitState) -> Any:
    trial = find_trial(state.opt_state)
    best = state.params if trial is None else trial.anchor_params
    return _select(state.nonfinite_step < 0, best, state.finite_params)


def _select(condition: jax.Array, on_true: Any, on_false: Any) -> Any:
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), on_true, on_false)


def _learning_rate(opt_state: optax.OptState) -> Any:
    found = optax.tree.get_all_with_path(opt_state, "learning_rate")
    return found[0][1] if found else math.nan
