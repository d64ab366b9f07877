"""The report of the protocol: a table in the terminal, and the files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from cs231n_optax.experiments.catalog import METHODS
from cs231n_optax.experiments.console import print_lines, print_table
from cs231n_optax.experiments.files import (
    environment,
    new_results,
    number,
    write_csv,
    write_json,
    write_png,
)
from cs231n_optax.experiments.protocol import profiles, tuning
from cs231n_optax.experiments.protocol.experiment import Race, steps_to
from cs231n_optax.experiments.protocol.picture import picture
from cs231n_optax.experiments.protocol.targets import BASELINES
from cs231n_optax.experiments.protocol.workloads import BATCH_SIZE, WORKLOADS

FILES = CSV, JSON, PICTURE = "protocol.csv", "protocol.json", "protocol.png"


class Times(NamedTuple):
    """Times to the targets in one unit, (methods, workloads, seeds), and what follows from them.

    Attributes:
      times: infinite for a seed that does not reach the target.
    """

    times: np.ndarray

    @property
    def medians(self) -> np.ndarray:
        """Over the seeds, (methods, workloads)."""
        return np.median(self.times, axis=-1)

    @property
    def median_intervals(self) -> np.ndarray:
        """(2, methods, workloads)."""
        return profiles.interval(self.times, lambda medians: medians)

    @property
    def areas(self) -> np.ndarray:
        """Under the profiles of the medians, (methods,)."""
        return profiles.area(self.medians)

    @property
    def area_intervals(self) -> np.ndarray:
        """(2, methods)."""
        return profiles.interval(self.times, profiles.area)


def times(race: Race) -> tuple[Times, Times]:
    """The times to the targets in gradient evaluations, and in seconds: steps × seconds a step."""
    evaluations = np.array(
        [
            [
                steps_to(
                    race.targets[name],
                    outcome.results[method].curves,
                    outcome.steps // race.size.evaluations,
                )
                for name, outcome in race.outcomes.items()
            ]
            for method in METHODS
        ]
    )
    seconds = np.array(
        [[outcome.seconds[method] for outcome in race.outcomes.values()] for method in METHODS]
    )
    return Times(evaluations), Times(evaluations * seconds[..., None])


def write(folder: Path, race: Race) -> None:
    """Write protocol.csv, protocol.json and protocol.png."""
    evaluations, seconds = times(race)
    with new_results(folder, FILES) as new:
        write_csv(new / CSV, COLUMNS, _rows(race, evaluations, seconds))
        write_png(new / PICTURE, picture(race.name, evaluations.medians, seconds.medians))
        write_json(new / JSON, _document(race, evaluations, seconds))


def print_results(race: Race, console: Console) -> None:
    """Print what was asked of the methods, and the table, the largest area first."""
    evaluations, seconds = times(race)
    print_lines(
        console,
        f"Protocol, {race.name}: {race.size.trials} settings tried of each method on each workload,"
        f" each from {race.size.repeats} seeds, then {race.size.seeds} other seeds of the best.",
        f"Targets: of the tuned {', '.join(BASELINES)}, fixed beforehand.",
        "Area under the performance profile up to a ratio of "
        f"{profiles.LIMIT:g}, with its 95 % interval over seeds; median steps to the target.",
    )
    methods, low, high = list(METHODS), *evaluations.area_intervals
    rows = [
        (
            methods[i],
            f"{evaluations.areas[i]:.2f} ({low[i]:.2f}-{high[i]:.2f})",
            f"{seconds.areas[i]:.2f}",
            *(f"{median:.0f}" if np.isfinite(median) else "never" for median in row),
        )
        for i, row in enumerate(evaluations.medians)
    ]
    rows = [rows[i] for i in np.argsort(-evaluations.areas, kind="stable")]
    names = [name.replace("-", "\n", 1) for name in race.outcomes]
    print_table(console, ("method", "area,\nsteps", "area,\nseconds", *names), rows)


COLUMNS = (
    "workload",
    "method",
    "seed",
    "evaluations_to_target",
    "seconds_to_target",
    "lowest_validation_loss",
    "final_validation_loss",
)


def _rows(race: Race, evaluations: Times, seconds: Times) -> Iterator[tuple[Any, ...]]:
    """A row per workload, method and seed; cells of targets that are not reached are empty."""
    for j, (name, outcome) in enumerate(race.outcomes.items()):
        for i, method in enumerate(METHODS):
            for seed, curve in enumerate(outcome.results[method].curves):
                reached = (each.times[i, j, seed] for each in (evaluations, seconds))
                cells = (x if np.isfinite(x) else "" for x in reached)
                yield name, method, seed, *cells, curve.min(), curve[-1]


def _document(race: Race, evaluations: Times, seconds: Times) -> dict[str, Any]:
    scores = {"evaluations": evaluations, "seconds": seconds}
    return {
        "size": race.name,
        **race.size._asdict(),
        "batch_size": BATCH_SIZE,
        **environment(),
        "complete": len(race.outcomes) == len(WORKLOADS),
        "search_spaces": {
            method: {
                f"1 - {name}" if range_.from_one else name: [range_.low, range_.high]
                for name, range_ in space.items()
            }
            for method, space in tuning.SPACES.items()
        },
        "schedules": {
            "kinds": ["constant", "linear", "cosine"],
            "end_as_share_of_steps": [tuning.EARLIEST_END, 1],
            "final_rate_as_share_of_first": tuning.FINAL_RATE,
        },
        "baselines_of_targets": list(BASELINES),
        "area_limit": profiles.LIMIT,
        "areas": {
            unit: {
                method: {"area": number(area), "interval": [number(end) for end in ends]}
                for method, area, ends in zip(
                    METHODS, each.areas, each.area_intervals.T, strict=True
                )
            }
            for unit, each in scores.items()
        },
        "workloads": {
            name: _of_workload(race, name, j, scores) for j, name in enumerate(race.outcomes)
        },
    }


def _of_workload(race: Race, name: str, j: int, scores: dict[str, Times]) -> dict[str, Any]:
    outcome = race.outcomes[name]
    medians = {unit: (each.medians, each.median_intervals) for unit, each in scores.items()}
    return {
        "target": race.targets[name],
        "steps": outcome.steps,
        "methods": {
            method: {
                "setting": tuning.describe(result.setting),
                "evaluations_of_tuning": race.size.tuning_runs * outcome.steps,
                "evaluations_of_race": len(result.curves) * outcome.steps,
                "seconds_per_step": outcome.seconds[method],
                **{
                    f"{unit}_to_target": {
                        "median": number(median[i, j]),
                        "interval": [number(end) for end in ends[:, i, j]],
                    }
                    for unit, (median, ends) in medians.items()
                },
            }
            for i, (method, result) in enumerate(outcome.results.items())
        },
    }
