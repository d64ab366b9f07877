"""The command ``sweep``: its options, and their errors."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import typer

from cs231n_optax.experiments import catalog, files, interrupts, options
from cs231n_optax.experiments.catalog import DECAYS, HYPERPARAMETERS, METHODS
from cs231n_optax.experiments.console import consoles, print_written
from cs231n_optax.experiments.errors import InputError, complain
from cs231n_optax.experiments.options import count, minibatch_method, option
from cs231n_optax.experiments.sweep import experiment, report
from cs231n_optax.experiments.sweep.experiment import Range, Setting, grid_side
from cs231n_optax.experiments.task import Budget, Task
from cs231n_optax.training.sweep import OtherSweepError, SweepProgress

EXAMPLES = """Examples:
  cs231n-optax sweep
      the lecture's picture: learning rates that are low, good, high, very high
  cs231n-optax sweep --method momentum --learning-rate 1e-4:1:log --rho 0:0.99
      64 random pairs; with --grid, 8 values of each
  cs231n-optax sweep --method adam --learning-rate 1e-4:1:log \\
                     --b1 0:0.99 --b2 0.9:0.9999 --num 256
      256 random triples
  cs231n-optax sweep --decay step --learning-rate 0.01:10:log \\
                     --decay-every 20:500
      how high to start, and how often to halve
"""

_GRID = (
    "Instead of a random search, try every combination of K values of each range, with the largest "
    "K that makes at most --num."
)
_LANE_BATCH = (
    "Number of configurations that a device trains at a time. By default increasing numbers are "
    "timed, and the fastest is kept."
)


def _hyperparameter(name: str) -> Any:
    """Return the option of a hyperparameter."""
    _, owners, about = HYPERPARAMETERS[name]
    of = "" if name == "learning_rate" else f" ({', '.join(owners)})"
    return typer.Option(
        parser=options.value_or_range,
        metavar="RANGE",
        help=f"{about[0].upper()}{about[1:]}{of}.",
        rich_help_panel="Hyperparameters",
    )


def sweep(
    context: typer.Context,
    data: options.Data = "digits",
    model: options.Model = "mlp",
    method: Annotated[
        str, option(minibatch_method, "METHOD", f"The method: one of {', '.join(METHODS)}.")
    ] = "sgd",
    steps: options.Steps = 500,
    batch_size: options.BatchSize = 32,
    seeds: options.Seeds = 1,
    decay: options.Decay = "constant",
    learning_rate: Annotated[Any, _hyperparameter("learning_rate")] = None,
    rho: Annotated[Any, _hyperparameter("rho")] = None,
    beta: Annotated[Any, _hyperparameter("beta")] = None,
    b1: Annotated[Any, _hyperparameter("b1")] = None,
    b2: Annotated[Any, _hyperparameter("b2")] = None,
    eps: Annotated[Any, _hyperparameter("eps")] = None,
    decay_every: Annotated[Any, _hyperparameter("decay_every")] = None,
    decay_factor: Annotated[Any, _hyperparameter("decay_factor")] = None,
    decay_rate: Annotated[Any, _hyperparameter("decay_rate")] = None,
    cycle_length: Annotated[Any, _hyperparameter("cycle_length")] = None,
    num: Annotated[int, option(partial(count, at_least=2), "N", "Number of configurations.")] = 64,
    grid: Annotated[bool, options.switch("--grid", _GRID)] = False,
    seed: Annotated[
        int | None,
        option(partial(count, at_least=0), "S", "Seed of the random search; 0 by default."),
    ] = None,
    lane_batch: Annotated[int | None, option(count, "B", _LANE_BATCH)] = None,
    out: options.SweepOut = Path("sweep"),
    quiet: options.Quiet = False,
) -> int:
    """Train one method with many values of its hyperparameters and rank them.

    Every configuration starts from the same points, sees the same batches in the same
    order and takes the same number of steps. They are spread over all devices that JAX
    sees; on a CPU every core is one.

    The RANGE of a hyperparameter is A:B, values evenly spaced from A to B; with :log at the
    end they are evenly spaced on a log scale, which suits learning rates. A single number
    fixes the hyperparameter. One range is divided evenly. Several ranges are searched at
    random, which tries as many values of each as there are configurations; a grid tries few
    (Bergstra and Bengio, 2012). What is not given has its default value; if nothing varies,
    the learning rate does, over 1e-4:10:log.

    The table shows the ten lowest final losses on the whole training set. The folder --out
    gets sweep.csv (every configuration), sweep.json (configuration, versions, the best),
    sweep.png and rows/*.npz (what has finished). After Ctrl-C the same command resumes.
    """
    options.use_every_core()
    files.check_writable(out, report.FILES, folders=[report.ROWS])
    defaults = catalog.default_hyperparameters(method, decay, steps=steps, data=data, model=model)
    values = {name: context.params[name] for name in HYPERPARAMETERS}
    given = {name: value for name, value in values.items() if value is not None}
    values = _hyperparameters(method, decay, given, defaults)
    ranges = {name: x for name, x in values.items() if isinstance(x, Range)}
    search = "even" if len(ranges) == 1 else "grid" if grid else "random"
    if seed is not None and search != "random":
        raise InputError("--seed is for the random search of several ranges")
    task, task_setting = catalog.load_task(data, model, batch_size)
    setting = Setting(
        **asdict(task_setting),
        method=method,
        decay=decay,
        budget=Budget(steps, batch_size, seeds),
        ranges=ranges,
        fixed={name: x for name, x in values.items() if not isinstance(x, Range)},
        search=search,
        num=_grid_size(num, len(ranges)) if search == "grid" else num,
        seed=(seed or 0) if search == "random" else None,
    )
    _check_memory(setting, lane_batch)
    return _run(setting, task, out, lane_batch=lane_batch, quiet=quiet)


def _hyperparameters(
    method: str, decay: str, given: dict[str, float | Range], defaults: dict[str, float]
) -> dict[str, float | Range]:
    """Return every hyperparameter; check that the method or decay has and accepts the given ones.

    Of a range both ends are checked: what is accepted is an interval.
    """
    for name, value in given.items():
        if name not in defaults:
            owners = HYPERPARAMETERS[name].owners
            kind, this = ("--decay", decay) if owners[0] in DECAYS else ("--method", method)
            raise InputError(
                f"{options.flag(name)} is for {kind} {' or '.join(owners)}, not for {this}"
            )
        for end in (value.low, value.high) if isinstance(value, Range) else (value,):
            values = {**defaults, name: end}
            try:
                METHODS[method](**catalog.arguments(method, values))
                catalog.make_swept_method(method, decay, values)
            except ValueError as error:
                raise InputError(f"{options.flag(name)}: {error}") from error
    values = {**defaults, **given}
    if not any(isinstance(value, Range) for value in values.values()):
        if "learning_rate" in given:
            raise InputError("nothing varies: give a range A:B or A:B:log")
        values["learning_rate"] = Range(catalog.LOWEST_RATE, catalog.HIGHEST_RATE, log=True)
    return values


def _grid_size(num: int, num_ranges: int) -> int:
    """Return the number of points of the largest grid of at most ``num``."""
    side = grid_side(num, num_ranges)
    if side < 2:
        raise InputError(f"--grid of {num_ranges} ranges needs --num {2**num_ranges}")
    return side**num_ranges


def _check_memory(setting: Setting, lane_batch: int | None) -> None:
    """Refuse a sweep that would hold more than 4 GiB."""
    budget = setting.budget
    lanes = f" and --lane-batch {lane_batch}" if lane_batch else ""
    catalog.check_memory(
        setting,
        budget,
        runs=min(setting.num, jax.device_count() * (lane_batch or 1)),
        records=setting.num * experiment.bytes_per_row(budget.steps, len(setting.ranges)),
        request=f"--num {setting.num} with --steps {budget.steps}, --seeds {budget.seeds}{lanes}",
    )


def _run(setting: Setting, task: Task, folder: Path, *, lane_batch: int | None, quiet: bool) -> int:
    """Train every configuration, report and write; after Ctrl-C what has finished is kept."""
    out, err = consoles(quiet=quiet)
    rows = folder / report.ROWS
    num_finished = None

    def make(hparams: Mapping[str, Any]) -> Any:
        hyperparameters = {**setting.fixed, **hparams}
        return catalog.make_swept_method(setting.method, setting.decay, hyperparameters)

    def update(progress: SweepProgress) -> None:
        nonlocal num_finished
        if num_finished is None:
            report.introduce(setting, progress.num_finished, rows, out)
        num_finished = progress.num_finished
        bar.update(progress)

    interrupts.begin()
    result = None
    with interrupts.suppressed(), report.Bar(setting, err) as bar, _refusing_another_sweep(rows):
        result = experiment.run(
            make,
            task,
            setting,
            path=rows,
            batch_size=lane_batch,
            progress=interrupts.checking(update),
        )
        interrupts.finish()
    if result is None:
        if not num_finished:
            raise KeyboardInterrupt
        complain(
            f"interrupted; {num_finished} of {setting.num} configurations are finished and "
            f"kept in {rows}: the same command goes on from there"
        )
        return interrupts.exit_status()
    try:
        report.write(folder, setting, result)
    finally:
        report.conclude(setting, result, out)
    print_written(out, folder, report.FILES)
    return 0


@contextlib.contextmanager
def _refusing_another_sweep(rows: Path) -> Iterator[None]:
    try:
        yield
    except OtherSweepError as error:
        raise InputError(
            f"{rows} belongs to another sweep: other options, other data or another version of "
            "JAX; give another --out, or remove that folder"
        ) from error
    except BlockingIOError as error:
        raise InputError(
            f"another sweep to {rows} is running: wait for its end, or give another --out"
        ) from error
