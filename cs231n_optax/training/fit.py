"""Training by mini-batches: any loss, any Optax transformation, one compiled loop."""

import itertools
import math
import warnings
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
from cs231n_optax.globalization.trial import Status, accepted, find_trial
from cs231n_optax.training import _display, sharding

Loss = Callable[..., Any]
Callback = Callable[["FitProgress"], bool | None]

# The loss's keys come from ``fold_in(key, LOSS_STREAM)`` and the orders of the data from
# ``fold_in(key, epoch)``. An epoch is an int32, so none has this number.
LOSS_STREAM = np.uint32(2**32 - 1)


class DivergenceWarning(RuntimeWarning):
    """The loss of a `fit` was not finite, which has ended the run.

    It is silenced as any warning of Python, such as by
    ``warnings.simplefilter("ignore", cs231n_optax.DivergenceWarning)``.
    """


class FitState(NamedTuple):
    """Everything that training needs to continue, bit for bit, where it stopped.

    Attributes:
      params: the parameters at which the next loss is evaluated.
      finite_params: the parameters of the last finite loss; at first, the initial ones.
      opt_state: the state of the transformation.
      key: the random key of the run, or None.
      step: int32 scalar, the number of updates so far.
      batch: int32 scalar, the number of batches used up so far. It differs from ``step`` where a
        line search keeps a batch for several updates.
      nonfinite_step: int32 scalar, the step whose loss was not finite and ended the run; -1 while
        there is none. A run that has ended takes no further step.
      pending: batches drawn from an iterator and not used up yet.
      model_state: the model state after the last finite, accepted loss; None without one.
    """

    params: Any
    finite_params: Any
    opt_state: optax.OptState
    key: Any
    step: jax.Array
    batch: jax.Array
    nonfinite_step: jax.Array
    pending: tuple[Any, ...] = ()
    model_state: Any = None


class FitHistory(NamedTuple):
    """The record of a run, one row per step; rows after the end of a run are NaN.

    With JAX's flag ``jax_debug_nans``, which refuses any NaN, 0 stands in place of these.

    Attributes:
      step: int32 (steps,), counted from 0.
      loss: float (steps,), the loss of the step's batch, before its update.
      learning_rate: float (steps,), the learning rate of the update, if the state holds it: with
        a schedule, or under ``optax.inject_hyperparams``. NaN elsewhere.
      grad_norm: float (steps,), the Euclidean norm of the gradient.
      evaluation: the outputs of ``evaluate``, stacked, one row per chunk; None without it.
      aux: what the loss returns beside its value, stacked, one row per step; None without
        ``has_aux``. Rows after the end of a run are zero where the array is not floating.
    """

    step: Any
    loss: Any
    learning_rate: Any
    grad_norm: Any
    evaluation: Any
    aux: Any = None


class FitProgress(NamedTuple):
    """The argument of the callback of `fit`, after each chunk. Its arrays may be kept.

    Attributes:
      step, loss, learning_rate, grad_norm, evaluation, aux: the chunk's rows of `FitHistory`, as
        NumPy arrays.
      params: what ``FitResult.params`` would be if the run ended here.
      state: what ``FitResult.state`` would be, to save and to continue from.
      num_steps: the ``steps`` of this call.
    """

    step: Any
    loss: Any
    learning_rate: Any
    grad_norm: Any
    evaluation: Any
    aux: Any
    params: Any
    state: FitState
    num_steps: int


class FitResult(NamedTuple):
    """What `fit` returns.

    Attributes:
      params: the trained parameters, those after the last update. If the loss was not finite,
        those of the last finite loss; with a line search, the last accepted ones.
      state: to continue from here, and to read ``nonfinite_step``.
      history: one row per step.
    """

    params: Any
    state: FitState
    history: FitHistory

    @property
    def model_state(self) -> Any:
        """The model state that belongs to ``params``; None without one."""
        return self.state.model_state

    def __repr__(self) -> str:
        return _display.fit_text(self)


class Settings(NamedTuple):
    """The checked arguments of `fit` that stay the same during a run.

    Attributes:
      loss, has_aux, needs_key, batch_size, steps, chunk_size, evaluate, callback: those of `fit`.
      tx: the transformation, with the averaging added.
      from_iterator: whether the data are an iterator.
    """

    loss: Loss
    tx: optax.GradientTransformationExtraArgs
    has_aux: bool
    needs_key: bool
    from_iterator: bool
    batch_size: int | None
    steps: int
    chunk_size: int
    evaluate: Callable[[Any], Any] | None
    callback: Callback | None


class StepRecord(NamedTuple):
    """What one step leaves behind.

    Attributes:
      alive: bool scalar, whether the run goes on after it.
      loss, learning_rate, grad_norm, aux: those of `FitHistory`.
    """

    alive: jax.Array
    loss: jax.Array
    learning_rate: Any
    grad_norm: jax.Array
    aux: Any


def fit(
    loss: Loss,
    params: Any,
    tx: optax.GradientTransformation,
    data: Any,
    *,
    steps: int,
    batch_size: int | None = None,
    key: jax.Array | None = None,
    needs_key: bool = False,
    model_state: Any = None,
    has_aux: bool = False,
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

    A loss takes random numbers (dropout), carries a model state (the running statistics of batch
    norm) and returns further outputs (metrics) if asked to. It takes them by name and returns them
    as `jax.value_and_grad` expects:

    - with ``needs_key=True``, ``loss(params, batch, key=...)``;
    - with ``model_state=``, ``loss(params, batch, model_state=...) -> (value, model_state)``;
    - with ``has_aux=True``, ``loss(params, batch) -> (value, aux)``;
    - with all three, ``loss(params, batch, key=..., model_state=...) -> (value, (model_state,
      aux))``.

    A loss that is not finite ends the run, with a `DivergenceWarning` where the call is not traced:
    its update is not applied and its model state not kept. With a transformation that rejects trial
    points (a line search), a step's batch, key and model state stay until a point is accepted on
    them. The model state of that point is kept, and only an accepted loss that is not finite ends
    the run. If the method itself ends, with another status than RUNNING, no later step moves the
    parameters. A RuntimeWarning says so, unless all examples are in use and the status is CONVERGED
    or STALLED.

    Without a callback, and with data in arrays, this is a pure function of ``params``, ``key``,
    ``data`` and whatever ``loss`` and ``tx`` close over: `jax.jit` and `jax.vmap` apply, so that a
    sweep is a vmap. Each call compiles anew; to call it often, put it under one `jax.jit`.

    Args:
      loss: ``loss(params, batch) -> scalar``, pure; or as above.
      params: tree of floating or complex arrays. Leaves that ``tx`` freezes, by
        ``optax.partition`` and ``optax.set_to_zero``, may be integers. With ``state``, training
        continues from ``state.params``, and ``params`` only has to be of the same tree.
      tx: an Optax transformation.
      data: a tree of arrays with one leading axis of n examples; or an iterator of batches (trees
        of arrays of one shape), whose end ends the run. If they lie on a mesh with explicit axes,
        the iterator's batches need `jax.set_mesh`, and so does `fit` under a transformation.
      steps: number of updates, >= 0. A Python integer.
      batch_size: examples per batch, 1 to n. The data are shuffled in each epoch by ``key``, and
        the n mod batch_size examples at its end are left out. None: every step sees all n, in
        order. For an iterator: None.
      key: `jax.random.key` for the shuffling and for the loss, whose random numbers are
        independent of each other; ``state`` carries its own.
      needs_key: whether the loss takes ``key=``, a new one for each batch, derived from ``key`` and
        ``state.batch``.
      model_state: the first model state, a tree of arrays of any dtype that the loss takes as
        ``model_state=``, and returns in the same shapes; ``state`` carries its own.
      has_aux: whether the loss returns further arrays, for ``history.aux``. All rows are kept, so
        they should be small.
      state: the state of an earlier call with the same loss, transformation and data. The two
        calls give, bit for bit, the result of one call.
      averaging: `polyak_average`, `snapshots` or a chain of them, of the parameters after each
        update, or, if ``tx`` rejects trial points, of the accepted points after the first. Read
        it with `averaged_params` or `snapshot_params` of ``result.state``. A loss that is not
        finite leaves the average as it was before that step.
      callback: called after each chunk with its `FitProgress`; if it returns True, the run ends
        there.
      evaluate: ``evaluate(params) -> tree of arrays``, pure: recorded at the end of each chunk.
        With a model state, ``evaluate(params, model_state=...)``.
      chunk_size: steps per compiled chunk, >= 1.

    Returns:
      `FitResult` ``(params, state, history)``.

    Raises:
      ValueError: if ``steps``, ``batch_size`` or ``chunk_size`` is out of its range, the arrays
        have no common leading axis or the iterator's batches no common shape, ``key`` is missing,
        the loss returns a model state of other shapes, ``state`` is not one of ``params``,
        ``model_state``, ``tx`` and ``averaging``, or an average is chained to a ``tx`` that rejects
        points.
      TypeError: if an argument is not of its type, ``loss`` does not return a real scalar with what
        is switched on, or a callback or an iterator is used under a JAX transformation.

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

      Noise on the input, a running mean of the labels, and a metric:

      >>> def loss(params, batch, *, key, model_state):
      ...     x = batch["x"] + 0.01 * jax.random.normal(key, batch["x"].shape)
      ...     error = params["w"] * x + params["b"] - batch["y"]
      ...     mean = 0.9 * model_state["mean"] + 0.1 * jnp.mean(batch["y"])
      ...     return jnp.mean(error**2), ({"mean": mean}, {"worst": jnp.max(jnp.abs(error))})
      >>> result = cs231n_optax.fit(loss, params, cs231n_optax.momentum(0.1), data, steps=200,
      ...                           batch_size=16, key=jax.random.key(0), needs_key=True,
      ...                           model_state={"mean": jnp.array(0.0)}, has_aux=True)
      >>> print(f"{result.model_state['mean']:.1f}", result.history.aux["worst"].shape)
      1.0 (200,)

    Source:
      Lecture 7-1-1 and 7-1-2 C.
    """
    _checks.function("loss", loss)
    _checks.transformation("tx", tx)
    for name, value in (("callback", callback), ("evaluate", evaluate)):
        if value is not None:
            _checks.function(name, value)
    steps = _checks.static_int("steps", steps, at_least=0, at_most=_checks.MAX_INT)
    chunk_size = _checks.static_int("chunk_size", chunk_size, at_least=1)
    data, batch_size = _checks.training_data(data, batch_size)
    if averaging is not None:
        tx = on_accepted_points(tx, averaging)
    settings = Settings(
        loss=loss,
        tx=optax.with_extra_args_support(tx),
        has_aux=_checks.static_bool("has_aux", has_aux),
        needs_key=_checks.static_bool("needs_key", needs_key),
        from_iterator=isinstance(data, Iterator),
        batch_size=batch_size,
        steps=steps,
        chunk_size=chunk_size,
        evaluate=evaluate,
        callback=callback,
    )
    with sharding.mesh_of(data):
        if state is None:
            start = _first_state(tx, params, key, model_state)
        else:
            start = _given_state(params, model_state, state)
        refuse_rejected_points(start.opt_state)
        averages = isinstance(start.opt_state, AcceptedPointsState)
        _checks.same_averaging(averages, averaging)
        if state is not None:
            _checks.state(start.opt_state, jax.eval_shape(tx.init, start.params))
        shuffles = batch_size is not None
        _checks.key_given(start.key, needed=shuffles, purpose="to shuffle the data")
        _checks.key_given(start.key, needed=needs_key, purpose="for the loss")

        if callback is None and not settings.from_iterator:
            run = jax.jit(lambda state, data: _scan_chunks(settings, state, data))
            end, history = run(start, data)
        else:
            end, history = _loop_over_chunks(settings, start, data)
    _warn_if_diverged(end)
    _warn_if_ended(end, all_examples=batch_size is None and not settings.from_iterator)
    return FitResult(_result_params(end), end, history)


# The start: a state that owns its buffers, so that they can be donated.


def _first_state(
    tx: optax.GradientTransformation, params: Any, key: Any, model_state: Any
) -> FitState:
    params = _checked_params(params)
    if key is not None:
        _checks.key("key", key)
    zero = jnp.zeros((), jnp.int32)
    state = FitState(params, params, tx.init(params), key, zero, zero, jnp.int32(-1))
    model_state = _tree.copy(_checks.arrays("model_state", model_state))
    return jax.tree.map(jnp.copy, state)._replace(model_state=model_state)


def _given_state(params: Any, model_state: Any, state: FitState) -> FitState:
    params = _checked_params(params)
    _checks.instance("state", state, FitState, "a FitState, as of an earlier result")
    _checks.tree_of_state("params", params, state.params)
    if model_state is not None:
        _checks.tree_of_state("model_state", model_state, state.model_state)
    return jax.tree.map(jnp.copy, state)


def _checked_params(params: Any) -> Any:
    return _checks.arrays("params", params)


# Chunks: all in one compiled loop, or one after the other from Python.


def _scan_chunks(settings: Settings, state: FitState, data: Any) -> tuple[FitState, FitHistory]:
    """All chunks in one program: a scan over the whole ones, then the rest of the steps."""
    if not settings.steps:
        return state, _empty_history(settings, state, data)
    chunks, rest = divmod(settings.steps, settings.chunk_size)
    histories = []
    if chunks:
        state, history = jax.lax.scan(
            lambda state, _: _run_chunk(settings, state, data, settings.chunk_size),
            state,
            length=chunks,
        )
        histories.append(jax.tree.map(_rows_of_chunks, history))
    if rest:
        state, history = _run_chunk(settings, state, data, rest)
        histories.append(history)
    return state, _concatenate(histories)


def _rows_of_chunks(x: jax.Array) -> jax.Array:
    """(chunks, rows, ...) -> (chunks · rows, ...), of which any may be 0."""
    return x.reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def _loop_over_chunks(
    settings: Settings, state: FitState, data: Any
) -> tuple[FitState, FitHistory]:
    """One program per chunk, for a callback or an iterator on the host."""
    _checks.not_traced(state)
    run = jax.jit(
        lambda state, data, length: _run_chunk(settings, state, data, length),
        static_argnums=2,
        donate_argnums=0,
    )
    # What a callback may keep: copies, since the next chunk reuses the state's buffers.
    keep = jax.jit(lambda state: (_result_params(state), jax.tree.map(jnp.copy, state)))
    state, pending = state._replace(pending=()), list(state.pending)
    histories: list[FitHistory] = []
    steps = settings.steps
    while steps:
        length = min(steps, settings.chunk_size)
        chunk_data = data
        if settings.from_iterator:
            # Enough batches for a chunk that uses up one in each step; fewer at the end.
            pending += itertools.islice(data, max(0, length - len(pending)))
            length = min(length, len(pending))
            if not length:
                break
            chunk_data = _stack_batches(pending[:length])
        used_before = int(state.batch)
        state, history = run(state, chunk_data, length)
        _checks.not_traced(history)
        histories.append(jax.tree.map(np.asarray, history))
        steps -= length

        # Batches on which no point was accepted yet stay for the next chunk.
        pending = pending[int(state.batch) - used_before :]
        if settings.callback is not None:
            params, kept = keep(state)
            kept = kept._replace(pending=tuple(pending))
            if settings.callback(FitProgress(*histories[-1], params, kept, settings.steps)):
                break
        if state.nonfinite_step >= 0:
            break
    state = state._replace(pending=tuple(pending))
    if histories:
        return state, _concatenate(histories)
    return state, _empty_history(settings, state, None if settings.from_iterator else data)


def _stack_batches(batches: list[Any]) -> Any:
    _checks.iterator_batches(batches)
    return _checks.arrays("batch", jax.tree.map(_stack, *batches))


def _stack(*leaves: Any) -> Any:
    return (jnp.stack if isinstance(leaves[0], jax.Array) else np.stack)(leaves)


def _empty_history(settings: Settings, state: FitState, data: Any | None) -> FitHistory:
    """No rows, in the dtypes of those of a step, if there is a batch to know them from."""
    if data is None:
        none = jnp.zeros(0)
        return FitHistory(none.astype(jnp.int32), none, none, none, evaluation=None)
    _, row = jax.eval_shape(lambda state: _run_chunk(settings, state, data, 1), state)
    return jax.tree.map(lambda x: jnp.zeros((0, *x.shape[1:]), x.dtype), row)


def _concatenate(histories: list[FitHistory]) -> FitHistory:
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *histories)


# One chunk.


def _run_chunk(
    settings: Settings, start: FitState, data: Any, length: int
) -> tuple[FitState, FitHistory]:
    batches = _batches(settings, start, data, length)

    def body(carry: tuple[FitState, jax.Array], _: None) -> Any:
        state, alive = carry
        state = state._replace(batch=_in_separate_kernels(state.batch))
        state, record = _step(settings, state, alive, batches(state.batch - start.batch))
        return (state, record.alive), record

    alive = start.nonfinite_step < 0
    (end, _), records = jax.lax.scan(body, (start, alive), length=length)
    end = _count_steps(start, end, records)
    history = _history(start, records)
    if settings.evaluate is not None:
        evaluation = settings.evaluate(_result_params(end), **_model_state_by_name(end))
        evaluation = _checks.arrays("evaluation", evaluation)
        history = history._replace(evaluation=jax.tree.map(lambda x: x[None], evaluation))
    return end, history


def _batches(
    settings: Settings, start: FitState, data: Any, length: int
) -> Callable[[jax.Array], Any]:
    """The i-th batch of a chunk, as a function of i."""
    if settings.from_iterator:
        return lambda i: sharding.take_rows(data, i)
    if settings.batch_size is None:
        return lambda _: data
    return _shuffled(data, settings.batch_size, start, length)


def _shuffled(
    data: Any, batch_size: int, start: FitState, length: int
) -> Callable[[jax.Array], Any]:
    num_examples = jax.tree.leaves(data)[0].shape[0]
    per_epoch = num_examples // batch_size  # whole batches

    # A chunk of `length` batches meets at most so many epochs, if its first batch is the last of
    # one. It begins `offset` batches into the first of them.
    num_epochs = (per_epoch - 1 + length - 1) // per_epoch + 1
    first_epoch, offset = jnp.divmod(start.batch, per_epoch)

    # The order of an epoch depends on the key and its number only, so that a run may stop and
    # continue anywhere. All orders of the chunk are drawn before its loop.
    def order(epoch: jax.Array) -> jax.Array:
        return _permutation(jax.random.fold_in(start.key, epoch), num_examples)

    orders = jax.vmap(order)(first_epoch + jnp.arange(num_epochs, dtype=jnp.int32))
    batches = orders[:, : per_epoch * batch_size].reshape(-1, batch_size)
    return lambda i: sharding.take_rows(data, batches[offset + i])


def _permutation(key: jax.Array, n: int) -> jax.Array:
    """The numbers 0 … n - 1 in random order.

    `jax.random.permutation` sorts pairs of random bits and position. Here both are packed into one
    word, since XLA for CPU sorts one operand 6 times faster than a pair, which was half of the time
    of a small network's step.
    """
    # A word of 32 bits: random bits above, the position below.
    position_bits = max(1, (n - 1).bit_length())
    random_bits = 32 - position_bits
    position = jnp.arange(n, dtype=jnp.uint32)

    # Equal random bits leave two positions in order, which is not random. n²/2 pairs tie with the
    # probability 2^-random_bits in a round: after so many rounds less than one pair is expected
    # to tie in all of them.
    num_rounds = math.ceil((2 * position_bits - 1) / random_bits)
    order = position
    for round_key in jax.random.split(key, num_rounds):
        bits = jax.random.bits(round_key, (n,), jnp.uint32)
        words = jnp.sort((bits << position_bits) | position)
        order = order[words & jnp.uint32(2**position_bits - 1)]
    return order


def _in_separate_kernels(counter: jax.Array) -> jax.Array:
    """The same number, computed so that XLA for CPU does not compile the loop as one function.

    jax 0.12 compiles a loop over little memory as one function. There it depends on the length of
    the loop, and on the donation of its arguments, which products and sums become one
    multiply-add, and so does the last bit of a step. A loop that sorts is compiled kernel by
    kernel, and the bits of a run do not depend on how it is split. The price is the speed of very
    small models: with jax 0.12 a step of linear regression takes 1.7 to 5 times as long.
    """

    def through_sort(x: jax.Array) -> jax.Array:
        return jax.lax.sort(jnp.stack([x, x]))[0]

    return jax.lax.platform_dependent(counter, cpu=through_sort, default=lambda x: x)


# One step.


def _step(
    settings: Settings, state: FitState, alive: jax.Array, batch: Any
) -> tuple[FitState, StepRecord]:
    """One step of a run; one that has ended stays as it is."""
    objective = _objective(settings, state, batch)
    value_and_grad = jax.value_and_grad(objective, has_aux=True, allow_int=True)
    (value, (model_state, aux)), grads = value_and_grad(state.params)
    grads = _tree.ascent_direction(grads, state.params)
    updates, opt_state = settings.tx.update(
        grads,
        state.opt_state,
        state.params,
        value=value,
        grad=grads,
        value_fn=lambda params: objective(_tree.fill(params, state.params))[0],
    )
    trial = find_trial(opt_state)
    anchor = None if trial is None else trial.anchor_params
    _checks.applicable_updates(updates, grads, state.params, anchor=anchor)

    # An accepted point uses up its batch, with the batch's key, and its model state is kept. It
    # ends the run if its loss is not finite.
    took = accepted(opt_state)
    alive &= jnp.isfinite(value) | ~took
    after = state._replace(
        params=optax.apply_updates(state.params, updates),
        finite_params=_select(took, state.params, state.finite_params),
        opt_state=opt_state,
        batch=state.batch + took.astype(jnp.int32),
        model_state=_select(took, model_state, state.model_state),
    )
    record = StepRecord(
        alive=alive,
        loss=_tree.widen(value),
        learning_rate=_learning_rate(opt_state),
        grad_norm=_tree.norm(grads),
        aux=aux,
    )
    return _select(alive, after, state), record


def _objective(settings: Settings, state: FitState, batch: Any) -> Callable[[Any], Any]:
    """The loss of a step as ``params -> (value, (model_state, aux))``, with None for what is off.

    The key and the model state depend on the batches used up and not on the steps, so that all
    trials of a batch see one function.
    """
    key = {}
    if settings.needs_key:
        stream = jax.random.fold_in(state.key, LOSS_STREAM)
        key["key"] = jax.random.fold_in(stream, state.batch)

    def objective(params: Any) -> Any:
        out = settings.loss(params, batch, **key, **_model_state_by_name(state))
        return _checks.loss_output(out, model_state=state.model_state, has_aux=settings.has_aux)

    return objective


def _model_state_by_name(state: FitState) -> dict[str, Any]:
    """The keyword argument of a loss or an evaluation, if there is a model state.

    Its containers are new, so that a loss may write into them, as NNX does.
    """
    if state.model_state is None:
        return {}
    return {"model_state": jax.tree.map(lambda x: x, state.model_state)}


def _select(condition: jax.Array, on_true: Any, on_false: Any) -> Any:
    """As `_tree.select`, but also of states that handle acceptance themselves."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), on_true, on_false)


def _learning_rate(opt_state: optax.OptState) -> Any:
    found = optax.tree.get_all_with_path(opt_state, "learning_rate")
    return found[0][1] if found else _no_number()


def _no_number() -> float:
    """What stands where there is no number: NaN, or 0 while JAX looks for the origin of one."""
    return 0.0 if jax.config.values["jax_debug_nans"] else math.nan


# After a chunk: all its rows at once. In the loop each of these scalars would be a kernel of its
# own, which takes as long as a layer's bias.


def _count_steps(start: FitState, end: FitState, records: StepRecord) -> FitState:
    step = start.step + jnp.sum(records.alive, dtype=jnp.int32)
    ended = (start.nonfinite_step < 0) & ~jnp.all(records.alive)
    return end._replace(step=step, nonfinite_step=jnp.where(ended, step, start.nonfinite_step))


def _history(start: FitState, records: StepRecord) -> FitHistory:
    """The rows of a chunk. The step that ends a run has a loss, but no update and so no rate."""
    evaluated = jnp.append(start.nonfinite_step < 0, records.alive[:-1])
    return FitHistory(
        step=start.step + jnp.arange(len(records.alive), dtype=jnp.int32),
        loss=_rows_where(evaluated, records.loss),
        learning_rate=_rows_where(records.alive, records.learning_rate),
        grad_norm=_rows_where(evaluated, records.grad_norm),
        evaluation=None,
        aux=jax.tree.map(lambda rows: _rows_where(evaluated, rows), records.aux),
    )


def _rows_where(condition: jax.Array, rows: jax.Array) -> jax.Array:
    """The rows where a condition holds, elsewhere NaN, or zero in an array that has no NaN."""
    condition = condition.reshape(-1, *[1] * (rows.ndim - 1))
    fill = jnp.full_like(rows, _no_number()) if _checks.is_inexact(rows) else jnp.zeros_like(rows)
    return jnp.where(condition, rows, fill)


def _result_params(state: FitState) -> Any:
    trial = find_trial(state.opt_state)
    last = state.params if trial is None else _tree.fill(trial.anchor_params, state.params)
    return _select(state.nonfinite_step < 0, last, state.finite_params)


def _warn_if_diverged(end: FitState) -> None:
    if isinstance(end.nonfinite_step, Tracer):
        return
    step = int(end.nonfinite_step)
    if step >= 0:
        message = (
            f"the loss was not finite at step {step}, which ended the run; the parameters returned "
            "are those of the last finite loss, or the first ones. A smaller learning rate may help"
        )
        warnings.warn(message, DivergenceWarning, stacklevel=3)


def _warn_if_ended(end: FitState, *, all_examples: bool) -> None:
    """Warn if a line search or a trust region has ended the run, unless at a minimum."""
    trial = find_trial(end.opt_state)
    if trial is None or isinstance(trial.status, Tracer) or int(end.nonfinite_step) >= 0:
        return
    status = Status(int(trial.status))
    at_minimum = all_examples and status in (Status.CONVERGED, Status.STALLED)
    if status is Status.RUNNING or at_minimum:
        return
    message = (
        f"the method ended with the status {status.name} after {int(trial.num_evals)} evaluations, "
        f"and no later step has moved the parameters: {status.__doc__}"
    )
    if not all_examples:
        message += (
            " What it learns on a mini-batch of the loss and its curvature is noise to the next: "
            "use larger batches, all examples (batch_size=None), or adam"
        )
    warnings.warn(message, RuntimeWarning, stacklevel=3)
