"""Runs of a method on a workload: the same number of settings tried for each, then the seeds.

All runs of a call go through one compiled program, spread over the devices. A run of any method
starts from the same point and sees the same batches as those of the others from its seed.

Source: R. M. Schmidt, F. Schneider and P. Hennig, "Descending through a crowded valley",
arXiv:2007.01547; D. Choi et al., "On empirical comparisons of optimizers for deep learning",
arXiv:1910.05446; G. E. Dahl et al., "Benchmarking neural network training algorithms" (AlgoPerf),
arXiv:2306.07179.
"""

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from cs231n_optax.experiments.protocol import tuning
from cs231n_optax.experiments.protocol.workloads import BATCH_SIZE, Workload
from cs231n_optax.training.fit import FitState, fit

TURNS = 20

Settings = Mapping[str, np.ndarray]
Choose = Callable[[np.ndarray], int]
"""From the curves of the trials, (trials, repeats, evaluations), to the number of the best one."""


class Size(NamedTuple):
    """The size of a race.

    Attributes:
      shortening: the factor by which the budgets of the workloads are divided.
      evaluations: evenly spaced measurements of a run.
      trials: settings that are tried of each method on each workload.
      repeats: seeds from which each of them is tried, since from one alone a setting may be lucky.
      seeds: runs of the best setting, and of any call of a program: a divisor of the number of
        runs of the trials.
    """

    shortening: int
    evaluations: int
    trials: int
    repeats: int
    seeds: int

    @property
    def tuning_runs(self) -> int:
        """The runs of the trials of a method on a workload."""
        return self.trials * self.repeats

    def steps_between(self, workload: Workload) -> int:
        """The steps between two measurements."""
        return workload.steps // self.shortening // self.evaluations

    def steps(self, workload: Workload) -> int:
        """The budget of a run."""
        return self.evaluations * self.steps_between(workload)


SIZES = {
    "full": Size(shortening=1, evaluations=40, trials=40, repeats=2, seeds=20),
    "quick": Size(shortening=4, evaluations=25, trials=20, repeats=2, seeds=10),
}


class Seeds(NamedTuple):
    """The seed of the search, and the first seeds of the trials and of the runs that count."""

    search: int
    trials: int
    runs: int


RACE = Seeds(search=1, trials=1_000, runs=0)
TARGETS = Seeds(search=2, trials=2_000, runs=3_000)


class Result(NamedTuple):
    """The runs of a method on a workload.

    Attributes:
      settings: all that were tried.
      trials: the validation losses of their runs, (trials, repeats, evaluations); infinite if not
        finite.
      best: the number of the best setting.
      curves: the losses of its runs from each seed, (seeds, evaluations).
    """

    settings: dict[str, np.ndarray]
    trials: np.ndarray
    best: int
    curves: np.ndarray

    @property
    def setting(self) -> dict[str, float]:
        """The best setting."""
        return {name: float(column[self.best]) for name, column in self.settings.items()}


class Outcome(NamedTuple):
    """All methods on a workload.

    Attributes:
      results: by method.
      seconds: of a step, by method.
      steps: the budget of a run.
    """

    results: Mapping[str, Result]
    seconds: Mapping[str, float]
    steps: int


class Race(NamedTuple):
    """All that is finished of a race.

    Attributes:
      name: of the size.
      size: see `Size`.
      targets: by workload.
      outcomes: by workload.
    """

    name: str
    size: Size
    targets: Mapping[str, float]
    outcomes: Mapping[str, Outcome]


class Program(NamedTuple):
    """A method on a workload, compiled for as many runs at a time as there are seeds.

    Attributes:
      start: ``start(settings, params, batch_keys, train) -> states``.
      advance: ``advance(states, settings, train) -> (states, params)``, to the next measurement.
    """

    start: Callable[..., FitState]
    advance: Callable[..., tuple[FitState, Any]]


class Arena(NamedTuple):
    """A workload with the programs that all methods share.

    Attributes:
      workload: with its data on the devices.
      size: of the race.
      first_points: ``first_points(seeds) -> (params, batch_keys)``.
      measure: ``measure(params, validation) -> losses``.
    """

    workload: Workload
    size: Size
    first_points: Callable[[np.ndarray], tuple[Any, jax.Array]]
    measure: Callable[[Any, Any], jax.Array]


def prepare(workload: Workload, size: Size) -> Arena:
    """Make the programs that all methods share."""

    def first_point(seed: jax.Array) -> tuple[Any, jax.Array]:
        init_key, batch_key = jax.random.split(jax.random.key(seed))
        return workload.init(init_key), batch_key

    def measure(params: Any, validation: Any) -> jax.Array:
        def of_one(params: Any) -> jax.Array:
            return jnp.mean(jax.lax.map(lambda block: workload.loss(params, block), validation))

        return jax.lax.map(of_one, params)

    on_devices = jax.tree.map(jnp.asarray, (workload.train, workload.validation))
    return Arena(
        workload._replace(train=on_devices[0], validation=on_devices[1]),
        size,
        jax.jit(jax.vmap(first_point)),
        _split_runs(measure, size, num_split=1),
    )


def compile_method(arena: Arena, method: str) -> Program:
    """Make the programs of a method."""
    workload, size = arena.workload, arena.size
    every, steps = size.steps_between(workload), size.steps(workload)
    train_more = partial(fit, workload.loss, batch_size=BATCH_SIZE, chunk_size=every)

    def start(setting: Any, params: Any, key: jax.Array, train: Any) -> FitState:
        tx = tuning.make(method, setting, steps)
        return train_more(params, tx, train, steps=0, key=key).state

    def advance(state: FitState, setting: Any, train: Any) -> tuple[FitState, Any]:
        tx = tuning.make(method, setting, steps)
        params, state, _ = train_more(state.params, tx, train, steps=every, state=state)
        return state, params

    return Program(
        _split_runs(jax.vmap(start, (0, 0, 0, None)), size, num_split=3),
        _split_runs(jax.vmap(advance, (0, 0, None)), size, num_split=2),
    )


def run(
    arena: Arena, program: Program, settings: Settings, seeds: Any, progress: Callable[[], None]
) -> np.ndarray:
    """Train as many runs as the program takes; return their curves, (runs, evaluations)."""
    workload = arena.workload
    settings, states = _start(arena, program, settings, seeds)
    curves = []
    for _ in range(arena.size.evaluations):
        progress()
        states, params = program.advance(states, settings, workload.train)
        curves.append(np.asarray(arena.measure(params, workload.validation)))
    return np.nan_to_num(np.stack(curves, axis=1), nan=np.inf)


def tune_and_run(
    arena: Arena,
    method: str,
    program: Program,
    seeds: Seeds,
    choose: Choose,
    progress: Callable[[], None],
) -> Result:
    """Try the settings, all from the same seeds, and run the best of them from every seed."""
    size = arena.size
    settings = tuning.settings(method, size.trials, seeds.search)
    trial, repeat = np.divmod(np.arange(size.tuning_runs), size.repeats)
    curves = []
    for runs in np.split(np.arange(size.tuning_runs), size.tuning_runs // size.seeds):
        group = {name: column[trial[runs]] for name, column in settings.items()}
        curves.append(run(arena, program, group, seeds.trials + repeat[runs], progress))
    trials = np.concatenate(curves).reshape(size.trials, size.repeats, size.evaluations)

    best = choose(trials)
    alike = {name: np.full(size.seeds, column[best]) for name, column in settings.items()}
    curves = run(arena, program, alike, seeds.runs + np.arange(size.seeds), progress)
    return Result(settings, trials, best, curves)


def seconds_per_step(
    arena: Arena, programs: Mapping[str, Program], settings: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    """Time the methods side by side: the seconds that a core takes for one step of one run.

    The methods take turns, so that what disturbs the machine disturbs all of them, and the fastest
    turn of each counts.
    """
    size, train = arena.size, arena.workload.train
    alike = {
        method: {name: np.full(size.seeds, x) for name, x in setting.items()}
        for method, setting in settings.items()
    }
    runs = {
        method: _start(arena, program, alike[method], np.arange(size.seeds))
        for method, program in programs.items()
    }
    fastest = dict.fromkeys(programs, math.inf)
    for _ in range(TURNS):
        for method, program in programs.items():
            numbers, states = runs[method]
            begin = time.perf_counter()
            states, _ = jax.block_until_ready(program.advance(states, numbers, train))
            fastest[method] = min(fastest[method], time.perf_counter() - begin)
            runs[method] = numbers, states
    steps_of_a_core = size.steps_between(arena.workload) * size.seeds / _mesh(size).size
    return {method: seconds / steps_of_a_core for method, seconds in fastest.items()}


def steps_to(target: float, curves: np.ndarray, every: int) -> np.ndarray:
    """The steps before the first measurement that reaches a target; infinite without one."""
    reached = curves <= target
    return np.where(reached.any(axis=-1), every * (1.0 + reached.argmax(axis=-1)), np.inf)


def soonest(target: float, trials: np.ndarray) -> int:
    """The trial that reaches a target first, the median over its repeats; then the lowest loss."""
    steps = np.median(steps_to(target, trials, 1), axis=1)
    lowest = np.median(trials.min(axis=-1), axis=1)
    return int(np.lexsort((lowest, steps))[0])


def _start(
    arena: Arena, program: Program, settings: Settings, seeds: Any
) -> tuple[dict[str, np.ndarray], FitState]:
    """The settings in float32, and the first states."""
    numbers = {name: column.astype(np.float32) for name, column in settings.items()}
    params, keys = arena.first_points(np.asarray(seeds, np.uint32))
    return numbers, program.start(numbers, params, keys, arena.workload.train)


def _mesh(size: Size) -> Mesh:
    num_devices = math.gcd(size.seeds, jax.device_count())
    return Mesh(np.array(jax.devices()[:num_devices]), ("runs",))


def _split_runs(function: Callable[..., Any], size: Size, num_split: int) -> Callable[..., Any]:
    """Compile a function whose first arguments have an axis of runs, split between devices."""
    along, whole = PartitionSpec("runs"), PartitionSpec()
    in_specs = (*num_split * (along,), whole)
    split = jax.shard_map(
        function, mesh=_mesh(size), in_specs=in_specs, out_specs=along, check_vma=False
    )
    return jax.jit(split)
