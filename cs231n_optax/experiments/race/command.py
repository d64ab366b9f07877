"""The command ``race``: its options, and their errors."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import typer

from cs231n_optax.experiments import catalog, files, interrupts, options
from cs231n_optax.experiments.catalog import DECAYS, HIGHEST_RATE, LOWEST_RATE, METHODS
from cs231n_optax.experiments.console import Bar, consoles, print_written
from cs231n_optax.experiments.errors import InputError, complain
from cs231n_optax.experiments.options import count, option
from cs231n_optax.experiments.protocol import run as protocol_run
from cs231n_optax.experiments.race import experiment, rates, report
from cs231n_optax.experiments.race.experiment import (
    Entrant,
    RateSearch,
    Setting,
    Summary,
    Tuning,
)
from cs231n_optax.experiments.sweep import experiment as sweep_experiment
from cs231n_optax.experiments.task import Budget, Task

EXAMPLES = """Examples:
  cs231n-optax race
      all methods, a small perceptron, 1,797 handwritten digits: half a minute
  cs231n-optax race --methods sgd,momentum --learning-rate sgd=0.1 \\
                    --learning-rate momentum=0.1
      momentum against sgd at the same learning rate
  cs231n-optax race --methods sgd,adam --decay step
      the effect of a decay
  cs231n-optax race --tune 16
      the best of 16 learning rates for each method, then the race
  cs231n-optax race --rate search
      learning rates by a range test, its evaluations counted
  cs231n-optax race --data cifar-10-batches-bin --model cnn --steps 3000
      the course's own images, from their binary version in that folder
  cs231n-optax race --protocol --quick
      equal tuning, targets fixed beforehand, eight workloads: ten minutes on two cores
"""


def _methods(text: str) -> tuple[str, ...]:
    methods = tuple(map(options.minibatch_method, text.split(",")))
    for method in methods:
        if methods.count(method) > 1:
            raise typer.BadParameter(f"{method} is named twice")
    return methods


def _method_rate(text: str) -> tuple[str, float]:
    method, equals, number = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"expected METHOD=α, such as sgd=0.1; got {text!r}")
    return options.minibatch_method(method), options.learning_rate(number)


_METHODS = f"The methods, of {', '.join(METHODS)}; all by default."
_LEARNING_RATE = (
    "The learning rate of one method; repeat the option for another. The defaults for digits and "
    "mnist5k are the best of a grid: the lowest train loss over the last quarter of 1000 steps of "
    "32 images, from other seeds. Other data get a third of those for mnist5k, a cautious start."
)
_TUNE = (
    f"First run every method with N rates from {LOWEST_RATE:g} to {HIGHEST_RATE:g}, evenly spaced "
    "on a log scale, for as many steps as the race and from a seed that does not race. The rate "
    "with the lowest final train loss races. All methods get the same number of runs, so that none "
    "wins by longer tuning."
)
_RATE = (
    "search: find the learning rate of each method by a range test, of steps at rates from "
    f"{LOWEST_RATE:g} to {HIGHEST_RATE:g}, from a seed that does not race. It finds the order of "
    f"magnitude. Its {2 * rates.NUM_RATES} evaluations are taken from the steps of each method. It "
    "also writes race-rates.png."
)
_ACCURACY = (
    "Count the steps to this test accuracy, a fraction; by default 0.95 for digits, and 0.9 for "
    "other data."
)

_PROTOCOL = (
    "All methods on eight small workloads, by a protocol: the same number of settings, with a "
    "schedule, tried of each; targets fixed beforehand from tuned baselines; many seeds; "
    "performance profiles in gradient evaluations and in seconds. It writes protocol.png, "
    "protocol.csv and protocol.json. After Ctrl-C the same command goes on. Of the other options "
    "only --quick, --out and --quiet apply."
)
_QUICK = "With --protocol: a quarter of the steps, fewer settings and seeds."


def race(
    context: typer.Context,
    data: options.Data = "digits",
    model: options.Model = "mlp",
    methods: Annotated[Any, option(_methods, "A,B,...", _METHODS)] = None,
    steps: options.Steps = 1000,
    batch_size: options.BatchSize = 32,
    seeds: options.Seeds = 5,
    decay: options.Decay = "constant",
    learning_rate: Annotated[
        list[Any] | None, option(_method_rate, "METHOD=α", _LEARNING_RATE)
    ] = None,
    tune: Annotated[int | None, option(partial(count, at_least=2), "N", _TUNE)] = None,
    rate: Annotated[str, option(options.one_of(("default", "search")), "RATE", _RATE)] = "default",
    accuracy: Annotated[float | None, option(options.fraction, "X", _ACCURACY)] = None,
    protocol: Annotated[bool, options.switch("--protocol", _PROTOCOL)] = False,
    quick: Annotated[bool, options.switch("--quick", _QUICK)] = False,
    out: options.Out = Path("race"),
    quiet: options.Quiet = False,
) -> int:
    """Train the methods of the lecture on real images and compare them.

    All methods start from the same points, see the same batches in the same order and
    take the same number of steps. Each runs from several seeds at once, which shows how
    much of a difference is chance.

    The table ranks by the final loss on the whole training set. The folder --out gets
    race.png (the curves), race.csv (every step) and race.json (configuration, versions,
    results).
    """
    if protocol:
        _refuse_others(context, "protocol", "quick", "out", "quiet")
        return protocol_run.run(out, quick=quick, quiet=quiet)
    if quick:
        raise InputError("--quick is a size of the protocol: add --protocol, or leave it out")
    files.check_writable(out, report.FILES)
    if tune is not None and learning_rate:
        raise InputError("--tune finds every learning rate: leave out --learning-rate, or --tune")
    if rate == "search" and (tune is not None or learning_rate):
        raise InputError(
            "--rate search finds every learning rate: leave out --learning-rate and --tune, or "
            "--rate"
        )
    search = None
    if rate == "search":
        spent = 2 * rates.NUM_RATES
        if steps <= spent:
            raise InputError(
                f"--rate search takes {spent} of the steps: --steps {steps} must be more"
            )
        steps -= spent
        search = RateSearch(rates.NUM_RATES, LOWEST_RATE, HIGHEST_RATE, seeds, spent)
    if tune is not None:
        options.use_every_core()
    task, task_setting = catalog.load_task(data, model, batch_size)
    setting = Setting(
        **asdict(task_setting),
        budget=Budget(steps, batch_size, seeds),
        learning_rates=_learning_rates(
            methods or tuple(METHODS), learning_rate or (), catalog.default_rates(data, model)
        ),
        decay=decay,
        decay_parameters=DECAYS[decay].parameters(steps),
        accuracy_goal=accuracy or catalog.ACCURACY_GOALS.get(data, catalog.USUAL_ACCURACY_GOAL),
        tuning=None if tune is None else Tuning(tune, LOWEST_RATE, HIGHEST_RATE, seed=seeds),
        search=search,
    )
    _check_memory(setting, task)
    return _run(setting, task, out, quiet=quiet)


def _refuse_others(context: typer.Context, *allowed: str) -> None:
    """Refuse the options that the protocol decides."""
    for name in context.params:
        source = context.get_parameter_source(name)
        if name not in allowed and source is not None and source.name == "COMMANDLINE":
            raise InputError(
                f"{options.flag(name)} is decided by --protocol, which is the same for everyone: "
                "leave out one of them"
            )


def _learning_rates(
    methods: Sequence[str], given: Sequence[tuple[str, float]], defaults: Mapping[str, float]
) -> dict[str, float]:
    """Return the learning rate of each method, in their order."""
    rates = dict(given)
    if len(rates) < len(given):
        raise InputError("--learning-rate names a method twice")
    for method in rates:
        if method not in methods:
            raise InputError(f"--learning-rate {method}: this method does not race")
    return {method: rates.get(method, defaults[method]) for method in methods}


def _check_memory(setting: Setting, task: Task) -> None:
    """Refuse a race that would hold more than 4 GiB; the records of all methods are kept."""
    budget, tuning = setting.budget, setting.tuning
    methods = len(setting.learning_rates)
    racing = "1 method" if methods == 1 else f"{methods} methods"
    catalog.check_memory(
        task,
        budget,
        records=methods * budget.seeds * budget.steps * experiment.BYTES_PER_STEP,
        request=f"--steps {budget.steps} with --seeds {budget.seeds} and {racing}",
    )
    if tuning is not None:
        catalog.check_memory(
            task,
            replace(budget, seeds=1),
            runs=min(tuning.runs, jax.device_count()),
            records=tuning.runs * sweep_experiment.bytes_per_row(budget.steps, num_ranges=1),
            request=f"--tune {tuning.runs} with --steps {budget.steps}",
        )


def _run(setting: Setting, task: Task, folder: Path, *, quiet: bool) -> int:
    """Tune if asked, race, report and write; after Ctrl-C, what has finished."""
    out, err = consoles(quiet=quiet)
    interrupts.begin()
    if setting.tuning is not None:
        with report.TuningBar(setting, err) as bar:
            setting = _tuned(setting, task, interrupts.checking(bar.update))
    curves = None
    if setting.search is not None:
        with Bar("range test", len(setting.learning_rates), err) as bar:
            show = interrupts.checking(bar.show)
            methods = list(setting.learning_rates)
            curves = rates.search(methods, task, setting.budget.batch_size, setting.search, show)
        found = {method: float(curves[method].suggested) for method in methods}
        setting = replace(setting, learning_rates=found)
    report.introduce(setting, out)
    summaries: list[Summary] = []
    with interrupts.suppressed(), report.Bars(setting, err) as bars:
        for method in setting.learning_rates:
            advance = interrupts.checking(bars.begin(method))
            track = experiment.run(_entrant(method, setting), task, setting.budget, advance)
            summaries.append(experiment.summarize(track, setting.accuracy_goal))
            bars.end(summaries[-1])
        interrupts.finish()
    if not summaries:
        raise KeyboardInterrupt
    finished = [summary.track.entrant.name for summary in summaries]
    unfinished = [method for method in setting.learning_rates if method not in finished]
    ranking = experiment.rank(summaries)
    try:
        report.write(folder, setting, ranking, unfinished, curves)
    finally:
        report.conclude(setting, ranking, out)
    print_written(out, folder, report.written(setting))
    if unfinished:
        complain(
            f"interrupted; finished and written: {', '.join(finished)}; "
            f"not finished: {', '.join(unfinished)}"
        )
        return interrupts.exit_status()
    return 0


def _entrant(method: str, setting: Setting) -> Entrant:
    rate = setting.learning_rates[method]
    tx = catalog.make_method(method, setting.decay, rate, setting.decay_parameters)
    return Entrant(method, list(METHODS).index(method), rate, tx)


def _tuned(setting: Setting, task: Task, progress: Callable[..., None]) -> Setting:
    """Return the setting with the best learning rates of its tuning."""
    assert setting.tuning is not None
    rates = {
        method: sweep_experiment.tune(
            lambda hparams, method=method: catalog.make_method(
                method, setting.decay, hparams["learning_rate"], setting.decay_parameters
            ),
            task,
            setting.budget,
            setting.tuning,
            partial(progress, method),
        )
        for method in setting.learning_rates
    }
    return replace(setting, learning_rates=rates)
