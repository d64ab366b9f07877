"""The report: a table in Markdown, all numbers as JSON, and one picture."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from cs231n_optax.experiments import style
from cs231n_optax.experiments.files import environment, new_results, number, write_json, write_png
from cs231n_optax.experiments.minibatch import verdict
from cs231n_optax.experiments.minibatch.experiment import (
    METHODS,
    Cells,
    Found,
    Result,
    Size,
    log_loss,
)
from cs231n_optax.experiments.sweep.experiment import is_end_of_range

FILES = TABLE, JSON, PICTURE = "minibatch.md", "minibatch.json", "minibatch.png"

# The forms of L-BFGS, which the picture compares with Adam.
FORMS = {
    "lbfgs": ("L-BFGS, each batch held until a point is accepted", style.ORANGE, "s"),
    "growing": ("L-BFGS on growing batches", style.GREEN, "D"),
    "sqn": ("stochastic quasi-Newton", style.BLUE, "o"),
}


def write(folder: Path, found: Found) -> None:
    """Write the three files together."""
    with new_results(folder, FILES) as new:
        text = "\n".join(lines(found))
        (new / TABLE).write_text(text + "\n", encoding="utf-8")
        write_png(new / PICTURE, picture(found.cells))
        write_json(new / JSON, _document(found))


def lines(found: Found) -> Iterator[str]:
    """The verdict, and a table of each loss, of the errors, of the rates and of the times."""
    size, cells = found.size, found.cells
    yield _verdict(size, cells)
    yield from _counts("training", "train_loss", cells)
    yield from _counts("test", "test_loss", cells)
    yield ""
    yield f"Mean ± standard error over {size.seeds} seeds, {size.evaluations} evaluations each."
    for title, field in (
        ("log10 of the training loss", "train_loss"),
        ("log10 of the test loss", "test_loss"),
        ("Share of the test set classified wrong", "test_error"),
    ):
        rows = {
            cell: [getattr(result.runs, field) for result in results.values()]
            for cell, results in cells.items()
        }
        if field == "test_error":
            texts = {k: [_mean(x, 3) for x in row] for k, row in rows.items() if _is_finite(row)}
        else:
            texts = {k: [_mean(log_loss(x), 2) for x in row] for k, row in rows.items()}
        yield from _table(title, texts)
    rates = {k: [_rate(x) for x in row.values()] for k, row in cells.items()}
    yield from _table("Learning rate; * is an end of what was tried", rates)
    seconds = {
        (size.workloads[0], batch_size): [f"{1e6 * row[name]:.0f}" for name in METHODS]
        for batch_size, row in found.seconds.items()
    }
    yield from _table("Microseconds an evaluation, measured side by side", seconds)
    yield from ("", "Noise scale tr Σ / ‖G‖² half-way through a run of Adam:", "")
    yield from ("| workload | examples |", "|---|---|")
    yield from (f"| {workload} | {scale:.0f} |" for workload, scale in found.scales.items())


def _counts(name: str, field: str, cells: Cells) -> Iterator[str]:
    """On how many workloads a method is better than the better Adam, even, and worse."""
    sizes = sorted({batch_size for _, batch_size in cells})
    yield ""
    yield f"Workloads on which the {name} loss is below that of the better Adam, even, or above it:"
    yield from ("", "| method | " + " | ".join(f"B = {size}" for size in sizes) + " |")
    yield "|---|" + "---|" * len(sizes)
    for method in METHODS:
        if method in verdict.ADAMS:
            continue
        texts = []
        for size in sizes:
            found = [
                verdict.difference(results, field, method)
                for (_, batch_size), results in cells.items()
                if batch_size == size
            ]
            wins, loses = sum(x.wins for x in found), sum(not x.keeps_up for x in found)
            texts.append(f"{wins}, {len(found) - wins - loses}, {loses}")
        yield f"| {method} | " + " | ".join(texts) + " |"


def _table(title: str, rows: Mapping[tuple[str, int], list[str]]) -> Iterator[str]:
    if not rows:
        return
    yield from ("", f"{title}:", "", "| workload | batch | " + " | ".join(METHODS) + " |")
    yield "|---|---|" + "---|" * len(METHODS)
    for (workload, batch_size), texts in rows.items():
        yield f"| {workload} | {batch_size} | " + " | ".join(texts) + " |"


def _rate(result: Result) -> str:
    rates = result.rates
    at_an_end = bool(rates) and is_end_of_range(result.rate, min(rates), max(rates))
    return f"{result.rate:.2g}{'*' if at_an_end else ''}"


def picture(cells: Cells) -> Figure:
    """The difference of each form of L-BFGS to the better Adam, with two standard errors."""
    figure = style.new_figure(height=1.7 + 0.22 * len(cells))
    axes = figure.subplots()
    rows = np.arange(len(cells))
    for method, (label, color, marker) in FORMS.items():
        found = [verdict.difference(results, method=method) for results in cells.values()]
        axes.errorbar(
            [each.mean for each in found],
            rows,
            xerr=[verdict.SIGMAS * each.error for each in found],
            fmt=marker,
            color=color,
            label=label,
            markersize=4,
        )
    axes.axvline(0, color="0.5", linewidth=1)
    axes.set_yticks(rows, [f"{workload}, {batch}" for workload, batch in cells])
    axes.invert_yaxis()
    axes.set_xlabel(
        "log10 of the training loss, minus that of the better Adam (± 2 standard errors)",
        fontsize=style.FONT_SIZE,
    )
    style.format_axes(axes)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=style.FONT_SIZE)
    return figure


def _verdict(size: Size, cells: Cells) -> str:
    expected = len(size.workloads) * len(size.batch_sizes)
    needed = verdict.LARGE_BATCH in size.batch_sizes and verdict.AUTOENCODER in cells
    if len(cells) < expected or not needed:
        return f"No verdict: {len(cells)} of {expected} finished, or not the full size."
    return str(verdict.decide(cells))


def _is_finite(samples: list[np.ndarray]) -> bool:
    return bool(np.isfinite(samples).all())


def _mean(samples: np.ndarray, digits: int) -> str:
    error = samples.std(ddof=1) / np.sqrt(len(samples))
    return f"{samples.mean():.{digits}f} ± {error:.{digits}f}"


def _document(found: Found) -> dict:
    return {
        "size": found.size._asdict(),
        "verdict": _verdict(found.size, found.cells),
        "rule": verdict.decide.__doc__,
        "environment": environment(),
        "noise_scales": {workload: number(scale) for workload, scale in found.scales.items()},
        "seconds_per_evaluation": found.seconds,
        "results": [
            {
                "workload": workload,
                "batch_size": batch_size,
                "method": name,
                "rate": result.rate,
                "rates": result.rates,
                "tuned": result.tuned,
                **{
                    field: [number(x) for x in getattr(result.runs, field)]
                    for field in ("train_loss", "test_loss", "test_error")
                },
            }
            for (workload, batch_size), results in found.cells.items()
            for name, result in results.items()
        ],
    }
