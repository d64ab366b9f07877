"""Run the experiment; what has finished is saved, and read again the next time."""

import hashlib
import importlib.metadata
import inspect
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cs231n_optax.experiments import files, interrupts, options
from cs231n_optax.experiments.console import Bar, consoles, print_lines, print_written
from cs231n_optax.experiments.errors import InputError, complain
from cs231n_optax.experiments.files import number
from cs231n_optax.experiments.minibatch import experiment, report, sqn, workloads
from cs231n_optax.experiments.minibatch.experiment import METHODS, Found, Result, Run, Size
from cs231n_optax.experiments.minibatch.noise import noise_scale
from cs231n_optax.experiments.minibatch.times import seconds_per_evaluation
from cs231n_optax.experiments.minibatch.workloads import WORKLOADS, Workload
from cs231n_optax.experiments.protocol.run import Store

SIZES = {
    "full": Size(
        evaluations=2000,
        seeds=10,
        rates=8,
        repeats=2,
        batch_sizes=(32, 128, 1024),
        workloads=tuple(WORKLOADS),
    ),
    "quick": Size(
        evaluations=200,
        seeds=2,
        rates=2,
        repeats=1,
        batch_sizes=(128,),
        workloads=("autoencoder", "quadratic"),
    ),
}
TIMES = "times"  # the name of their document


def run(out: Path, *, quick: bool, quiet: bool) -> int:
    """Run all methods on all workloads and report those that are finished.

    After Ctrl-C the same call goes on from there.

    Args:
      out: the folder, made if need be.
      quick: two workloads and few evaluations.
      quiet: print nothing.

    Returns:
      The exit status.
    """
    name = "quick" if quick else "full"
    results = f"minibatch-{name}"
    files.check_writable(out, report.FILES, folders=(results,))
    options.use_every_core()
    size = SIZES[name]
    store = Store(out / results, identity(size))
    stdout, stderr = consoles(quiet=quiet)
    interrupts.begin()
    cells = [(workload, batch) for workload in size.workloads for batch in size.batch_sizes]
    total = len(cells) * len(METHODS)
    with interrupts.suppressed(), Bar("mini-batches", total, stderr) as bar:
        measure_all(store, size, cells, interrupts.checking(bar.show_or_print))
    interrupts.only_record()
    finished = {cell: found for cell in cells if (found := all_saved(store, *cell))}
    if finished:
        found = Found(size, finished, saved_times(store), saved_scales(store, size))
        report.write(out, found)
        print_lines(stdout, *report.lines(found))
        print_written(stdout, out, report.FILES)
    if len(finished) < len(cells):
        complain(f"interrupted; {len(finished)} of {len(cells)} finished; the same command goes on")
        return interrupts.exit_status()
    return 0


def measure_all(store: Store, size: Size, cells: list[tuple[str, int]], progress: Any) -> None:
    """Run what the folder has no result of, and save each result."""
    made = {workload: make(workload) for workload in size.workloads}  # before hours of work
    done = 0
    for workload, batch_size in cells:
        for name, method in METHODS.items():
            news = f"{workload}, {batch_size}, {name}"
            progress(done, news)
            if saved(store, workload, batch_size, name) is None:
                result = experiment.measure(
                    method,
                    made[workload],
                    batch_size,
                    size,
                    lambda done=done, news=news: progress(done, news),
                )
                store.save(_key(workload, batch_size, name), document(result))
            done += 1
    for workload in size.workloads:
        progress(done, f"{workload}, noise")
        if store.read(_noise_key(workload)) is None:
            measure_noise(store, workload, made[workload], size)
    progress(done, "times")
    if store.read(TIMES) is None:
        measure_times(store, made[size.workloads[0]], size)
    progress(done, "all finished")


def make(workload: str) -> Workload:
    """A workload; an `InputError` if the package of its data is missing."""
    try:
        return WORKLOADS[workload]()
    except ImportError as error:
        raise InputError(f"{workload}: {error}") from error


def measure_noise(store: Store, workload: str, made: Workload, size: Size) -> None:
    """Measure the noise of a workload's gradients, in a run of the tuned Adam, and save it."""
    batch_size = size.batch_sizes[len(size.batch_sizes) // 2]
    adam = saved(store, workload, batch_size, "adam")
    assert adam is not None  # it has been measured
    scale = noise_scale(made, batch_size, adam.rate, size)
    store.save(_noise_key(workload), {"noise_scale": number(scale)})


def measure_times(store: Store, made: Workload, size: Size) -> None:
    """Time an evaluation with each method, on the first workload, and save the times."""
    seconds = {}
    for batch_size in size.batch_sizes:
        results = all_saved(store, size.workloads[0], batch_size)
        assert results is not None  # they have been measured
        seconds[batch_size] = seconds_per_evaluation(made, batch_size, results, size)
    store.save(TIMES, {"seconds": seconds})


def saved_times(store: Store) -> dict[int, dict[str, float]]:
    """The seconds of an evaluation, by the batch size."""
    found = store.read(TIMES)
    return {} if found is None else {int(key): row for key, row in found["seconds"].items()}


def saved_scales(store: Store, size: Size) -> dict[str, float]:
    """The noise scale of each workload that has one."""
    found = {workload: store.read(_noise_key(workload)) for workload in size.workloads}
    return {
        workload: np.inf if each["noise_scale"] is None else each["noise_scale"]
        for workload, each in found.items()
        if each is not None
    }


def saved(store: Store, workload: str, batch_size: int, method: str) -> Result | None:
    """The saved result of a method."""
    found = store.read(_key(workload, batch_size, method))
    if found is None:
        return None
    runs = Run(*(np.array(found["runs"][name], float) for name in Run._fields))
    return Result(found["rate"], found["rates"], found["tuned"], runs)


def all_saved(store: Store, workload: str, batch_size: int) -> dict[str, Result] | None:
    """The saved results of all methods; None if one is missing."""
    results = {name: saved(store, workload, batch_size, name) for name in METHODS}
    found = {name: result for name, result in results.items() if result}
    return found if len(found) == len(METHODS) else None


def document(result: Result) -> dict[str, Any]:
    """A result for JSON, with None for what is not finite."""
    runs = {
        name: np.where(np.isfinite(array), array.astype(object), None).tolist()
        for name, array in result.runs._asdict().items()
    }
    return result._asdict() | {"runs": runs}


def identity(size: Size) -> dict[str, Any]:
    """What a saved result must share: the versions, the sources and the size of a run."""
    sources = "".join(map(inspect.getsource, (experiment, workloads, sqn)))
    ours = size._asdict() | {"batch_sizes": None, "workloads": None}
    return {
        "cs231n_optax": importlib.metadata.version("cs231n_optax"),
        "jax": jax.__version__,
        "source": hashlib.sha256(sources.encode()).hexdigest()[:16],
        "size": ours,
    }


def _noise_key(workload: str) -> str:
    return f"{workload}-noise"


def _key(workload: str, batch_size: int, method: str) -> str:
    return f"{workload}-{batch_size}-{method}"
