"""What a study tells: a bar while it runs, then the best, a CSV and a JSON file, a picture."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from rich import box
from rich.console import Console
from rich.table import Table

from cs231n_optax._files import replacing
from cs231n_optax.gallery import _report
from cs231n_optax.gallery._report import environment, number, say
from cs231n_optax.gallery.sweep_picture import picture
from cs231n_optax.gallery.sweep_study import Range, Setting, at_the_end, rank, side
from cs231n_optax.training.sweep import SweepProgress, SweepResult, write_csv

FILES = CSV, JSON, PICTURE = "sweep.csv", "sweep.json", "sweep.png"

_MOST_SHOWN = 10


class Bar(_report.Bar):
    """A bar of the configurations, with the best so far."""

    def __init__(self, setting: Setting, console: Console) -> None:
        super().__init__(setting.method, setting.num, console)

    def hear(self, progress: SweepProgress) -> None:
        """Some have finished."""
        best, losses = rank(progress.result), progress.result.outputs.train_loss
        if best:
            news = f"best train loss {losses[best[0]]:.3g}"
        else:
            news = "all diverged" if progress.num_finished else "compiling"
        self.show_or_tell(progress.num_finished, news)


def introduce(setting: Setting, num_found: int, folder: Path, console: Console) -> None:
    """Print what is going to be tried, and how much of it was found in a folder."""
    steps, batch_size, seeds = setting.budget
    fixed = _values(setting.fixed)
    say(
        console,
        f"Data: {setting.data}, {setting.train_examples} examples to train on and "
        f"{setting.test_examples} to test.",
        f"Model: {setting.model}, {setting.parameters} parameters.",
        f"Method: {setting.method}{f' ({fixed})' if fixed else ''}; decay: {setting.decay}.",
        f"Budget of each configuration: {steps} steps of {batch_size} examples; seeds: {seeds}.",
        f"Ranges: {', '.join(f'{name} {_range(ends)}' for name, ends in setting.ranges.items())}.",
        f"Configurations: {setting.num}, {_search(setting)}.",
        f"Devices: {jax.device_count()} ({jax.devices()[0].device_kind}).",
    )
    if num_found:
        say(console, f"Found in {folder}: {num_found} of {setting.num} are finished already.")


def conclude(setting: Setting, result: SweepResult, console: Console) -> None:
    """Print the best ten, how many diverged, and the best of all."""
    best = rank(result)
    if best:
        console.print("", _table(setting, result, best[:_MOST_SHOWN]), "", sep="\n")
    say(console, *_verdict(setting, result, best))


def write(folder: Path, setting: Setting, result: SweepResult) -> None:
    """Write sweep.csv, sweep.json and sweep.png, each of them whole or not at all.

    Args:
      folder: where to; it exists.
      setting: what the study was.
      result: of `sweep_study.run`.
    """
    write_csv(result, folder / CSV)
    with replacing(folder / JSON, "w") as file:
        document = _document(setting, result)
        json.dump(document, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")
    with replacing(folder / PICTURE, "wb") as file:
        picture(setting, result).savefig(file, format="png")


def _search(setting: Setting) -> str:
    ranges = len(setting.ranges)
    if setting.search == "random":
        return f"a random search (Sobol's points, scrambled by seed {setting.seed})"
    if setting.search == "grid" and ranges > 1:
        return f"a grid of {' × '.join([str(side(setting.num, ranges))] * ranges)}"
    return "evenly spaced"


def _range(ends: Range) -> str:
    return f"from {ends.low:g} to {ends.high:g}{' on a log scale' if ends.log else ''}"


def _values(values: Any) -> str:
    return ", ".join(f"{name} {x:.4g}" for name, x in values.items())


def _hparams(result: SweepResult, row: int) -> dict[str, float]:
    return {name: float(column[row]) for name, column in result.hparams.items()}


def _table(setting: Setting, result: SweepResult, rows: list[int]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for heading in ("", *setting.ranges, "train loss", "test accuracy, %"):
        table.add_column(heading, justify="right", no_wrap=True)
    for place, row in enumerate(rows, start=1):
        table.add_row(
            str(place),
            *(f"{x:#.4g}" for x in _hparams(result, row).values()),
            f"{result.outputs.train_loss[row]:.4g}",
            f"{100 * result.outputs.test_accuracy[row]:.1f}",
        )
    return table


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
    ends = [name for name, x in hparams.items() if at_the_end(x, *setting.ranges[name][:2])]
    for name in ends:
        yield f"The best {name} is an end of its range: a better one may lie beyond."
    yield f"Best: {_values(hparams)}."


def _document(setting: Setting, result: SweepResult) -> dict[str, Any]:
    """All of the study but its rows; what is not a number is None."""
    best = rank(result)
    return {
        "configuration": setting._asdict()
        | {
            "budget": setting.budget._asdict(),
            "ranges": {name: ends._asdict() for name, ends in setting.ranges.items()},
        },
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
