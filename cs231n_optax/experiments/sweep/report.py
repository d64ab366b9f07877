"""The report of a sweep: a progress bar, the best configurations, and the files."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from cs231n_optax.experiments import console as terminal
from cs231n_optax.experiments.console import print_lines
from cs231n_optax.experiments.files import environment, new_results, number, write_json, write_png
from cs231n_optax.experiments.sweep.experiment import (
    Range,
    Setting,
    grid_side,
    is_end_of_range,
    rank,
)
from cs231n_optax.experiments.sweep.picture import picture
from cs231n_optax.training.sweep import SweepProgress, SweepResult, write_csv

FILES = CSV, JSON, PICTURE = "sweep.csv", "sweep.json", "sweep.png"
ROWS = "rows"
"""The folder of the configurations that have finished, by which a sweep resumes."""

_MOST_SHOWN = 10


class Bar(terminal.Bar):
    """A bar of the configurations, with the best so far."""

    def __init__(self, setting: Setting, console: Console) -> None:
        super().__init__(setting.method, setting.num, console)

    def update(self, progress: SweepProgress) -> None:
        """Show how many have finished."""
        best, losses = rank(progress.result), progress.result.outputs.train_loss
        if best:
            news = f"best train loss {losses[best[0]]:.3g}"
        else:
            news = "all diverged" if progress.num_finished else "compiling"
        self.show_or_print(progress.num_finished, news)


def introduce(setting: Setting, num_found: int, folder: Path, console: Console) -> None:
    """Print the configuration, and how much of it has been found in a folder."""
    budget, fixed = setting.budget, _values(setting.fixed)
    print_lines(
        console,
        *setting.describe_task(),
        f"Method: {setting.method}{f' ({fixed})' if fixed else ''}; decay: {setting.decay}.",
        f"Budget of each configuration: {budget.steps} steps of {budget.batch_size} examples; "
        f"seeds: {budget.seeds}.",
        f"Ranges: {', '.join(f'{name} {_range(ends)}' for name, ends in setting.ranges.items())}.",
        f"Configurations: {setting.num}, {_search(setting)}.",
        f"Devices: {jax.device_count()} ({jax.devices()[0].device_kind}).",
    )
    if num_found:
        print_lines(
            console, f"Found in {folder}: {num_found} of {setting.num} are finished already."
        )


def conclude(setting: Setting, result: SweepResult, console: Console) -> None:
    """Print the ten best configurations, how many diverged, and the best of all."""
    best = rank(result)
    if best:
        headings = ("", *setting.ranges, "train loss", "test accuracy, %")
        terminal.print_table(console, headings, _table_rows(result, best[:_MOST_SHOWN]))
    print_lines(console, *_verdict(setting, result, best))


def write(folder: Path, setting: Setting, result: SweepResult) -> None:
    """Write sweep.csv, sweep.json and sweep.png together."""
    with new_results(folder, FILES) as new:
        write_csv(result, new / CSV)
        write_png(new / PICTURE, picture(setting, result))
        write_json(new / JSON, _document(setting, result))


def _search(setting: Setting) -> str:
    ranges = len(setting.ranges)
    if setting.search == "random":
        return f"a random search (Sobol's points, scrambled by seed {setting.seed})"
    if setting.search == "grid" and ranges > 1:
        return f"a grid of {' × '.join([str(grid_side(setting.num, ranges))] * ranges)}"
    return "evenly spaced"


def _range(ends: Range) -> str:
    return f"from {ends.low:g} to {ends.high:g}{' on a log scale' if ends.log else ''}"


def _values(values: Any) -> str:
    return ", ".join(f"{name} {x:.4g}" for name, x in values.items())


def _hparams(result: SweepResult, row: int) -> dict[str, float]:
    return {name: float(column[row]) for name, column in result.hparams.items()}


def _table_rows(result: SweepResult, rows: list[int]) -> list[tuple[str, ...]]:
    return [
        (
            str(place),
            *(f"{x:#.4g}" for x in _hparams(result, row).values()),
            f"{result.outputs.train_loss[row]:.4g}",
            f"{100 * result.outputs.test_accuracy[row]:.1f}",
        )
        for place, row in enumerate(rows, start=1)
    ]


def _verdict(setting: Setting, result: SweepResult, best: list[int]) -> Iterator[str]:
    seeds = setting.budget.seeds
    over = f", mean over {seeds} seeds" if seeds > 1 else ""
    yield f"Ranked by the final loss on the whole training set{over}."
    if diverged := setting.num - len(best):
        yield f"Diverged: {diverged} of {setting.num} configurations, which never win."
    if not best:
        yield "Nothing wins: try smaller learning rates."
        return
    hparams = _hparams(result, best[0])
    for name, x in hparams.items():
        if is_end_of_range(x, setting.ranges[name].low, setting.ranges[name].high):
            yield f"The best {name} is an end of its range: a better one may lie beyond."
    yield f"Best: {_values(hparams)}."


def _document(setting: Setting, result: SweepResult) -> dict[str, Any]:
    """Return all of the sweep but its rows."""
    best = rank(result)
    return {
        "configuration": asdict(setting),
        **environment(),
        "devices": jax.device_count(),
        "diverged": setting.num - len(best),
        "best": [
            {
                "place": place,
                "row": row,
                "hyperparameters": _hparams(result, row),
                "train_loss": number(result.outputs.train_loss[row]),
                "test_accuracy": number(result.outputs.test_accuracy[row]),
            }
            for place, row in enumerate(best[:_MOST_SHOWN], start=1)
        ],
    }
