"""The targets of the protocol, which are fixed before the race and committed.

A target is the lowest validation loss that the best of the tuned baselines reaches in the first
half of the steps, the median over seeds that do not race. So a method that takes twice as long as
that still has a time. This command makes them anew, for all workloads or some:

    python -m cs231n_optax.experiments.protocol.targets quick
    python -m cs231n_optax.experiments.protocol.targets full cnn-digits cnn-mnist5k
"""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from cs231n_optax._files import replacing
from cs231n_optax.experiments import options
from cs231n_optax.experiments.errors import InputError
from cs231n_optax.experiments.protocol.experiment import (
    SIZES,
    TARGETS,
    Size,
    compile_method,
    prepare,
    tune_and_run,
)
from cs231n_optax.experiments.protocol.workloads import WORKLOADS

BASELINES = ("momentum", "nesterov", "adam")  # those of AlgoPerf, without weight decay
FILE = Path(__file__).with_name("targets.json")


def read(size: str) -> Mapping[str, float]:
    """The targets of a size, by workload. Raise InputError if one is missing."""
    goals = json.loads(FILE.read_text(encoding="utf-8"))[size]
    if missing := [name for name in WORKLOADS if name not in goals]:
        command = f"python -m {__spec__.name} {size} {' '.join(missing)}"
        raise InputError(f"no target is fixed for {', '.join(missing)}; first run {command}")
    return goals


def lowest_at_half(curves: np.ndarray) -> np.ndarray:
    """The lowest loss in the first half of each run (..., evaluations)."""
    return curves[..., : curves.shape[-1] // 2].min(axis=-1)


def lowest(trials: np.ndarray) -> int:
    """The trial with the lowest loss in the first half, the median over its repeats."""
    return int(np.median(lowest_at_half(trials), axis=1).argmin())


def target(curves: Iterable[np.ndarray]) -> float:
    """The target from the curves of each baseline, (seeds, evaluations)."""
    best = min(float(np.median(lowest_at_half(each))) for each in curves)
    return float(f"{best:.4g}")


def make(workload: str, size: Size) -> float:
    """Tune the baselines on a workload, and return its target."""
    arena = prepare(WORKLOADS[workload](), size)
    return target(
        tune_and_run(
            arena,
            method,
            compile_method(arena, method),
            TARGETS,
            choose=lowest,
            progress=lambda: None,
        ).curves
        for method in BASELINES
    )


def main(size: str, *names: str) -> None:
    """Make the targets of a size, and save each."""
    options.use_every_core()
    for name in names or WORKLOADS:
        goal = make(name, SIZES[size])
        document = json.loads(FILE.read_text(encoding="utf-8"))
        document[size][name] = goal
        with replacing(FILE, "w") as file:
            json.dump(document, file, indent=2)
            file.write("\n")
        print(size, name, goal, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
