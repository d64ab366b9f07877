"""Minimisation of many problems at once: a batch from which the runs that have ended are taken.

The runs of a device lie in a queue, a stack of arrays with one row a run:

    ended | the batch: a window of consecutive rows | runs that wait

A round steps the batch until enough of its runs have ended. Then it moves these to the front of the
window and the others to its back. The next window begins behind the ended ones, where the running
ones and those that wait are neighbours. So the batch is cut out and put back as one slice.
"""

import functools
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cs231n_optax import _checks, _tree
from cs231n_optax._eager import ById
from cs231n_optax.globalization.trial import (
    BUDGET,
    CONVERGED,
    RUNNING,
    STOPPED,
    find_trial,
    with_status,
)
from cs231n_optax.training.minimize import (
    Carry,
    MinimizeResult,
    Problem,
    _evaluate_and_update,
    _first_carry,
    _result,
    _with_trial_record,
)
from cs231n_optax.training.sweep import _no_mesh_set

# Sizes of the batch after the first one. Each takes a compilation, and steps of 2 are no faster:
# few runs are left at the small sizes (benchmarks/batches.py --cases sizes).
SIZES = (1, 8, 64, 512, 4096, 32768, 262144)
PATIENCE = 32  # evaluations for which a batch that could be smaller waits for its end
REFILL = 7 / 8  # the share of running runs at which those that wait take the other places
RUNS_ON_CPU = 1024  # at once; more of them do not fit in the cache


class MinimizeBatchProgress(NamedTuple):
    """The argument of the callback of `minimize_batch`, after each round.

    Attributes:
      num_ended: int, the number of runs that have ended.
      num_runs: int, the number of all runs.
      num_evals: int, evaluations so far, of all runs together.
      seconds: float, since the call.
      status: int array (num_runs,), the `Status` of each run.
      value: array (num_runs,), the value at its last accepted point; infinite before the first.
    """

    num_ended: int
    num_runs: int
    num_evals: int
    seconds: float
    status: np.ndarray
    value: np.ndarray

    def best_converged(self, k: int) -> bool:
        """Whether the runs with the k least values have converged."""
        return bool(np.all(self.status[np.argsort(self.value)[:k]] == CONVERGED))


class Settings(NamedTuple):
    """What selects the compiled programs, beside the shapes.

    Attributes:
      functions: ``fun`` and ``tx``.
      has_aux: that of `minimize`.
      structure: of the tree ``args``.
      axes: of each of its leaves: 0 if each run has its own, None if all share it.
      mesh: the devices.
    """

    functions: tuple[ById, ById]
    has_aux: bool
    structure: Any
    axes: tuple[int | None, ...]
    mesh: Mesh


class Limits(NamedTuple):
    """Numbers of `minimize` that may change from call to call."""

    tol: Any
    atol: Any
    max_evals: Any


class Queue(NamedTuple):
    """The runs, those that have ended first.

    Attributes:
      index: int32, the number of each run in the order of the caller.
      carry: what its last evaluation hands to the next.
    """

    index: jax.Array
    carry: Carry


class Programs(NamedTuple):
    """The jitted functions of a call."""

    start: Callable[..., Any]
    resume: Callable[..., Any]
    advance: Callable[..., Any]


def minimize_batch(
    fun: Callable[..., Any],
    x0: Any,
    tx: optax.GradientTransformation,
    *,
    args: tuple[Any, ...] = (),
    in_axes: Any = 0,
    tol: jax.typing.ArrayLike = 1e-5,
    atol: jax.typing.ArrayLike = 0.0,
    max_evals: jax.typing.ArrayLike = 1000,
    has_aux: bool = False,
    state: Any = None,
    callback: Callable[[MinimizeBatchProgress], Any] | None = None,
    batch_size: int | None = None,
    evals_per_round: int = 32,
    mesh: Mesh | None = None,
) -> MinimizeResult:
    """Minimise from many starts, or with many arguments, at the cost of the runs that still go on.

    Each run is that of `minimize`. Under ``jax.vmap(minimize)`` every run is evaluated until the
    last one ends. Here a run that has ended leaves the batch: runs that wait take its place, and
    when none waits a smaller batch takes over. So it is faster where the numbers of evaluations
    differ, or where all runs together would not fit in the cache or the memory.

    It is called from Python, not under `jax.jit` or `jax.vmap`, and has no derivatives. For those,
    start ``jax.vmap(minimize)`` at ``result.params``: it converges at the first evaluation. A call
    takes some milliseconds beside the evaluations.

    One program is compiled for the first size of the batch, and one for each much smaller power of
    8 that is needed for more than 32 evaluations: for 1000 runs at once, then for 64, 8 and 1. So
    the first call may take longer than ``jax.vmap(minimize)`` with its one program. The programs
    for the last 16 pairs of ``fun`` and ``tx`` are kept: a second call with the same two objects
    and the same shapes compiles nothing.

    Args:
      fun: as in `minimize`, of one run: ``fun(x, *args) -> scalar``. What it closes over becomes a
        constant of each program, so pass large data as ``args``.
      x0: the starting points, a tree of arrays with a leading axis.
      tx: an Optax transformation, the same for all runs.
      args: tuple of further arguments of ``fun``.
      in_axes: which of ``(x0, *args)`` have a leading axis, as in `jax.vmap`: 0 for those that
        have, None for those that all runs share, in a tuple, or one for all. An entry may be a
        tree of 0 and None.
      tol: as in `minimize`.
      atol: as in `minimize`.
      max_evals: as in `minimize`, of each run.
      has_aux: as in `minimize`.
      state: ``state`` of an earlier result with the same ``fun``, ``args`` and ``tx``. Runs that
        are STOPPED, and those that had a smaller ``max_evals``, go on exactly from there; the
        others keep their result. ``x0`` then only has to be of the same shapes.
      callback: called with `MinimizeBatchProgress` after each round. If it returns True, all runs
        end there, the running ones with the status STOPPED: ``lambda p: p.best_converged(5)``,
        ``lambda p: p.seconds > 60`` or ``lambda p: p.num_evals > 10**6``.
      batch_size: runs that a device evaluates at once, >= 1. None: 1024 on a CPU, all elsewhere.
      evals_per_round: the largest number of evaluations of a run between two calls of the
        callback, >= 1.
      mesh: devices, all of whose axes are used, of this process; None: all of them. The runs are
        dealt out to the devices in turn.

    Returns:
      `MinimizeResult` of arrays with a leading axis, in the order of ``x0``, on the first device.
      A run that has not begun when the callback stops has 0 evaluations and the value infinity.
      ``result.state.opt_state`` is the state of the transformation.

    Raises:
      ValueError: as `minimize` does; if the leading axes differ, are 0, or do not agree with
        ``in_axes``, or ``state`` is not of these runs.
      TypeError: as `minimize` does; if it is called under a transformation of JAX.

    Example:
      >>> import cs231n_optax, jax, jax.numpy as jnp
      >>> def fun(x, a): return jnp.sum((x**2 - a) ** 2)
      >>> x0 = jax.random.normal(jax.random.key(0), (10, 2))
      >>> result = cs231n_optax.minimize_batch(
      ...     fun, x0, cs231n_optax.bfgs(), args=(2.0,), in_axes=(0, None))
      >>> print(abs(result.params).mean(axis=0).round(3), result.message)
      [1.414 1.414] 10 runs: 10 CONVERGED.

    Differs from:
      ``jax.vmap(minimize)`` in rounding: the results agree to the tolerance, not bit for bit.
    """
    _checks.function("fun", fun)
    _checks.transformation("tx", tx)
    if callback is not None:
        _checks.function("callback", callback)
    limits = Limits(
        tol=_checks.nonnegative("tol", tol),
        atol=_checks.nonnegative("atol", atol),
        max_evals=_checks.evaluations("max_evals", max_evals),
    )
    if batch_size is not None:
        batch_size = _checks.static_int("batch_size", batch_size, at_least=1)
    evals_per_round = _checks.static_int(
        "evals_per_round", evals_per_round, at_least=1, at_most=_checks.MAX_INT
    )
    args = _checks.further_arguments("args", args)
    x0, args = _checks.arrays("x0", x0), _checks.arrays("args", args)
    _refuse_tracers((x0, args, state, limits))
    x0_axes, args_axes = _leaf_axes(in_axes, x0, args)
    num_runs = _num_runs((x0, *args), x0_axes + args_axes)
    mesh = _mesh(mesh, num_runs)
    settings = Settings(
        functions=(ById(fun), ById(tx)),
        has_aux=_checks.static_bool("has_aux", has_aux),
        structure=jax.tree.structure(args),
        axes=args_axes,
        mesh=mesh,
    )

    began = time.perf_counter()
    programs = _programs(settings)
    with _no_mesh_set():
        x0, structure = jax.tree.flatten(x0)
        x0 = [
            x if axis == 0 else jnp.broadcast_to(x, (num_runs, *x.shape))
            for x, axis in zip(x0, x0_axes, strict=True)
        ]
        inputs = jax.tree.leaves(args)
        own = [x for x, axis in zip(inputs, args_axes, strict=True) if axis == 0]
        index = np.arange(num_runs, dtype=np.int32)
        x0, own, index = _dealt((structure.unflatten(x0), own, index), mesh)
        own, shared = iter(own), NamedSharding(mesh, SHARED)
        inputs = [
            next(own) if axis == 0 else jax.device_put(x, shared)
            for x, axis in zip(inputs, args_axes, strict=True)
        ]
        queue, running = programs.start(x0, inputs, index, num_runs, limits)
        _refuse_tracers(running)
        if state is not None:
            given = _given_state(state, queue.carry, num_runs, mesh)
            queue, running = programs.resume(Queue(index, given), num_runs, limits)

        size = largest = _largest_size(queue.index.shape[0], batch_size, mesh)
        most_evals = _checks.MAX_INT if callback is None else evals_per_round
        waited = 0
        while most := int(np.asarray(running).max()):
            fitting = min((size for size in _sizes(largest) if size >= most), default=largest)
            if fitting < size and waited < PATIENCE:
                num_evals, enough = min(most_evals, PATIENCE - waited), 0
                waited += num_evals
            else:
                size, waited, num_evals = fitting, 0, most_evals
                enough = max((smaller for smaller in _sizes(largest) if smaller < size), default=0)
            queue, running = programs.advance(size, queue, inputs, num_evals, enough, limits)
            if callback is not None and callback(_progress(queue, num_runs, began)):
                break
        if mesh.size > 1:
            queue = jax.device_put(queue, mesh.devices.flat[0])
        return _finish(queue, num_runs)


# The arguments.


def _refuse_tracers(tree: Any) -> None:
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree)):
        raise TypeError(
            "minimize_batch runs on the host and can't be traced: call it outside of jax.jit, "
            "jax.vmap and jax.grad, or use jax.vmap(minimize)"
        )


def _is_none(node: Any) -> bool:
    return node is None


def _leaf_axes(
    in_axes: Any, x0: Any, args: tuple[Any, ...]
) -> tuple[tuple[int | None, ...], tuple[int | None, ...]]:
    """The axes, 0 or None, of the leaves of x0 and of those of args."""
    in_axes = tuple(in_axes) if isinstance(in_axes, list) else in_axes
    try:
        axes = jax.tree.broadcast(in_axes, (x0, *args), is_leaf=_is_none)
    except ValueError:
        structure = jax.tree.structure((x0, *args))
        raise ValueError(
            f"in_axes must be a prefix of the tree (x0, *args), {structure}, got {in_axes}"
        ) from None
    x0_axes, args_axes = (
        tuple(jax.tree.leaves(part, is_leaf=_is_none)) for part in (axes[0], axes[1:])
    )
    for axis in x0_axes + args_axes:
        if axis is not None and (isinstance(axis, bool) or axis != 0):
            raise ValueError(f"in_axes must be made of 0 and None, got {axis!r} in {in_axes!r}")
    return x0_axes, args_axes


def _num_runs(given: tuple[Any, ...], axes: tuple[int | None, ...]) -> int:
    """The common leading axis of ``(x0, *args)``."""
    sizes: dict[str, int] = {}
    for (path, leaf), axis in zip(jax.tree.leaves_with_path(given), axes, strict=True):
        if axis is None:
            continue
        place = path[0].idx
        name = "x0" if place == 0 else f"args[{place - 1}]"
        name += jax.tree_util.keystr(path[1:])
        if not leaf.shape:
            raise ValueError(
                f"{name} must have a leading axis of runs, got a scalar: in_axes is None for what "
                "all runs share"
            )
        sizes[name] = leaf.shape[0]
    if not sizes:
        raise ValueError("in_axes must be 0 for x0 or one of args, got None for all of them")
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{size} of {name}" for name, size in sizes.items())
        raise ValueError(f"the leading axes of x0 and args must agree, got {found}")
    name, size = next(iter(sizes.items()))
    if size == 0:
        raise ValueError(f"{name} must hold at least one run, got a leading axis of 0")
    return size


def _mesh(mesh: Mesh | None, num_runs: int) -> Mesh:
    """The devices, in one axis. By default, not more than there are runs."""
    if mesh is None:
        return Mesh(np.array(jax.local_devices()[:num_runs]), ("runs",))
    _checks.instance("mesh", mesh, Mesh, "a jax.sharding.Mesh")
    if mesh.is_multi_process:
        raise ValueError("mesh must be of devices of this process: give each one its own runs")
    return Mesh(mesh.devices.ravel(), ("runs",))


def _given_state(state: Any, like: Carry, num_runs: int, mesh: Mesh) -> Carry:
    _checks.instance("state", state, Carry, "the state of an earlier result of minimize_batch")
    sizes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(state)}
    if sizes != {(num_runs,)}:
        raise ValueError(f"state must be of the {num_runs} runs of x0, got leading axes {sizes}")
    state = _dealt(state, mesh)
    _checks.state(state, like)
    return state


# The sizes of the batch.


def _largest_size(num_rows: int, batch_size: int | None, mesh: Mesh) -> int:
    """The first size: the rows in equal parts, each of at most ``batch_size``."""
    if batch_size is None:
        on_cpu = mesh.devices.flat[0].platform == "cpu"
        batch_size = RUNS_ON_CPU if on_cpu else num_rows
    return math.ceil(num_rows / math.ceil(num_rows / batch_size))


def _sizes(largest: int) -> list[int]:
    """Those that a batch goes through; it shrinks to a quarter or less."""
    return [size for size in SIZES if size <= largest // 4] + [largest]


# The programs. Run i is in row i // D of device i % D, so that no device has all of the long runs.
# Nothing is exchanged between devices: a device whose runs have ended waits for the next round.

DEALT, SHARED = PartitionSpec(None, "runs"), PartitionSpec()


def _dealt(tree: Any, mesh: Mesh) -> Any:
    """Arrays (runs, ...) as (rows, devices, ...), the last row filled up with its last run."""
    first = NamedSharding(Mesh(mesh.devices[:1], mesh.axis_names), SHARED)
    columns = _columns(jax.device_put(tree, first), mesh.size)
    return columns if mesh.size == 1 else jax.device_put(columns, NamedSharding(mesh, DEALT))


@functools.partial(jax.jit, static_argnums=1)
def _columns(tree: Any, num_devices: int) -> Any:
    def leaf(x: jax.Array) -> jax.Array:
        num_rows = math.ceil(x.shape[0] / num_devices)
        filled = x[jnp.minimum(jnp.arange(num_rows * num_devices), x.shape[0] - 1)]
        return filled.reshape(num_rows, num_devices, *x.shape[1:])

    return jax.tree.map(leaf, tree)


@functools.lru_cache(maxsize=16)
def _programs(settings: Settings) -> Programs:
    inputs = [DEALT if axis == 0 else SHARED for axis in settings.axes]

    def on_mesh(function: Callable[..., Queue], *in_specs: Any) -> Callable[..., Any]:
        """``function(settings, ...)`` of the rows of each device; and how many of them run."""

        def on_device(*args: Any) -> tuple[Queue, jax.Array]:
            queue = function(settings, *jax.tree.map(_own_rows, in_specs, args, is_leaf=_is_spec))
            running = _num_running(queue.carry)[None]
            return jax.tree.map(lambda x: x[:, None], queue), running

        return jax.shard_map(
            on_device,
            mesh=settings.mesh,
            in_specs=in_specs,
            out_specs=(DEALT, PartitionSpec("runs")),
            check_vma=False,
        )

    def advance(size: int, *args: Any) -> Any:
        step = functools.partial(_advance, size)
        return on_mesh(step, DEALT, inputs, SHARED, SHARED, SHARED)(*args)

    return Programs(
        start=jax.jit(on_mesh(_start, DEALT, inputs, DEALT, SHARED, SHARED)),
        resume=jax.jit(on_mesh(_resume, DEALT, SHARED, SHARED)),
        advance=jax.jit(advance, static_argnums=0, donate_argnums=1),
    )


def _is_spec(node: Any) -> bool:
    return isinstance(node, PartitionSpec)


def _own_rows(spec: PartitionSpec, tree: Any) -> Any:
    """What a device has of the arguments, without the axis of the devices."""
    return jax.tree.map(lambda x: x[:, 0], tree) if spec == DEALT else tree


def _start(
    settings: Settings, x0: Any, inputs: Any, index: jax.Array, num_runs: Any, limits: Limits
) -> Queue:
    """The queue before the first round. The rows of the last run's copies have ended."""

    def first(x0: Any, inputs: Any) -> Carry:
        problem = _problem(settings, inputs, limits, x0)
        return _first_carry(problem, x0, None)

    carry = jax.vmap(first, in_axes=(0, list(settings.axes)))(_tree.copy(x0), inputs)
    return _ended_first(Queue(index, _without_copies(carry, index, num_runs)))


def _resume(settings: Settings, queue: Queue, num_runs: Any, limits: Limits) -> Queue:
    """The queue of an earlier result, whose runs go on if a stop or a smaller budget ended them."""
    del settings
    index, carry = queue
    trial: Any = find_trial(carry.opt_state)
    status = carry.loop.status
    has_budget = (status == BUDGET) & (trial.num_evals < limits.max_evals)
    carry = _with_status(carry, jnp.where((status == STOPPED) | has_budget, RUNNING, status))
    return _ended_first(Queue(index, _without_copies(carry, index, num_runs)))


def _advance(
    size: int,
    settings: Settings,
    queue: Queue,
    inputs: Any,
    num_evals: Any,
    enough: Any,
    limits: Limits,
) -> Queue:
    """One round of a batch of ``size`` runs.

    It takes at most ``num_evals`` evaluations of each, and ends when no more than ``enough`` go on.
    If others wait, it ends when they can take an eighth of the places.
    """
    # Cut out the window behind the runs that have ended, or the last one.
    num_rows, running = queue.index.shape[0], _num_running(queue.carry)
    begin = jnp.minimum(num_rows - running, num_rows - size)
    index, carry = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, begin, size), queue)
    rows = index // settings.mesh.size
    inputs = [x[rows] if axis == 0 else x for x, axis in zip(inputs, settings.axes, strict=True)]

    # Step it.
    enough = jnp.where(running > size, int(REFILL * size), enough)

    def step(carry: Carry, inputs: Any) -> Carry:
        problem = _problem(settings, inputs, limits, carry.params)
        new = _evaluate_and_update(problem, carry)
        # A run that ends keeps the trial point, and may be resumed.
        running = carry.loop.status == RUNNING
        return new._replace(params=_tree.select(running, new.params, carry.params))

    steps = jax.vmap(step, in_axes=(0, list(settings.axes)))

    def goes_on(loop: tuple[jax.Array, Carry]) -> jax.Array:
        return (loop[0] < num_evals) & (_num_running(loop[1]) > enough)

    def advance(loop: tuple[jax.Array, Carry]) -> tuple[jax.Array, Carry]:
        return loop[0] + 1, steps(loop[1], inputs)

    _, carry = jax.lax.while_loop(goes_on, advance, (jnp.int32(0), carry))

    # Put it back, those that have ended first.
    window = _ended_first(Queue(index, carry))
    return jax.tree.map(
        lambda x, part: jax.lax.dynamic_update_slice_in_dim(x, part, begin, 0), queue, window
    )


def _problem(settings: Settings, inputs: Any, limits: Limits, x: Any) -> Problem:
    """The problem of one run."""
    fun, tx = (function.value for function in settings.functions)

    def checked(*xs: Any) -> Any:
        return _checks.objective_output("fun", fun(*xs), has_aux=settings.has_aux)

    return Problem(
        fun=checked,
        inputs=jax.tree.unflatten(settings.structure, inputs),
        has_aux=settings.has_aux,
        tx=_with_trial_record(tx, None, x),
        tol=limits.tol,
        atol=limits.atol,
        max_evals=limits.max_evals,
        callback=None,
    )


def _num_running(carry: Carry) -> jax.Array:
    return jnp.sum(carry.loop.status == RUNNING, dtype=jnp.int32)


def _with_status(carry: Carry, status: jax.Array) -> Carry:
    return carry._replace(
        opt_state=with_status(carry.opt_state, status), loop=carry.loop._replace(status=status)
    )


def _without_copies(carry: Carry, index: jax.Array, num_runs: Any) -> Carry:
    status = carry.loop.status
    return _with_status(carry, jnp.where(index < num_runs, status, STOPPED))


def _ended_first(queue: Queue) -> Queue:
    order = jnp.argsort(queue.carry.loop.status == RUNNING, stable=True)
    return jax.tree.map(lambda x: x[order], queue)


# The results, in the order of the caller.


@functools.partial(jax.jit, static_argnums=1)
def _finish(queue: Queue, num_runs: int) -> MinimizeResult:
    order = jnp.argsort(queue.index.ravel())[:num_runs]
    carry = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[order], queue.carry)
    status = carry.loop.status
    carry = _with_status(carry, jnp.where(status == RUNNING, STOPPED, status))
    result = jax.vmap(_result)(carry)
    has_begun = result.num_evals > 0
    return result._replace(
        value=jnp.where(has_begun, result.value, jnp.inf),
        grad_norm=jnp.where(has_begun, result.grad_norm, jnp.inf),
        state=carry,
    )


def _progress(queue: Queue, num_runs: int, began: float) -> MinimizeBatchProgress:
    trial: Any = find_trial(queue.carry.opt_state)
    index, status, value, num_evals = (
        np.asarray(x).ravel()
        for x in (queue.index, trial.status, trial.anchor_value, trial.num_evals)
    )
    order = np.argsort(index)[:num_runs]
    status, value, num_evals = status[order], value[order], num_evals[order]
    return MinimizeBatchProgress(
        num_ended=int(np.sum(status != RUNNING)),
        num_runs=num_runs,
        num_evals=int(num_evals.sum()),
        seconds=time.perf_counter() - began,
        status=status,
        value=np.where(num_evals > 0, value, np.inf),
    )
