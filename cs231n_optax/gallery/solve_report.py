"""What a solve tells: a bar while it runs, then its trace, its result, two files and a picture."""

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from cs231n_optax._files import replacing
from cs231n_optax.gallery import _report
from cs231n_optax.gallery._report import environment, number, say
from cs231n_optax.gallery.path_picture import picture
from cs231n_optax.gallery.solve import Setting, Solution, Track
from cs231n_optax.globalization.trial import Status
from cs231n_optax.problems.landscapes import Landscape

FILES = CSV, JSON, PICTURE = "solve.csv", "solve.json", "path.png"

_MEANINGS = {
    Status.CONVERGED: "the gradient is as small, against the first, as was asked",
    Status.STALLED: (
        "rounding lets it come no further; a --tol that is larger, or --dtype float64 if it was "
        "float32, may end as CONVERGED"
    ),
    Status.FAILED: (
        "it met values that are not finite, or found none that are better; try another --start "
        "or, if the method has one, a smaller --learning-rate"
    ),
    Status.BUDGET: (
        "the evaluations are used up; try more --max-evals, a larger --tol or another method"
    ),
}
_MOST_ROWS = 25
_MOST_COORDINATES = 10


class Bar(_report.Bar):
    """A bar of the evaluations; outside a terminal, one line at the end."""

    def __init__(self, setting: Setting, console: Console) -> None:
        super().__init__(setting.method, setting.max_evals, console)
        self.show(0, "compiling")

    def move(self, num_evals: int, value: float, grad_norm: float) -> None:
        """There was an evaluation."""
        self.show(num_evals, f"f {value:.4g}, max |∇f| {grad_norm:.2g}")

    def end(self, solution: Solution) -> None:
        """It has ended: the line is printed."""
        if not self._live:
            say(
                self._console,
                f"{self._title}: {solution.status.name} after {_evaluations(solution)}",
            )


def introduce(setting: Setting, console: Console) -> None:
    """Print what is going to be solved."""
    n = len(setting.start)
    options = ", ".join(f"{name} = {x:g}" for name, x in setting.method_options.items())
    say(
        console,
        f"Problem: {setting.problem}, {n} variables"
        f"{f', from {_point(setting.start)}' if n <= _MOST_COORDINATES else ''}.",
        f"Method: {setting.method}{f' ({options})' if options else ''}, in {setting.dtype}.",
        f"Ends: when max |∇f| <= {setting.tol:g} max(1, max |∇f| at the start), or after "
        f"{setting.max_evals} evaluations.",
    )


def conclude(setting: Setting, solution: Solution, console: Console) -> None:
    """Print the trace and the result."""
    shown = _rows_shown(solution.num_evals)
    console.print("", _table(solution.track, shown), "", sep="\n")
    if len(shown) < solution.num_evals:
        say(console, f"Thinned: {len(shown)} of {solution.num_evals} evaluations are shown.", "")
    say(console, *_result(solution))


def write(folder: Path, setting: Setting, landscape: Landscape, solution: Solution) -> list[Path]:
    """Write solve.csv, solve.json and in two dimensions path.png, each whole or not at all.

    An older path.png, which would belong to another solve, is removed.

    Args:
      folder: where to; it is made if it does not exist.
      setting: what was asked.
      landscape: the function.
      solution: how it went.

    Returns:
      The files that were written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    planar = len(setting.start) == 2
    with replacing(folder / CSV, "w") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("evaluation", "accepted", "value", "grad_norm", *("x", "y") * planar))
        rows.writerows(_csv_rows(solution.track))
    with replacing(folder / JSON, "w") as file:
        document = _document(setting, solution)
        json.dump(document, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")
    if planar:
        with replacing(folder / PICTURE, "wb") as file:
            picture(setting, landscape, solution).savefig(file, format="png")
    else:
        (folder / PICTURE).unlink(missing_ok=True)
    return [folder / name for name in FILES if planar or name != PICTURE]


def _rows_shown(num_evals: int) -> list[int]:
    """Which evaluations the table has: the first, the last, and evenly between them."""
    return np.linspace(0, num_evals - 1, min(num_evals, _MOST_ROWS)).round().astype(int).tolist()


def _table(track: Track, shown: list[int]) -> Table:
    rows = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for heading in ("evaluation", "value", "max |∇f|"):
        rows.add_column(heading, justify="right", no_wrap=True)
    rows.add_column("", no_wrap=True)
    for i in shown:
        grad_norm = f"{track.grad_norm[i]:.3e}" if track.accepted[i] else ""
        answer = "accepted" if track.accepted[i] else "rejected"
        rows.add_row(str(i + 1), f"{track.value[i]:.8e}", grad_norm, answer)
    return rows


def _result(solution: Solution) -> Iterator[str]:
    yield f"{solution.status.name}: {_MEANINGS[solution.status]}."
    if len(solution.params) <= _MOST_COORDINATES:
        yield f"Point: {_point(solution.params)}."
    yield f"Value: {solution.value:.10g}; max |∇f|: {solution.grad_norm:.3e}."
    yield f"Evaluations: {solution.num_evals}; accepted steps: {solution.num_steps}."
    if not math.isnan(solution.distance):
        yield f"Distance to the nearest known minimiser: {solution.distance:.3e}."


def _evaluations(solution: Solution) -> str:
    return f"{solution.num_evals} evaluation{'s' if solution.num_evals != 1 else ''}"


def _point(point: Any) -> str:
    return f"({', '.join(f'{x:.8g}' for x in point)})"


def _csv_rows(track: Track) -> Iterator[tuple[Any, ...]]:
    """An empty cell is the gradient at a rejected point, which nobody is told."""
    for i, (value, grad_norm, accepted, point) in enumerate(zip(*track, strict=True), start=1):
        yield i, int(accepted), value, grad_norm if accepted else "", *point


def _document(setting: Setting, solution: Solution) -> dict[str, Any]:
    """All of the solve but its evaluations; what is not a number is None."""
    return {
        "configuration": setting._asdict(),
        **environment(),
        "result": {
            "status": solution.status.name,
            "value": number(solution.value),
            "grad_norm": number(solution.grad_norm),
            "num_evals": solution.num_evals,
            "num_steps": solution.num_steps,
            "distance": number(solution.distance),
            "params": [number(x) for x in solution.params],
        },
    }
