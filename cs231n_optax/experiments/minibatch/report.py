"""The report: a table in Markdown, all numbers as JSON, and one picture."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from cs231n_optax.experiments import style
from cs231n_optax.experiments.files import environment, new_results, number, write_json, write_png
from cs231n_optax.experiments.minibatch import verdict
from cs231n_optax.experiments.minibatch.experiment import METHODS, Cells, Size, log_loss

FILES = TABLE, JSON, PICTURE = "minibatch.md", "minibatch.json", "minibatch.png"


def write(folder: Path, size: Size, cells: Cells) -> None:
    """Write the three files together."""
    with new_results(folder, FILES) as new:
        (new / TABLE).write_text("\n".join(lines(size, cells)) + "\n", encoding="utf-8")
        write_png(new / PICTURE, picture(cells))
        write_json(new / JSON, _document(size, cells))


def lines(size: Size, cells: Cells) -> Iterator[str]:
    """The verdict, and a table of each loss and of the errors."""
    yield _verdict(size, cells)
    yield ""
    yield f"Mean ± standard error over {size.seeds} seeds, {size.evaluations} evaluations each."
    for title, field in (
        ("log10 of the training loss", "train_loss"),
        ("log10 of the test loss", "test_loss"),
        ("share of the test set classified wrong", "test_error"),
    ):
        yield from ("", f"{title}:", "")
        yield "| workload | batch | " + " | ".join(METHODS) + " |"
        yield "|---|---|" + "---|" * len(METHODS)
        for (workload, batch_size), results in cells.items():
            columns = (getattr(result.runs, field) for result in results.values())
            texts = [_mean(x if field == "test_error" else log_loss(x)) for x in columns]
            yield f"| {workload} | {batch_size} | " + " | ".join(texts) + " |"
    yield from ("", "Microseconds an evaluation, and the learning rate:", "")
    yield "| workload | batch | " + " | ".join(METHODS) + " |"
    yield "|---|---|" + "---|" * len(METHODS)
    for (workload, batch_size), results in cells.items():
        texts = [f"{1e6 * each.seconds:.0f}, {each.rate:.2g}" for each in results.values()]
        yield f"| {workload} | {batch_size} | " + " | ".join(texts) + " |"


def picture(cells: Cells) -> Figure:
    """The difference of sqn to the better Adam on each workload, with two standard errors."""
    figure = style.new_figure(height=1.5 + 0.22 * len(cells))
    axes = figure.subplots()
    found = [verdict.difference(results) for results in cells.values()]
    rows = np.arange(len(cells))
    axes.errorbar(
        [each.mean for each in found],
        rows,
        xerr=[verdict.SIGMAS * each.error for each in found],
        fmt="o",
        color=style.BLUE,
        markersize=4,
    )
    axes.axvline(0, color="0.5", linewidth=1)
    axes.set_yticks(rows, [f"{workload}, {batch}" for workload, batch in cells])
    axes.invert_yaxis()
    axes.set_xlabel(
        "log10 of the training loss, stochastic quasi-Newton minus the better Adam (± 2 SE)",
        fontsize=style.FONT_SIZE,
    )
    style.format_axes(axes)
    return figure


def _verdict(size: Size, cells: Cells) -> str:
    expected = len(size.workloads) * len(size.batch_sizes)
    needed = verdict.LARGE_BATCH in size.batch_sizes and verdict.AUTOENCODER in cells
    if len(cells) < expected or not needed:
        return f"No verdict: {len(cells)} of {expected} finished, or not the full size."
    return f"The lecture's L-BFGS on mini-batches, as stochastic quasi-Newton: {_decided(cells)}."


def _decided(cells: Cells) -> str:
    return str(verdict.decide(cells))


def _mean(samples: np.ndarray) -> str:
    if not np.isfinite(samples).all():
        return "—"
    error = samples.std(ddof=1) / np.sqrt(len(samples))
    return f"{samples.mean():.3f} ± {error:.3f}"


def _document(size: Size, cells: Cells) -> dict:
    return {
        "size": size._asdict(),
        "verdict": _verdict(size, cells),
        "rule": verdict.decide.__doc__,
        "environment": environment(),
        "results": [
            {
                "workload": workload,
                "batch_size": batch_size,
                "method": name,
                "rate": result.rate,
                "seconds_per_evaluation": result.seconds,
                **{
                    field: [number(x) for x in getattr(result.runs, field)]
                    for field in ("train_loss", "test_loss", "test_error")
                },
            }
            for (workload, batch_size), results in cells.items()
            for name, result in results.items()
        ],
    }
