"""The report of a solve: a progress bar, the trace, the result, and the files."""

import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from cs231n_optax.experiments import console as terminal
from cs231n_optax.experiments.console import print_lines
from cs231n_optax.experiments.files import (
    environment,
    new_results,
    number,
    write_csv,
    write_json,
    write_png,
)
from cs231n_optax.experiments.solve.experiment import Setting, Solution, Track
from cs231n_optax.experiments.solve.picture import picture
from cs231n_optax.globalization.trial import Status
from cs231n_optax.problems.landscapes import Landscape

FILES = CSV, JSON, PATH, CURVES = "solve.csv", "solve.json", "path.png", "curves.png"

_MEANINGS = {
    Status.CONVERGED: "the gradient is as small as --tol asks",
    Status.STALLED: (
        "rounding errors prevent further progress; try a larger --tol, or --dtype float64 if it "
        "was float32"
    ),
    Status.FAILED: (
        "it met values that are not finite, or found no better ones; try another --start "
        "or, if the method has one, a smaller --learning-rate"
    ),
    Status.BUDGET: (
        "the evaluations are used up; try more --max-evals, a larger --tol or another method"
    ),
}
_MOST_ROWS = 25
_MOST_COORDINATES = 10


class Bar(terminal.Bar):
    """A bar of the evaluations; outside a terminal, one line at the end."""

    def __init__(self, setting: Setting, console: Console) -> None:
        super().__init__(setting.method, setting.max_evals, console)
        self.show(0, "compiling")

    def update(self, num_evals: int, value: float, grad_norm: float) -> None:
        """Show the last accepted point after so many evaluations."""
        self.show(num_evals, f"f {value:.4g}, max |∇f| {grad_norm:.2g}")

    def end(self, solution: Solution) -> None:
        """Print a line outside a terminal."""
        if not self._live:
            evaluations = "evaluation" if solution.num_evals == 1 else "evaluations"
            print_lines(
                self._console,
                f"{self._title}: {solution.status.name} after {solution.num_evals} {evaluations}",
            )


def introduce(setting: Setting, console: Console) -> None:
    """Print the configuration."""
    n = len(setting.start)
    options = ", ".join(f"{name} = {x:g}" for name, x in setting.method_options.items())
    print_lines(
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
    headings = ("evaluation", "value", "max |∇f|", "")
    terminal.print_table(console, headings, [_table_row(solution.track, i) for i in shown])
    if len(shown) < solution.num_evals:
        print_lines(
            console, f"Thinned: {len(shown)} of {solution.num_evals} evaluations are shown.", ""
        )
    print_lines(console, *_result(solution))


def write(folder: Path, setting: Setting, landscape: Landscape, solution: Solution) -> list[str]:
    """Write solve.csv, solve.json and the picture together.

    The picture is path.png in two dimensions and curves.png in others. An older one of the other
    name, which belongs to another solve, is removed. Return the names of the files that were
    written.
    """
    planar = len(setting.start) == 2
    columns = ("evaluation", "accepted", "value", "grad_norm", *("x", "y") * planar)
    name = PATH if planar else CURVES
    with new_results(folder, FILES) as new:
        write_csv(new / CSV, columns, _csv_rows(solution.track))
        write_png(new / name, picture(setting, landscape, solution))
        write_json(new / JSON, _document(setting, solution))
    return [CSV, JSON, name]


def _rows_shown(num_evals: int) -> list[int]:
    """Return the evaluations in the table: the first, the last, and evenly spaced ones between."""
    return np.linspace(0, num_evals - 1, min(num_evals, _MOST_ROWS)).round().astype(int).tolist()


def _table_row(track: Track, i: int) -> tuple[str, str, str, str]:
    grad_norm = f"{track.grad_norm[i]:.3e}" if track.accepted[i] else ""
    answer = "accepted" if track.accepted[i] else "rejected"
    return str(i + 1), f"{track.value[i]:.8e}", grad_norm, answer


def _result(solution: Solution) -> Iterator[str]:
    yield f"{solution.status.name}: {_MEANINGS[solution.status]}."
    if len(solution.params) <= _MOST_COORDINATES:
        yield f"Point: {_point(solution.params)}."
    yield f"Value: {solution.value:.10g}; max |∇f|: {solution.grad_norm:.3e}."
    yield f"Evaluations: {solution.num_evals}; accepted steps: {solution.num_steps}."
    if not math.isnan(solution.distance):
        yield f"Distance to the nearest known minimiser: {solution.distance:.3e}."


def _point(point: Any) -> str:
    return f"({', '.join(f'{x:.8g}' for x in point)})"


def _csv_rows(track: Track) -> Iterator[tuple[Any, ...]]:
    """Yield the rows; the cell of a rejected point's gradient is empty."""
    for i, (value, grad_norm, accepted, point) in enumerate(zip(*track, strict=True), start=1):
        yield i, int(accepted), value, grad_norm if accepted else "", *point


def _document(setting: Setting, solution: Solution) -> dict[str, Any]:
    """Return all of the solve but its evaluations."""
    return {
        "configuration": asdict(setting),
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
