"""Run the protocol; each method on each workload is saved when it has finished, and read again."""

import hashlib
import importlib.metadata
import inspect
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from cs231n_optax._files import replacing
from cs231n_optax.experiments import files, interrupts, options
from cs231n_optax.experiments.catalog import METHODS
from cs231n_optax.experiments.console import Bar, consoles, print_written
from cs231n_optax.experiments.errors import InputError, complain
from cs231n_optax.experiments.protocol import experiment, report, targets, tuning, workloads
from cs231n_optax.experiments.protocol.experiment import (
    RACE,
    SIZES,
    Arena,
    Outcome,
    Race,
    Result,
    Size,
)
from cs231n_optax.experiments.protocol.workloads import WORKLOADS

Progress = Callable[[int, str], None]
"""Called with the number of finished methods on workloads, and what happens now."""


class Store(NamedTuple):
    """The folder of finished results, and what those that are read again must share."""

    folder: Path
    identity: Mapping[str, Any]

    def save(self, name: str, document: Mapping[str, Any]) -> None:
        """Save a document, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.folder / f"{name}.json", "w") as file:
            json.dump({"identity": self.identity, **document}, file, allow_nan=False)

    def read(self, name: str) -> dict[str, Any] | None:
        """Return a document; None if there is none of this program and this size."""
        try:
            text = (self.folder / f"{name}.json").read_text(encoding="utf-8")
            document = json.loads(text)
            return document if document["identity"] == self.identity else None
        except (OSError, ValueError, KeyError, TypeError):
            return None


def run(out: Path, *, quick: bool, quiet: bool) -> int:
    """Race all methods on all workloads, and report the workloads that are finished.

    The folder gets protocol.csv, protocol.json and protocol.png, and a folder with the results one
    by one. After Ctrl-C the same call goes on from there.

    Args:
      out: the folder, made if need be.
      quick: a quarter of the steps, with fewer trials and seeds.
      quiet: print nothing.

    Returns:
      The exit status.
    """
    name = "quick" if quick else "full"
    results = f"protocol-{name}"
    files.check_writable(out, report.FILES, folders=(results,))
    options.use_every_core()
    size, goals = SIZES[name], targets.read(name)
    store = Store(out / results, identity(size, goals))
    stdout, stderr = consoles(quiet=quiet)
    interrupts.begin()
    total = len(WORKLOADS) * len(METHODS)
    with interrupts.suppressed(), Bar("protocol", total, stderr) as bar:
        race_all(store, size, goals, interrupts.checking(bar.show_or_print))
    interrupts.only_record()
    outcomes = {workload: saved(store, workload) for workload in WORKLOADS}
    race = Race(name, size, goals, {key: each for key, each in outcomes.items() if each})
    if race.outcomes:
        report.write(out, race)
        report.print_results(race, stdout)
        print_written(stdout, out, report.FILES)
    if unfinished := [workload for workload in WORKLOADS if workload not in race.outcomes]:
        complain(f"interrupted; not finished: {', '.join(unfinished)}; the same command goes on")
        return interrupts.exit_status()
    return 0


def race_all(store: Store, size: Size, goals: Mapping[str, float], progress: Progress) -> None:
    """Run what the folder has no result of, and save each result."""
    try:
        pending = {name: make() for name, make in WORKLOADS.items() if saved(store, name) is None}
    except ImportError as error:
        raise InputError(str(error)) from error
    for i, name in enumerate(WORKLOADS):
        if name in pending:
            arena = experiment.prepare(pending[name], size)
            race_on(store, name, arena, goals[name], i * len(METHODS), progress)
    progress(len(WORKLOADS) * len(METHODS), "all finished")


def race_on(
    store: Store, workload: str, arena: Arena, goal: float, done: int, progress: Progress
) -> None:
    """Tune and run all methods on a workload, then time them side by side."""
    programs, settings = {}, {}
    for i, method in enumerate(METHODS, start=done):
        tell = partial(progress, i, f"{workload}, {method}")
        programs[method] = experiment.compile_method(arena, method)
        result = saved_result(store, workload, method)
        if result is None:
            choose = partial(experiment.soonest, goal)
            result = experiment.tune_and_run(arena, method, programs[method], RACE, choose, tell)
            store.save(f"{workload}-{method}", document(result))
        settings[method] = result.setting
    seconds = experiment.seconds_per_step(arena, programs, settings)
    store.save(_times(workload), {"seconds": seconds, "steps": arena.size.steps(arena.workload)})


def saved(store: Store, workload: str) -> Outcome | None:
    """The saved results of all methods on a workload; None if one is missing."""
    times = store.read(_times(workload))
    results = {method: saved_result(store, workload, method) for method in METHODS}
    found = {method: result for method, result in results.items() if result}
    if times is None or len(found) < len(METHODS):
        return None
    return Outcome(found, times["seconds"], times["steps"])


def saved_result(store: Store, workload: str, method: str) -> Result | None:
    """The saved result of a method on a workload."""
    found = store.read(f"{workload}-{method}")
    if found is None:
        return None
    settings = {name: np.array(column) for name, column in found["settings"].items()}
    trials, curves = (
        np.nan_to_num(np.array(found[key], float), nan=np.inf) for key in ("trials", "curves")
    )
    return Result(settings, trials, found["best"], curves)


def document(result: Result) -> dict[str, Any]:
    """A result for JSON, with None for infinity."""
    return {
        "settings": {name: column.tolist() for name, column in result.settings.items()},
        "trials": [[_numbers(curve) for curve in trial] for trial in result.trials],
        "best": result.best,
        "curves": [_numbers(curve) for curve in result.curves],
    }


def identity(size: Size, goals: Mapping[str, float]) -> dict[str, Any]:
    """What a saved result must share: the versions, the sources, the size and the targets."""
    sources = "".join(map(inspect.getsource, (experiment, tuning, workloads)))
    return {
        "cs231n_optax": importlib.metadata.version("cs231n_optax"),
        "jax": jax.__version__,
        "source": hashlib.sha256(sources.encode()).hexdigest()[:16],
        "size": size._asdict(),
        "targets": dict(goals),
    }


def _numbers(curve: np.ndarray) -> list[float | None]:
    return [files.number(loss) for loss in curve]


def _times(workload: str) -> str:
    return f"{workload}-times"
