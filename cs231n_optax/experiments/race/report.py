"""The report of a race: progress bars, a ranked table, and the files."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

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
from cs231n_optax.experiments.race import rates
from cs231n_optax.experiments.race.experiment import Progress, Setting, Spread, Summary, Track
from cs231n_optax.experiments.race.picture import picture
from cs231n_optax.experiments.race.rates import Curves
from cs231n_optax.experiments.sweep.experiment import is_end_of_range
from cs231n_optax.training.sweep import SweepProgress

_METHOD_COLUMN = 1

FILES = CSV, JSON, PICTURE, RATES = "race.csv", "race.json", "race.png", "race-rates.png"


class TuningBar(terminal.Bar):
    """A bar of the runs that choose the learning rates, of all methods together."""

    def __init__(self, setting: Setting, console: Console) -> None:
        assert setting.tuning is not None
        self._runs, self._methods = setting.tuning.runs, list(setting.learning_rates)
        super().__init__("tuning", self._runs * len(self._methods), console)

    def update(self, method: str, progress: SweepProgress) -> None:
        """Show how many runs of a method have finished."""
        before = self._runs * self._methods.index(method)
        self.show_or_print(before + progress.num_finished, method)


class Bars:
    """A bar for each method and one for all; outside a terminal, a line at the end of each."""

    def __init__(self, setting: Setting, console: Console) -> None:
        self._console = console
        self._live = terminal.is_live(console)
        self._bars = terminal.progress_bars(console)
        steps = setting.budget.steps
        self._methods = {
            name: self._bars.add_task(name, total=steps, start=False, news="")
            for name in setting.learning_rates
        }
        self._all = self._bars.add_task("all", total=steps * len(self._methods), news="")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def begin(self, method: str) -> Progress:
        """Start a method's bar, and return the function that advances it."""
        task = self._methods[method]
        self._bars.start_task(task)

        def advance(step: int, loss: float) -> None:
            text = "diverged" if math.isnan(loss) else f"loss {loss:.4g}"
            self._bars.advance(self._all, step - self._bars.tasks[task].completed)
            self._bars.update(task, completed=step, news=text if step > 0 else "compiling")

        return advance

    def end(self, summary: Summary) -> None:
        """Stop a method's bar or, outside a terminal, print its line."""
        self._bars.stop_task(self._methods[summary.track.entrant.name])
        if not self._live:
            print_lines(self._console, f"{summary.track.entrant.name}: {_ending(summary)}")


def introduce(setting: Setting, console: Console) -> None:
    """Print the configuration."""
    budget = setting.budget
    learning_rates = setting.learning_rates.items()
    arguments = ", ".join(f"{name} = {x:.4g}" for name, x in setting.decay_parameters.items())
    print_lines(
        console,
        *setting.describe_task(),
        f"Budget: {budget.steps} steps of {budget.batch_size} examples; seeds: {budget.seeds}.",
        f"Learning rates: {', '.join(f'{method} {rate:.4g}' for method, rate in learning_rates)}.",
        *_tuning(setting),
        *_search(setting),
        f"Decay: {setting.decay}{f' ({arguments})' if arguments else ''}.",
    )


def _tuning(setting: Setting) -> Iterator[str]:
    if setting.tuning is None:
        return
    tuning = setting.tuning
    yield (
        f"Tuned: each is the best of {tuning.runs} from {tuning.lowest:g} to {tuning.highest:g}, "
        f"from seed {tuning.seed}, which does not race."
    )
    for method in _at_an_end(setting, tuning.lowest, tuning.highest):
        yield f"The rate of {method} is an end of the range: a better one may lie beyond."


def _search(setting: Setting) -> Iterator[str]:
    if setting.search is None:
        return
    search, steps = setting.search, setting.budget.steps
    yield (
        f"Found by a range test from {search.lowest:g} to {search.highest:g}, from seed "
        f"{search.seed}, which does not race: each is an order of magnitude. Its "
        f"{search.evaluations} evaluations are counted: of {steps + search.evaluations} steps "
        f"{steps} are left."
    )
    for method in _at_an_end(setting, search.lowest, search.highest):
        yield f"The rate of {method} is an end of the range: it is not found."


def _at_an_end(setting: Setting, lowest: float, highest: float) -> list[str]:
    rates = setting.learning_rates.items()
    return [method for method, rate in rates if is_end_of_range(rate, lowest, highest)]


def written(setting: Setting) -> Sequence[str]:
    """The names of the files of a race."""
    return FILES if setting.search is not None else FILES[:-1]


def conclude(setting: Setting, ranking: Sequence[Summary], console: Console) -> None:
    """Print the ranking, the meaning of its numbers, and the verdict."""
    terminal.print_table(
        console, _headings(setting), _table_rows(ranking), keys=2, left=[_METHOD_COLUMN]
    )
    seeds = setting.budget.seeds
    over = f", mean ± standard deviation over {seeds} seeds" if seeds > 1 else ""
    print_lines(
        console,
        f"Ranked by the final loss on the whole training set{over}.",
        f"Steps to {_percent(setting.accuracy_goal)} %: until an evaluation reaches this test "
        f"accuracy{'; the median over the seeds' if seeds > 1 else ''}.",
        f"Steps per second: training only{', all seeds together' if seeds > 1 else ''}.",
        *(
            f"{summary.track.entrant.name} {_divergence(summary.track)}."
            for summary in ranking
            if np.any(summary.track.diverged)
        ),
        "",
        verdict(ranking),
    )


def verdict(ranking: Sequence[Summary]) -> str:
    """Say who wins, in two sentences.

    The winner and the runner-up are compared seed by seed, since equal seeds start alike.
    """
    winner, *others = ranking
    name = winner.track.entrant.name
    if np.all(winner.track.diverged):
        return "Nobody wins: every method diverged."
    if not others:
        return f"Only {name} finished: {_ending(winner)}."
    runner_up = others[0].track
    seeds = len(runner_up.diverged_at)
    ahead = np.sum(_final_losses(winner.track) < _final_losses(runner_up))
    sure = "wins" if ahead == seeds else "wins narrowly" if 2 * ahead > seeds else "wins on average"
    of_seeds = f" from {ahead} of {seeds} seeds" if seeds > 1 else ""
    best = max(ranking, key=lambda summary: np.nan_to_num(summary.test_accuracy.mean, nan=-1.0))
    return (
        f"{name} {sure}: its train loss ends below {runner_up.entrant.name}'s{of_seeds}. "
        f"Best on the test set: {best.track.entrant.name}, {_percent_text(best)} % right."
    )


def write(
    folder: Path,
    setting: Setting,
    ranking: Sequence[Summary],
    unfinished: Sequence[str],
    curves: Curves | None = None,
) -> None:
    """Write race.csv, race.json and race.png together, and race-rates.png if there are curves.

    The ranking has the methods that finished; ``unfinished`` names those that were interrupted.
    """
    recorded = ("batch_loss", "learning_rate", "grad_norm", "train_loss", "test_accuracy")
    columns = ("method", "seed", "step", *recorded)
    with new_results(folder, FILES) as new:
        write_csv(new / CSV, columns, (row for s in ranking for row in _rows(s.track)))
        write_png(new / PICTURE, picture(setting, ranking, unfinished))
        if curves is not None:
            write_png(new / RATES, rates.picture(curves))
        write_json(new / JSON, _document(setting, ranking, unfinished))


def _headings(setting: Setting) -> tuple[str, ...]:
    return (
        "",
        "\nmethod",
        "final\ntrain loss",
        "final test\naccuracy, %",
        f"steps to\n{_percent(setting.accuracy_goal)} %",
        "steps per\nsecond",
        "compile\nseconds",
    )


def _table_rows(ranking: Sequence[Summary]) -> list[tuple[str, ...]]:
    """Return the ranking, which fits a terminal of 80 columns."""
    form = _loss_format(ranking)
    return [
        (
            str(place),
            summary.track.entrant.name,
            _loss_text(summary, form),
            _percent_text(summary),
            _steps_text(summary),
            f"{summary.steps_per_second:.0f}",
            f"{summary.track.compile_seconds:.1f}",
        )
        for place, summary in enumerate(ranking, start=1)
    ]


def _rows(track: Track) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of one method, seed by seed; cells of what was not recorded are empty.

    Row t has the next update after t updates, and the evaluation just before it if there is one.
    The last row of a seed is an evaluation alone, or the step at which it diverged.
    """
    name, steps = track.entrant.name, track.loss.shape[1]
    evaluation = {step: i for i, step in enumerate(track.evaluated_at.tolist())}
    for seed, diverged_at in enumerate(track.diverged_at.tolist()):
        for step in range((steps if diverged_at < 0 else diverged_at) + 1):
            update, evaluated = ("", "", ""), ("", "")
            if step < steps:
                at = seed, step
                update = track.loss[at], track.learning_rate[at], track.grad_norm[at]
            if step in evaluation:
                at = seed, evaluation[step]
                evaluated = track.train_loss[at], track.test_accuracy[at]
            yield name, seed, step, *update, *evaluated


def _document(
    setting: Setting, ranking: Sequence[Summary], unfinished: Sequence[str]
) -> dict[str, Any]:
    """Return all of the race but its steps."""
    return {
        "configuration": asdict(setting),
        **environment(),
        "complete": not unfinished,
        "unfinished": list(unfinished),
        "verdict": verdict(ranking),
        "results": [_result(place, summary) for place, summary in enumerate(ranking, start=1)],
    }


def _result(place: int, summary: Summary) -> dict[str, Any]:
    track, train_loss, test_accuracy, steps_to_accuracy, steps_per_second = summary
    return {
        "place": place,
        "method": track.entrant.name,
        "learning_rate": track.entrant.learning_rate,
        "train_loss": _over_seeds(train_loss, track.train_loss[:, -1]),
        "test_accuracy": _over_seeds(test_accuracy, track.test_accuracy[:, -1]),
        "steps_to_accuracy": {
            "median": number(np.median(steps_to_accuracy)),
            "seeds": [number(x) for x in steps_to_accuracy],
        },
        "diverged_at": [None if step < 0 else int(step) for step in track.diverged_at],
        "steps_per_second": number(steps_per_second),
        "train_seconds": number(track.train_seconds),
        "compile_seconds": number(track.compile_seconds),
    }


def _over_seeds(spread: Spread, values: np.ndarray) -> dict[str, Any]:
    mean, std = spread
    return {"mean": number(mean), "std": number(std), "seeds": [number(x) for x in values]}


def _final_losses(track: Track) -> np.ndarray:
    """Return the last loss of each seed; infinite if it diverged."""
    return np.nan_to_num(track.train_loss[:, -1], nan=np.inf)


def _ending(summary: Summary) -> str:
    if np.any(summary.track.diverged):
        return _divergence(summary.track)
    return f"train loss {_loss_text(summary)}, test accuracy {_percent_text(summary)} %"


def _divergence(track: Track) -> str:
    steps = track.diverged_at[track.diverged]
    first, last = steps.min(), steps.max()
    when = f"at step {first}" if first == last else f"between steps {first} and {last}"
    seeds = len(track.diverged_at)
    return f"diverged {when}{f', from {len(steps)} of {seeds} seeds' if seeds > 1 else ''}"


def _loss_format(ranking: Sequence[Summary]) -> str:
    """Return one format for all losses: three digits of the smallest, if that fits the column."""
    losses = [s.train_loss.mean for s in ranking if not math.isnan(s.train_loss.mean)]
    if losses and min(losses) >= 1e-4 and max(losses) < 1000:
        return f".{max(2, 2 - math.floor(math.log10(min(losses))))}f"
    return ".2e"


def _loss_text(summary: Summary, form: str = ".3g") -> str:
    diverged = summary.track.diverged
    if np.all(diverged):
        return "diverged"
    if np.any(diverged):
        return f"{np.sum(diverged)} of {len(diverged)} diverged"
    return _plus_minus(summary.train_loss, form)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.4g}"


def _percent_text(summary: Summary) -> str:
    percent = Spread(*(100 * x for x in summary.test_accuracy))
    return "-" if math.isnan(percent.mean) else _plus_minus(percent, ".1f")


def _plus_minus(spread: Spread, form: str) -> str:
    mean, std = (format(x, form) for x in spread)
    return mean if math.isnan(spread.std) else f"{mean} ± {std}"


def _steps_text(summary: Summary) -> str:
    median = np.median(summary.steps_to_accuracy)
    return f"{median:.0f}" if np.isfinite(median) else "never"
