"""L-BFGS on mini-batches (lecture 7-1-10): the runs of every method, with equal evaluations.

On each workload, with each batch size, every method has the same budget of gradient evaluations of
a batch. Those with a learning rate are tuned on seeds that do not count. All runs of a call go
through one compiled program, spread over the devices.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec

import cs231n_optax
from cs231n_optax.experiments.minibatch.sqn import sqn
from cs231n_optax.experiments.minibatch.workloads import Workload
from cs231n_optax.training.fit import fit

EVERY = 10  # of sqn
CURVATURE_WEIGHT = 30  # of sqn, over the learning rate
MEASUREMENTS = 10  # of the training loss during a run
FIRST_TRIAL = 1_000  # the first seed of the tuning
MAX_EXTENSIONS = 2  # of a range of learning rates, beyond an end that is best


class Size(NamedTuple):
    """The size of the experiment.

    Attributes:
      evaluations: of the gradient of a batch, in each run.
      seeds: runs that count, and runs of any call of a program.
      rates: learning rates of each tuned method that are tried first.
      repeats: seeds from which each is tried.
      batch_sizes: examples of a batch.
      workloads: names.
    """

    evaluations: int
    seeds: int
    rates: int
    repeats: int
    batch_sizes: tuple[int, ...]
    workloads: tuple[str, ...]


class Task(NamedTuple):
    """A workload with a batch size and a budget."""

    workload: Workload
    batch_size: int
    evaluations: int


class Run(NamedTuple):
    """What a run ends with: floats.

    Attributes:
      train_loss, test_loss, test_error: of the final parameters; the last is NaN without classes.
      curve: (measurements,), the training loss on the way.
    """

    train_loss: Any
    test_loss: Any
    test_error: Any
    curve: Any


class Result(NamedTuple):
    """A method on a workload with a batch size.

    Attributes:
      rate: the learning rate.
      rates: those that were tried.
      tuned: of each of them, the mean of log10 of the training loss over the repeats.
      runs: of all seeds, arrays (seeds, ...).
    """

    rate: float
    rates: list[float]
    tuned: list[float]
    runs: Run


Train = Callable[[Task, Any, Any, jax.Array], tuple[Any, jax.Array]]
"""``train(task, rate, params, key) -> (params, curve)``."""


class Method(NamedTuple):
    """A method, and the range of its learning rates: one rate is not tuned."""

    train: Train
    lowest: float
    highest: float


def by_fit(make: Callable[..., optax.GradientTransformation], averaging: Any = None) -> Train:
    """Train by `fit`; ``make(rate, steps)`` makes the transformation."""

    def train(task: Task, rate: Any, params: Any, key: jax.Array) -> Any:
        result = fit(
            task.workload.loss,
            params,
            make(rate, task.evaluations),
            task.workload.train,
            steps=task.evaluations,
            batch_size=task.batch_size,
            key=key,
            averaging=averaging,
            evaluate=partial(_loss, task.workload),
            chunk_size=math.ceil(task.evaluations / MEASUREMENTS),
        )
        average = averaging is not None
        params = cs231n_optax.averaged_params(result.state) if average else result.params
        return params, result.history.evaluation

    return train


def by_growing_batches(task: Task, rate: Any, params: Any, key: jax.Array) -> Any:
    """L-BFGS on the first B, 2 B, 4 B, ... examples of a random order, up to all of them.

    Each stage has the same share of the budget, counted in examples.
    """
    del rate
    examples = task.workload.train
    n = len(jax.tree.leaves(examples)[0])
    sizes = [task.batch_size]
    while sizes[-1] < n:
        sizes.append(min(2 * sizes[-1], n))
    order, curve = jax.random.permutation(key, n), []
    for size in sizes:
        held = jax.tree.map(lambda x, size=size: x[order[:size]], examples)
        steps = max(1, task.evaluations * task.batch_size // len(sizes) // size)
        params = fit(task.workload.loss, params, cs231n_optax.lbfgs(), held, steps=steps).params
        curve.append(_loss(task.workload, params))
    return params, jnp.stack(curve)


def _cosine(make: Callable[[Any], Any]) -> Train:
    return by_fit(lambda rate, steps: make(optax.cosine_decay_schedule(rate, steps)))


def _sqn(rate: Any, evaluations: int) -> optax.GradientTransformation:
    schedule = optax.cosine_decay_schedule(rate, max(1, evaluations * EVERY // (EVERY + 1)))
    return sqn(schedule, curvature_weight=CURVATURE_WEIGHT * rate, every=EVERY)


METHODS = {
    "adam": Method(_cosine(cs231n_optax.adam), 1e-4, 0.3),
    "momentum": Method(_cosine(cs231n_optax.momentum), 1e-3, 3.0),
    "adam-1e-3": Method(by_fit(lambda rate, _: cs231n_optax.adam(rate)), 1e-3, 1e-3),
    "prodigy": Method(
        by_fit(
            lambda rate, _: optax.contrib.prodigy(rate),
            cs231n_optax.polyak_average(bias_correction=True),
        ),
        1.0,
        1.0,
    ),
    "lbfgs": Method(by_fit(lambda *_: cs231n_optax.lbfgs()), 1.0, 1.0),
    "growing": Method(by_growing_batches, 1.0, 1.0),
    "sqn": Method(by_fit(_sqn), 1e-4, 0.3),
}


def measure(
    method: Method, workload: Workload, batch_size: int, size: Size, progress: Callable[[], None]
) -> Result:
    """Tune a method if it has a range of rates, and run it from every seed."""
    task = Task(workload, batch_size, size.evaluations)
    program = compile_runs(method, task, size)
    rates = losses = np.zeros(0)
    if method.lowest != method.highest:
        rates, losses = _tune(method, size, partial(call_program, program, size, progress))
    best = float(rates[np.argmin(losses)]) if len(rates) else method.lowest
    runs = call_program(program, size, progress, np.full(size.seeds, best), np.arange(size.seeds))
    return Result(best, rates.tolist(), losses.tolist(), runs)


def _tune(
    method: Method, size: Size, call: Callable[[np.ndarray, np.ndarray], Run]
) -> tuple[np.ndarray, np.ndarray]:
    """The rates that were tried, and the mean of log10 of the training loss of each.

    While the best one is an end of the range, more rates beyond it are tried, as many as one call
    takes.
    """

    def try_each(rates: np.ndarray) -> np.ndarray:
        seeds = FIRST_TRIAL + np.tile(np.arange(size.repeats), len(rates))
        runs = call(np.repeat(rates, size.repeats), seeds)
        return log_loss(runs.train_loss).reshape(len(rates), size.repeats).mean(axis=1)

    rates = np.geomspace(method.lowest, method.highest, size.rates)
    losses = try_each(rates)
    factor = rates[1] / rates[0]
    for _ in range(MAX_EXTENSIONS):
        powers = factor ** np.arange(1, 1 + max(1, size.seeds // size.repeats))
        best = np.argmin(losses)
        if best == len(rates) - 1:
            more = rates[-1] * powers
        elif best == 0:
            more = rates[0] / powers
        else:
            break
        rates, losses = np.append(rates, more), np.append(losses, try_each(more))
        order = np.argsort(rates)
        rates, losses = rates[order], losses[order]
    return rates, losses


def log_loss(losses: Any) -> np.ndarray:
    """log10 of losses, between -12 and 6, which is also what a run that diverged gets."""
    losses = np.nan_to_num(np.asarray(losses, float), nan=np.inf, posinf=np.inf)
    return np.clip(np.log10(np.maximum(losses, 1e-12)), -12, 6)


def compile_runs(method: Method, task: Task, size: Size) -> Callable[[Any, Any], Run]:
    """The runs of ``seeds`` rates and seeds, compiled as one program."""

    def run(rate: jax.Array, seed: jax.Array, data: dict[str, Any]) -> Run:
        workload = task.workload._replace(**data)
        init_key, key = jax.random.split(jax.random.key(seed))
        first = workload.init(init_key)
        params, curve = method.train(task._replace(workload=workload), rate, first, key)
        error = jnp.nan if workload.error is None else workload.error(params, workload.test)
        test_loss = workload.loss(params, workload.test)
        return Run(_loss(workload, params), test_loss, jnp.asarray(error), curve)

    count = math.gcd(size.seeds, jax.device_count())
    mesh = Mesh(np.array(jax.devices()[:count]), ("runs",))
    along, whole = PartitionSpec("runs"), PartitionSpec()
    split = jax.shard_map(
        jax.vmap(run, (0, 0, None)),
        mesh=mesh,
        in_specs=(along, along, whole),
        out_specs=along,
        check_vma=False,
    )
    data = {name: getattr(task.workload, name) for name in ("train", "measured", "test")}
    data = jax.tree.map(jnp.asarray, data)
    rates, seeds = np.ones(size.seeds, np.float32), np.zeros(size.seeds, np.uint32)
    compiled = jax.jit(split).lower(rates, seeds, data).compile()
    return lambda rates, seeds: compiled(rates, seeds, data)


def call_program(
    program: Callable[[Any, Any], Run],
    size: Size,
    progress: Callable[[], None],
    rates: np.ndarray,
    seeds: np.ndarray,
) -> Run:
    """Any number of runs, as many at a time as a program takes; the last call is filled up."""
    parts = []
    for start in range(0, len(rates), size.seeds):
        progress()
        rows = np.minimum(np.arange(start, start + size.seeds), len(rates) - 1)
        out = program(rates[rows].astype(np.float32), seeds[rows].astype(np.uint32))
        parts.append(jax.device_get(out))
    whole = jax.tree.map(lambda *arrays: np.concatenate(arrays)[: len(rates)], *parts)
    return Run(*(np.asarray(array, float) for array in whole))


def _loss(workload: Workload, params: Any) -> jax.Array:
    return workload.loss(params, workload.measured)


Cells = Mapping[tuple[str, int], Mapping[str, Result]]
"""By workload and batch size, the results of the methods."""


class Found(NamedTuple):
    """What has been measured.

    Attributes:
      size: of the experiment.
      cells: the workloads and batch sizes that are finished.
      seconds: of an evaluation with each method, by the batch size, on the first workload.
      scales: the noise scale of each workload.
    """

    size: Size
    cells: Cells
    seconds: Mapping[int, Mapping[str, float]]
    scales: Mapping[str, float]
