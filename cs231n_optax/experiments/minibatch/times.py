"""The time of an evaluation with each method, measured side by side."""

import statistics
import time
from collections.abc import Mapping

import numpy as np

from cs231n_optax.experiments.minibatch.experiment import (
    METHODS,
    Result,
    Size,
    Task,
    call_program,
    compile_runs,
)
from cs231n_optax.experiments.minibatch.workloads import Workload

EVALUATIONS = 200  # of a run that is timed
ROUNDS = 5


def seconds_per_evaluation(
    workload: Workload, batch_size: int, results: Mapping[str, Result], size: Size
) -> dict[str, float]:
    """The median over rounds in which the methods take turns, with the rates of the results."""
    size = size._replace(evaluations=EVALUATIONS)
    task, seeds = Task(workload, batch_size, size.evaluations), np.arange(size.seeds)
    programs = {name: compile_runs(METHODS[name], task, size) for name in results}
    seconds: dict[str, list[float]] = {name: [] for name in results}
    for _ in range(ROUNDS):
        for name, result in results.items():
            begin = time.perf_counter()
            rates = np.full(size.seeds, result.rate)
            call_program(programs[name], size, lambda: None, rates, seeds)
            seconds[name].append(time.perf_counter() - begin)
    runs = size.seeds * size.evaluations
    return {name: statistics.median(row) / runs for name, row in seconds.items()}
