"""The command line: ``cs231n-optax race``, ``sweep`` and ``solve``, or ``python -m cs231n_optax``.

Names become functions here and nowhere else: METHODS, DECAYS, DATASETS and MODELS are the tables of
``race`` and, with HYPERPARAMETERS, of ``sweep``; PROBLEMS, SEARCHES and METHODS are those of
``solve``. A subcommand is one function that adds a parser and says what runs it; `_parser` lists
them.

Exit status: 0, also for a method that diverged or did not converge: that is a result; 1 if the
results can't be written; 2 after one line on stderr that says what is wrong with the input, with
nothing written; 130 after Ctrl-C, with what has finished written.
"""

import argparse
import contextlib
import importlib
import importlib.metadata
import inspect
import io
import math
import os
import re
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np
import optax

import cs231n_optax
from cs231n_optax.gallery import race, solve, sweep_study
from cs231n_optax.problems import datasets, landscapes, networks, regressions
from cs231n_optax.training.sweep import OtherSweepError

PROGRAM = "cs231n-optax"
FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130

# In the order of the lecture, 7-1-3 to 7-1-7.
METHODS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": cs231n_optax.sgd,
    "momentum": cs231n_optax.momentum,
    "nesterov": cs231n_optax.nesterov,
    "adagrad": cs231n_optax.adagrad,
    "rmsprop": cs231n_optax.rmsprop,
    "adam-uncorrected": partial(cs231n_optax.adam, bias_correction=False),
    "adam": cs231n_optax.adam,
}

DATASETS: dict[str, Callable[[], datasets.Dataset]] = {
    "digits": datasets.digits,
    "mnist5k": datasets.mnist5k,
}

MODELS: dict[str, Callable[..., networks.Network]] = {
    "softmax": networks.softmax_regression,
    "mlp": networks.mlp,
    "cnn": networks.cnn,
}


class Decay(NamedTuple):
    """A decay of the learning rate, and what suits a run of so many steps."""

    schedule: Callable[..., optax.Schedule]
    parameters: Callable[[int], dict[str, float]]
    about: str


def _constant(init_value: float) -> optax.Schedule:
    return lambda count: init_value


# 7-1-8 and 7-1-11. The three that only fall end at a tenth of α, or near it.
DECAYS = {
    "constant": Decay(_constant, lambda steps: {}, "α all the way"),
    "step": Decay(
        cs231n_optax.step_decay,
        lambda steps: {"every": steps / 4, "factor": 0.5},
        "α halved after each quarter of the steps",
    ),
    "exponential": Decay(
        cs231n_optax.exponential_decay,
        lambda steps: {"rate": math.log(10) / steps},
        "α exp(-k t), down to a tenth",
    ),
    "inverse-time": Decay(
        cs231n_optax.inverse_time_decay,
        lambda steps: {"rate": 9 / steps},
        "α / (1 + k t), down to a tenth",
    ),
    "cyclic-cosine": Decay(
        cs231n_optax.cyclic_cosine,
        lambda steps: {"cycle_length": steps / 4},
        "four cosines from α to 0",
    ),
}

# The best of 1, 2, 3, 5 in each decade: the lowest mean loss over the last 250 of 1000 steps of 32
# at a constant rate, from 10 seeds that do not race (5 for cnn on mnist5k). On mnist5k enlarged to
# 32×32×3 the best were a third of these or a little less: other data get a third of mnist5k's.
LEARNING_RATES = {
    (model, data): dict(zip(METHODS, rates, strict=True))
    for model, data, *rates in (
        # model    data    sgd  momentum nesterov adagrad rmsprop adam-uncorrected adam
        ("softmax", "digits", 3, 0.3, 0.5, 1, 0.03, 0.05, 0.05),
        ("softmax", "mnist5k", 0.1, 0.01, 0.02, 0.1, 0.002, 0.003, 0.003),
        ("mlp", "digits", 1, 0.1, 0.1, 0.1, 0.005, 0.01, 0.01),
        ("mlp", "mnist5k", 0.2, 0.02, 0.03, 0.05, 0.002, 0.001, 0.003),
        ("cnn", "digits", 0.3, 0.03, 0.03, 0.1, 0.003, 0.003, 0.01),
        ("cnn", "mnist5k", 0.05, 0.01, 0.005, 0.02, 0.003, 0.001, 0.002),
    )
}

# Where sweep looks for a learning rate if it is not told, and race --tune for that of each method.
RATES = sweep_study.Range(1e-4, 10.0, log=True)


class Hyperparameter(NamedTuple):
    """A number of some methods or decays: what their functions call it, whose it is, what it is."""

    argument: str
    owners: tuple[str, ...]
    about: str


# The options of sweep, in the order of its axes.
HYPERPARAMETERS = {
    "learning_rate": Hyperparameter(
        "learning_rate", tuple(METHODS), "α, what the decay begins with"
    ),
    "rho": Hyperparameter("rho", ("momentum", "nesterov"), "ρ, the friction of the velocity"),
    "beta": Hyperparameter("decay", ("rmsprop",), "β, of the mean square"),
    "b1": Hyperparameter("b1", ("adam-uncorrected", "adam"), "β₁, of the mean"),
    "b2": Hyperparameter("b2", ("adam-uncorrected", "adam"), "β₂, of the mean square"),
    "eps": Hyperparameter(
        "eps", ("adagrad", "rmsprop", "adam-uncorrected", "adam"), "ε, added to the root"
    ),
    "decay_every": Hyperparameter("every", ("step",), "steps between two drops"),
    "decay_factor": Hyperparameter("factor", ("step",), "what a drop leaves of α"),
    "decay_rate": Hyperparameter("rate", ("exponential", "inverse-time"), "k, a step"),
    "cycle_length": Hyperparameter("cycle_length", ("cyclic-cosine",), "steps of a cycle"),
}

# What "steps to a stated accuracy" counts to; 0.9 elsewhere.
ACCURACY_GOALS = {"digits": 0.95}

# What chooses the length of a step by itself: 7-1-9, 7-1-10, and descent down the gradient.
SEARCHES: dict[str, Callable[..., optax.GradientTransformation]] = {
    "lbfgs": cs231n_optax.lbfgs,
    "bfgs": cs231n_optax.bfgs,
    "newton": cs231n_optax.newton,
    "newton-cg": cs231n_optax.newton_cg,
    "gd": partial(cs231n_optax.with_line_search, optax.identity()),
}

PROBLEMS: dict[str, Callable[..., landscapes.Landscape]] = {
    "rosenbrock": landscapes.rosenbrock,
    "taco-shell": landscapes.taco_shell,
    "beale": landscapes.beale,
    "himmelblau": landscapes.himmelblau,
    "saddle": landscapes.saddle,
    "logistic-regression": regressions.logistic_regression,
    "softmax-regression": regressions.softmax_regression,
}

# The best of 1, 2, 5 in each decade from 1e-4 to 1, from the usual start: the fewest evaluations to
# a global minimum by the default --tol or, where no rate gets there, the lowest value after 1000.
SOLVE_RATES = {
    problem: dict(zip(METHODS, rates, strict=True))
    for problem, *rates in (
        # problem             sgd  momentum nesterov adagrad rmsprop adam-uncorrected adam
        ("rosenbrock", 0.002, 0.002, 0.001, 1, 0.005, 0.2, 1),
        ("taco-shell", 0.01, 0.005, 0.005, 1, 0.02, 1, 0.5),
        ("beale", 0.02, 0.02, 0.01, 1, 0.005, 0.2, 0.2),
        ("himmelblau", 0.02, 0.002, 0.01, 1, 0.2, 0.1, 0.5),
        ("saddle", *7 * (0.1,)),  # from the usual start, where no rate moves them
        ("logistic-regression", 0.5, 1, 0.5, 0.5, 0.002, 0.2, 0.5),
        ("softmax-regression", 1, 1, 1, 1, 0.002, 0.2, 0.5),
    )
}

MEMORY_SIZE = 15  # of lbfgs
LARGEST_DIM = 1_000_000
# Of the methods that keep N² numbers, and what to take instead.
DENSE = {"bfgs": (5_000, "lbfgs"), "newton": (2_000, "newton-cg")}

_RACE = """
Train the methods of the lecture on real images and see who wins.

All start from the same points, see the same batches in the same order and may
take the same number of steps; only the rule that turns a gradient into a step
differs. Each runs from several seeds at once, so that luck can be told from
merit. With --tune the rate of each is found first, by as many runs for one as
for another: a method that was tuned longer wins for that alone.
"""

_RACE_EXAMPLES = """
examples:
  cs231n-optax race
      all methods, a small perceptron, 1,797 handwritten digits: half a minute
  cs231n-optax race --methods sgd,momentum --learning-rate sgd=0.1 \\
                    --learning-rate momentum=0.1
      what momentum does at the same learning rate
  cs231n-optax race --methods sgd,adam --decay step
      does a decay help?
  cs231n-optax race --tune 16
      16 learning rates for each method, and then the race of the best
  cs231n-optax race --data cifar-10-batches-bin --model cnn --steps 3000
      the course's own images, if you have them in their binary version

The table ranks by the final loss on the whole training set. DIR gets race.png
(the curves), race.csv (every step) and race.json (configuration, versions,
results).
"""

_SWEEP = """
Train one method with many values of its hyperparameters and see which do well.

Every configuration starts from the same points, sees the same batches in the
same order and takes the same number of steps, on every device that JAX sees; on
a CPU on every core.

The RANGE of a hyperparameter is A:B, values evenly spread from A to B; or A:B:log,
evenly on a log scale, which suits learning rates; or X alone, which fixes it. One
range is cut evenly. Several are searched at random: that tries as many different
values of each as there are configurations, where a grid tries only few (Bergstra
and Bengio, 2012). What is not given keeps its usual value; if nothing varies, the
learning rate does, as 1e-4:10:log.
"""

_SWEEP_EXAMPLES = """
examples:
  cs231n-optax sweep
      the lecture's picture: learning rates that are low, good, high, very high
  cs231n-optax sweep --method momentum --learning-rate 1e-4:1:log --rho 0:0.99
      64 pairs at random; with --grid 8 values of each
  cs231n-optax sweep --method adam --learning-rate 1e-4:1:log \\
                     --b1 0:0.99 --b2 0.9:0.9999 --num 256
  cs231n-optax sweep --decay step --learning-rate 0.01:10:log \\
                     --decay-every 20:500

The table has the ten lowest final losses on the whole training set. DIR gets
sweep.csv (every configuration), sweep.json (what was asked, versions, the best),
sweep.png and, as they finish, rows/*.npz: after Ctrl-C the same command goes on
from there.
"""

_SOLVE = """
Minimise a test function with every evaluation in view.

All methods run in the same loop, one value and one gradient an evaluation.
lbfgs, bfgs and gd (down the gradient) try points on a line, newton and newton-cg
in a ball, and may reject some; the others take steps of a fixed learning rate
and accept whatever comes.
"""

_SOLVE_EXAMPLES = """
examples:
  cs231n-optax solve rosenbrock
      L-BFGS through the curved valley
  cs231n-optax solve taco-shell --method sgd --learning-rate 0.0195
      the zigzag of the lecture
  cs231n-optax solve himmelblau --method gd --start -1,-1
      which of the four minima?
  cs231n-optax solve saddle --method newton
      a start where the gradient is zero, and no minimum
  cs231n-optax solve rosenbrock --dim 1000 --max-evals 10000
  cs231n-optax solve softmax-regression --method adam --dtype float32

It prints the trace, thinned to 25 lines, and the result. DIR gets solve.csv
(every evaluation), solve.json (configuration, versions, result) and, in two
dimensions, path.png (the way through the contours).
"""


class InputError(Exception):
    """What is wrong with the input, in one line."""


class RaceOptions(NamedTuple):
    """The options of ``race`` as they were given."""

    data: str
    model: str
    methods: tuple[str, ...]
    steps: int
    batch_size: int
    seeds: int
    decay: str
    learning_rate: list[tuple[str, float]]
    tune: int | None
    accuracy: float | None
    out: Path
    quiet: bool


class SweepOptions(NamedTuple):
    """The options of ``sweep`` as they were given."""

    data: str
    model: str
    method: str
    hyperparameters: Mapping[str, float | sweep_study.Range]
    steps: int
    batch_size: int
    seeds: int
    decay: str
    num: int
    grid: bool
    seed: int | None
    lane_batch: int | None
    out: Path
    quiet: bool


class SolveOptions(NamedTuple):
    """The options of ``solve`` as they were given."""

    problem: str
    method: str
    dim: int | None
    start: tuple[float, ...] | None
    learning_rate: float | None
    memory_size: int | None
    tol: float
    max_evals: int
    dtype: str
    out: Path
    quiet: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
      argv: the arguments; None takes those of the process.

    Returns:
      The exit status.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a console that has no α shows a ?
    try:
        options = vars(_parser().parse_args(argv))
        run = options.pop("run")
        return run(**options)
    except InputError as error:
        _complain(str(error))
        return BAD_INPUT
    except KeyboardInterrupt:
        _complain("interrupted, nothing is written")
        return INTERRUPTED
    except OSError as error:
        _complain(str(error))
        return FAILED


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see: {self.prog} --help)")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog=PROGRAM, description="The optimisers of CS231n's lecture 7 at work.")
    version = importlib.metadata.version("cs231n_optax")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {version}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in (_add_race, _add_sweep, _add_solve):
        add(commands)
    return parser


def _command(commands: Any, name: str, about: str, description: str, examples: str) -> Any:
    """The parser of a subcommand, without options yet."""
    return commands.add_parser(
        name,
        help=about,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _add_race(commands: Any) -> None:
    parser = _command(
        commands,
        "race",
        "train the lecture's methods on real images and see who wins",
        _RACE,
        _RACE_EXAMPLES,
    )
    parser.set_defaults(run=lambda **options: _race(RaceOptions(**options)))
    add = parser.add_argument
    _add_problem(add)
    add(
        "--methods",
        default=tuple(METHODS),
        type=_methods,
        metavar="A,B,...",
        help=f"who races, of {', '.join(METHODS)} (default: all)",
    )
    _add_budget(add, steps=1000, seeds=5)
    add(
        "--learning-rate",
        default=[],
        action="append",
        type=_learning_rate,
        metavar="METHOD=α",
        help="the rate of one method; give it again for another. The defaults are the best of a "
        "grid for each method and model on digits and on mnist5k (lowest train loss over the last "
        "quarter of 1000 steps of 32, from other seeds), so that each races near its own best; on "
        "other data they are a third of those for mnist5k, a cautious start",
    )
    add(
        "--tune",
        type=partial(_count, at_least=2),
        metavar="N",
        help=f"before the race run every method N times, with N rates from {RATES.low:g} to "
        f"{RATES.high:g}, evenly on a log scale, as long as the race and from a seed that does not "
        "race; each then races with its best, the lowest final train loss. The same N and the same "
        "range for all: with equal budgets a method wins by its merit",
    )
    add(
        "--accuracy",
        type=_fraction,
        metavar="X",
        help="count the steps until this fraction of the test set is right (default: 0.95 for "
        "digits, else 0.9)",
    )
    _add_output(add, "race")


def _add_problem(add: Callable[..., object]) -> None:
    """The options that say what is trained."""
    add(
        "--data",
        default="digits",
        metavar="digits|mnist5k|PATH",
        help="what to learn: 1,797 images of 8×8 pixels; 5,000 of 28×28 (needs the mnist extra); "
        "or your own: a .npz file with x_train, y_train, x_test and y_test, or a folder of "
        "CIFAR-10's binary batches (default: digits)",
    )
    add(
        "--model",
        default="mlp",
        choices=MODELS,
        help="softmax regression, a perceptron with one hidden layer of 64, or a small "
        "convolutional net, which wants images (default: mlp)",
    )


def _add_budget(add: Callable[..., object], *, steps: int, seeds: int) -> None:
    """The options that say how long, and how the learning rate falls."""
    add("--steps", default=steps, type=_count, metavar="N", help=f"updates (default: {steps})")
    add("--batch-size", default=32, type=_count, metavar="N", help="images a step (default: 32)")
    add(
        "--seeds",
        default=seeds,
        type=_count,
        metavar="N",
        help=f"starting points (default: {seeds})",
    )
    add(
        "--decay",
        default="constant",
        choices=DECAYS,
        help="what becomes of each learning rate α: "
        + "; ".join(f"{name}, {decay.about}" for name, decay in DECAYS.items())
        + " (default: constant)",
    )


def _add_output(add: Callable[..., object], folder: str) -> None:
    """The options that say where the results go."""
    add(
        "--out",
        default=Path(folder),
        type=Path,
        metavar="DIR",
        help=f"where the results go; older ones there are replaced (default: {folder})",
    )
    add("--quiet", action="store_true", help="print nothing but errors")


def _race(options: RaceOptions) -> int:
    report = _report("race")
    _check_folder(options.out, report.FILES)
    if options.tune is not None:
        _use_every_core()
    problem = _problem(options)
    setting = _setting(options, problem)
    out, err = (report.Console(stderr=stderr, quiet=options.quiet) for stderr in (False, True))

    summaries: list[race.Summary] = []
    with _interrupted_once() as interrupts:
        if setting.tuning is not None:
            with report.TuningBar(setting, err) as bar:
                setting = _tuned(setting, problem, interrupts.attentive(bar.hear))
        report.introduce(setting, out)
        with contextlib.suppress(KeyboardInterrupt), report.Bars(setting, err) as bars:
            for method, rate in setting.learning_rates.items():
                entrant = _entrant(method, rate, setting)
                move = interrupts.attentive(bars.begin(method))
                track = race.run(entrant, problem, setting.budget, move)
                summaries.append(race.summarize(track, setting.accuracy_goal))
                bars.end(summaries[-1])
            interrupts.ignore()
        finished = [summary.track.entrant.name for summary in summaries]
        unfinished = [method for method in setting.learning_rates if method not in finished]
        if not finished:
            raise KeyboardInterrupt
        ranking = race.rank(summaries)
        try:
            report.write(options.out, setting, ranking, unfinished)
        finally:
            report.conclude(setting, ranking, out)
    files = ", ".join(str(options.out / name) for name in report.FILES)
    out.print(f"Written: {files}", markup=False, highlight=False, soft_wrap=True)
    if unfinished:
        _complain(
            f"interrupted; finished and written: {', '.join(finished)}; "
            f"not finished: {', '.join(unfinished)}"
        )
        return INTERRUPTED
    return 0


def _report(command: str) -> ModuleType:
    """The module that shows a command's results, which needs the gallery extra."""
    try:
        return importlib.import_module(f"cs231n_optax.gallery.{command}_report")
    except ModuleNotFoundError as error:
        raise InputError(
            f"{command} needs {error.name}, of the gallery extra: "
            "pip install 'cs231n_optax[gallery]'"
        ) from error


def _check_folder(folder: Path, files: Iterable[str], folders: Iterable[str] = ()) -> None:
    """Whether results can be written there, found out at once and without a trace."""
    try:
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        with tempfile.TemporaryFile(dir=nearest):
            pass
        taken = [f"{name} is a folder" for name in files if (folder / name).is_dir()]
        taken += [f"{name} is a file" for name in folders if (folder / name).is_file()]
    except OSError as error:
        raise InputError(f"can't write to --out {folder}: {error.strerror}") from error
    if taken:
        raise InputError(f"can't write to --out {folder}: {taken[0]} there")


def _problem(options: RaceOptions | SweepOptions) -> race.Problem:
    try:
        dataset = _load(options.data)
    except (ImportError, OSError, ValueError) as error:
        raise InputError(str(error)) from error
    if options.batch_size > len(dataset.x_train):
        raise InputError(
            f"--batch-size {options.batch_size} is more than the {len(dataset.x_train)} training "
            f"examples of {dataset.name}"
        )
    try:
        network = MODELS[options.model](dataset.x_train.shape[1:], dataset.num_classes)
    except ValueError as error:
        raise InputError(
            f"--model {options.model} does not suit {dataset.name}: {error}"
        ) from error
    return race.Problem(dataset, network)


def _load(data: str) -> datasets.Dataset:
    if data in DATASETS:
        return DATASETS[data]()
    path = Path(data)
    if not path.exists():
        raise InputError(f"no such data: {data} is not {', '.join(DATASETS)} or a path that exists")
    return datasets.load_cifar10(path) if path.is_dir() else datasets.load_npz(path)


def _setting(options: RaceOptions, problem: race.Problem) -> race.Setting:
    """Every default resolved."""
    return race.Setting(
        **_what_trains(options, problem),
        budget=race.Budget(options.steps, options.batch_size, options.seeds),
        learning_rates=_learning_rates(options),
        decay=options.decay,
        decay_parameters=DECAYS[options.decay].parameters(options.steps),
        accuracy_goal=options.accuracy or ACCURACY_GOALS.get(options.data, 0.9),
        tuning=_tuning(options),
    )


def _what_trains(options: RaceOptions | SweepOptions, problem: race.Problem) -> dict[str, Any]:
    """What the settings of a race and of a sweep both begin with."""
    dataset, network = problem
    return {
        "data": dataset.name,
        "source": options.data,
        "train_examples": len(dataset.x_train),
        "test_examples": len(dataset.x_test),
        "model": options.model,
        "parameters": race.num_parameters(network),
    }


def _tuning(options: RaceOptions) -> race.Tuning | None:
    if options.tune is None:
        return None
    if options.learning_rate:
        raise InputError("--tune finds every learning rate: leave out --learning-rate, or --tune")
    return race.Tuning(options.tune, RATES.low, RATES.high, seed=options.seeds)


def _learning_rates(options: RaceOptions) -> dict[str, float]:
    """The rate of each method that races, in their order."""
    given = dict(options.learning_rate)
    if len(given) < len(options.learning_rate):
        raise InputError("--learning-rate names a method twice")
    if strangers := [method for method in given if method not in options.methods]:
        raise InputError(f"--learning-rate {strangers[0]}: this method does not race")
    usual = _usual_rates(options)
    return {method: given.get(method, usual[method]) for method in options.methods}


def _usual_rates(options: RaceOptions | SweepOptions) -> dict[str, float]:
    if options.data in DATASETS:
        return LEARNING_RATES[options.model, options.data]
    known = LEARNING_RATES[options.model, "mnist5k"]
    return {method: float(f"{rate / 3:.1g}") for method, rate in known.items()}


def _entrant(method: str, rate: float, setting: race.Setting) -> race.Entrant:
    return race.Entrant(method, list(METHODS).index(method), rate, _method(method, rate, setting))


def _method(method: str, rate: Any, setting: race.Setting) -> optax.GradientTransformation:
    return _under_decay(METHODS[method], setting.decay, rate, setting.decay_parameters)


def _under_decay(
    make: Callable[..., optax.GradientTransformation],
    decay: str,
    rate: Any,
    parameters: Mapping[str, Any],
) -> optax.GradientTransformation:
    return make(DECAYS[decay].schedule(rate, **parameters))


def _tuned(setting: race.Setting, problem: race.Problem, hear: Callable[..., None]) -> race.Setting:
    """The setting with the best learning rates of its tuning."""
    assert setting.tuning is not None
    rates = {
        method: sweep_study.tune(
            lambda hparams, method=method: _method(method, hparams["learning_rate"], setting),
            problem,
            setting.budget,
            setting.tuning,
            partial(hear, method),
        )
        for method in setting.learning_rates
    }
    return setting._replace(learning_rates=rates)


def _use_every_core() -> None:
    """A device for each core of the CPU, if JAX has not started and nobody has said how many."""
    if jax.config.values["jax_num_cpu_devices"] < 0:
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", os.cpu_count())


def _add_sweep(commands: Any) -> None:
    parser = _command(
        commands,
        "sweep",
        "train one method with many hyperparameters and see which do well",
        _SWEEP,
        _SWEEP_EXAMPLES,
    )
    parser.set_defaults(run=lambda **options: _sweep(_sweep_options(options)))
    add = parser.add_argument
    _add_problem(add)
    add(
        "--method",
        default="sgd",
        choices=METHODS,
        metavar="METHOD",
        help=f"one of {', '.join(METHODS)} (default: sgd)",
    )
    for name, (_, owners, about) in HYPERPARAMETERS.items():
        of = "" if name == "learning_rate" else f" (of {', '.join(owners)})"
        add(_flag(name), type=_value_or_range, metavar="RANGE", help=about + of)
    add(
        "--num",
        default=64,
        type=partial(_count, at_least=2),
        metavar="N",
        help="configurations (default: 64)",
    )
    add(
        "--grid",
        action="store_true",
        help="instead of a random search: every combination of K values of each range, with the "
        "largest K that makes no more than N",
    )
    add(
        "--seed",
        type=partial(_count, at_least=0),
        metavar="S",
        help="of the random search (default: 0)",
    )
    _add_budget(add, steps=500, seeds=1)
    add(
        "--lane-batch",
        type=_count,
        metavar="B",
        help="configurations that a device trains at once (default: what proves fastest)",
    )
    _add_output(add, "sweep")


def _sweep_options(options: dict[str, Any]) -> SweepOptions:
    given = {name: options.pop(name) for name in HYPERPARAMETERS}
    given = {name: value for name, value in given.items() if value is not None}
    return SweepOptions(hyperparameters=given, **options)


def _sweep(options: SweepOptions) -> int:
    report = _report("sweep")
    _use_every_core()
    rows = options.out / "rows"
    _check_folder(options.out, report.FILES, folders=[rows.name])
    values = _hyperparameters(options)
    problem = _problem(options)
    setting = _sweep_setting(options, problem, values)
    out, err = (report.Console(stderr=stderr, quiet=options.quiet) for stderr in (False, True))

    def make(hparams: Mapping[str, Any]) -> optax.GradientTransformation:
        return _with_decay(options.method, options.decay, {**setting.fixed, **hparams})

    num_finished = None
    with _interrupted_once() as interrupts, report.Bar(setting, err) as bar:

        def hear(progress: cs231n_optax.SweepProgress) -> None:
            nonlocal num_finished
            if num_finished is None:
                report.introduce(setting, progress.num_finished, rows, out)
            num_finished = progress.num_finished
            bar.hear(progress)

        try:
            with _refusing_another_sweep(rows):
                result = sweep_study.run(
                    make,
                    problem,
                    setting,
                    path=rows,
                    lane_batch=options.lane_batch,
                    progress=interrupts.attentive(hear),
                )
            interrupts.ignore()
        except KeyboardInterrupt:
            if not num_finished:
                raise
            _complain(
                f"interrupted; {num_finished} of {setting.num} configurations are finished and "
                f"kept in {rows}: the same command goes on from there"
            )
            return INTERRUPTED
        bar.stop()
        try:
            report.write(options.out, setting, result)
        finally:
            report.conclude(setting, result, out)
    files = ", ".join(str(options.out / name) for name in report.FILES)
    out.print(f"Written: {files}", markup=False, highlight=False, soft_wrap=True)
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


def _hyperparameters(options: SweepOptions) -> dict[str, float | sweep_study.Range]:
    """Those of the method and of its decay, every default resolved and every end checked."""
    method, decay, given = options.method, options.decay, options.hyperparameters
    usual = _usual_hyperparameters(options)
    for name, value in given.items():
        if name not in usual:
            owners = HYPERPARAMETERS[name].owners
            kind, this = ("--decay", decay) if owners[0] in DECAYS else ("--method", method)
            raise InputError(f"{_flag(name)} is for {kind} {' or '.join(owners)}, not for {this}")
        for end in value[:2] if isinstance(value, sweep_study.Range) else (value,):
            values = usual | {name: end}
            try:
                METHODS[method](**_arguments(method, values))
                _with_decay(method, decay, values)
            except ValueError as error:
                raise InputError(f"{_flag(name)}: {error}") from error
    values = {**usual, **given}
    if not any(isinstance(value, sweep_study.Range) for value in values.values()):
        if "learning_rate" in given:
            raise InputError("nothing varies: give a range A:B or A:B:log")
        values["learning_rate"] = RATES
    return values


def _usual_hyperparameters(options: SweepOptions) -> dict[str, Any]:
    """What a hyperparameter is where nobody says anything."""
    defaults = inspect.signature(METHODS[options.method]).parameters
    of_method = {
        name: defaults[argument].default
        for name, (argument, owners, _) in HYPERPARAMETERS.items()
        if options.method in owners
    }
    of_decay = {
        name: DECAYS[options.decay].parameters(options.steps)[argument]
        for name, (argument, owners, _) in HYPERPARAMETERS.items()
        if options.decay in owners
    }
    return of_method | of_decay | {"learning_rate": _usual_rates(options)[options.method]}


def _with_decay(method: str, decay: str, values: Mapping[str, Any]) -> optax.GradientTransformation:
    arguments = _arguments(method, values)
    rate = arguments.pop("learning_rate")
    make = partial(METHODS[method], **arguments)
    return _under_decay(make, decay, rate, _arguments(decay, values))


def _arguments(owner: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a method or of a decay."""
    return {
        argument: values[name]
        for name, (argument, owners, _) in HYPERPARAMETERS.items()
        if owner in owners
    }


def _sweep_setting(
    options: SweepOptions,
    problem: race.Problem,
    values: Mapping[str, float | sweep_study.Range],
) -> sweep_study.Setting:
    """Every default resolved."""
    ranges = {name: x for name, x in values.items() if isinstance(x, sweep_study.Range)}
    fixed = {name: x for name, x in values.items() if not isinstance(x, sweep_study.Range)}
    search = "even" if len(ranges) == 1 else "grid" if options.grid else "random"
    num = options.num
    if options.seed is not None and search != "random":
        raise InputError("--seed is for the random search of several ranges")
    if search == "grid":
        side = sweep_study.side(num, len(ranges))
        num = side ** len(ranges)
        if side < 2:
            raise InputError(f"--grid of {len(ranges)} ranges needs --num {2 ** len(ranges)}")
    return sweep_study.Setting(
        **_what_trains(options, problem),
        method=options.method,
        decay=options.decay,
        budget=race.Budget(options.steps, options.batch_size, options.seeds),
        ranges=ranges,
        fixed=fixed,
        search=search,
        num=num,
        seed=(options.seed or 0) if search == "random" else None,
    )


def _add_solve(commands: Any) -> None:
    parser = _command(
        commands,
        "solve",
        "minimise a test function and see how the method gets there",
        _SOLVE,
        _SOLVE_EXAMPLES,
    )
    parser._negative_number_matcher = re.compile(r"-\.?\d")  # Python 3.14's: -1,2 is no option
    parser.set_defaults(run=lambda **options: _solve(SolveOptions(**options)))
    add = parser.add_argument
    add(
        "problem",
        choices=PROBLEMS,
        metavar="PROBLEM",
        help=f"one of {', '.join(PROBLEMS)}; the regressions are on all 1,437 training images of "
        "scikit-learn's digits, odd against even or all ten, with an L2 penalty",
    )
    add(
        "--method",
        default="lbfgs",
        choices=(*SEARCHES, *METHODS),
        metavar="METHOD",
        help=f"one of {', '.join((*SEARCHES, *METHODS))} (default: lbfgs)",
    )
    add(
        "--dim",
        type=_count,
        metavar="N",
        help=f"variables of rosenbrock, 2 to {LARGEST_DIM} (default: 2)",
    )
    add(
        "--start",
        type=_point,
        metavar="X,Y,...",
        help="the first point, a number for each variable (default: the usual one of the problem)",
    )
    add(
        "--learning-rate",
        type=_rate,
        metavar="α",
        help=f"of {', '.join(METHODS)} (default: the best of a grid for this method and problem "
        "from its usual start, with rosenbrock's for two variables)",
    )
    add(
        "--memory-size",
        type=_count,
        metavar="M",
        help=f"steps that lbfgs remembers (default: {MEMORY_SIZE})",
    )
    add(
        "--tol",
        default=1e-5,
        type=_nonnegative,
        metavar="X",
        help="end when max |∇f| <= X max(1, max |∇f| at the start) (default: 1e-5)",
    )
    add(
        "--max-evals",
        default=1000,
        type=_count,
        metavar="N",
        help="evaluations of the value and the gradient at most (default: 1000)",
    )
    add(
        "--dtype",
        default="float64",
        choices=("float32", "float64"),
        help="the precision (default: float64)",
    )
    _add_output(add, "solve")


def _solve(options: SolveOptions) -> int:
    report = _report("solve")
    _check_folder(options.out, report.FILES)
    method_options = _method_options(options)
    landscape = _landscape(options)
    setting = solve.Setting(
        problem=landscape.name,
        start=_start(options, landscape),
        method=options.method,
        method_options=method_options,
        dtype=options.dtype,
        tol=options.tol,
        max_evals=options.max_evals,
    )
    tx = (SEARCHES | METHODS)[options.method](**method_options)
    out, err = (report.Console(stderr=stderr, quiet=options.quiet) for stderr in (False, True))
    report.introduce(setting, out)

    with _interrupted_once() as interrupts:
        with report.Bar(setting, err) as bar:
            solution = solve.run(landscape, tx, setting, interrupts.attentive(bar.move))
            interrupts.ignore()
        bar.end(solution)
        try:
            files = report.write(options.out, setting, landscape, solution)
        finally:
            report.conclude(setting, solution, out)
    names = ", ".join(map(str, files))
    out.print(f"Written: {names}", markup=False, highlight=False, soft_wrap=True)
    return 0


def _method_options(options: SolveOptions) -> dict[str, Any]:
    """What the method is made with, every default resolved."""
    if options.memory_size is not None and options.method != "lbfgs":
        raise InputError(f"--memory-size is for --method lbfgs, not for {options.method}")
    if options.method in SEARCHES:
        if options.learning_rate is not None:
            raise InputError(f"--learning-rate: {options.method} chooses its steps by itself")
        lbfgs = {"memory_size": options.memory_size or MEMORY_SIZE}
        return lbfgs if options.method == "lbfgs" else {}
    usual = SOLVE_RATES[options.problem][options.method]
    return {"learning_rate": options.learning_rate or usual}


def _landscape(options: SolveOptions) -> landscapes.Landscape:
    make = PROBLEMS[options.problem]
    if options.dim is None:
        try:
            return make()
        except ImportError as error:
            raise InputError(str(error)) from error
    if options.problem != "rosenbrock":
        raise InputError(f"--dim is for rosenbrock: {options.problem} has a fixed dimension")
    if not 2 <= options.dim <= LARGEST_DIM:
        raise InputError(f"--dim must be from 2 to {LARGEST_DIM}, got {options.dim}")
    largest, instead = DENSE.get(options.method, (LARGEST_DIM, ""))
    if options.dim > largest:
        raise InputError(
            f"--dim {options.dim} is too large for {options.method}, which keeps N² numbers: at "
            f"most {largest}, or --method {instead}"
        )
    return make(options.dim)


def _start(options: SolveOptions, landscape: landscapes.Landscape) -> tuple[float, ...]:
    if options.start is None:
        return tuple(landscape.x0.tolist())
    if len(options.start) != len(landscape.x0):
        raise InputError(
            f"--start has {_numbers(len(options.start))}, but {options.problem} has "
            f"{len(landscape.x0)} variables"
        )
    if max(map(abs, options.start)) > float(np.finfo(options.dtype).max):
        raise InputError(f"--start has a number that is too large for {options.dtype}")
    return options.start


def _numbers(count: int) -> str:
    return "1 number" if count == 1 else f"{count} numbers"


class _Hearing(NamedTuple):
    """What to do about Ctrl-C.

    Attributes:
      ignore: from now on none is heard.
      attentive: makes a callback raise the one that has been lost: Python discards exceptions in
        some places, such as the callbacks of its garbage collector.
    """

    ignore: Callable[[], object]
    attentive: Callable[[Callable[..., None]], Callable[..., None]]


@contextlib.contextmanager
def _interrupted_once() -> Iterator[_Hearing]:
    """Hear one Ctrl-C: an impatient second one shall not cost what the first one saves."""
    heard = False

    def ignore() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def interrupt(*_: object) -> NoReturn:
        nonlocal heard
        heard = True
        ignore()
        raise KeyboardInterrupt

    def attentive(callback: Callable[..., None]) -> Callable[..., None]:
        def call(*news: Any) -> None:
            if heard:
                raise KeyboardInterrupt
            callback(*news)

        return call

    def report_discarded(discarded: Any) -> None:
        if not issubclass(discarded.exc_type, KeyboardInterrupt):  # which `attentive` raises again
            previous_hook(discarded)

    previous, previous_hook = signal.signal(signal.SIGINT, interrupt), sys.unraisablehook
    sys.unraisablehook = report_discarded
    try:
        yield _Hearing(ignore, attentive)
    finally:
        sys.unraisablehook = previous_hook
        signal.signal(signal.SIGINT, previous)


def _complain(message: str) -> None:
    """One line on stderr."""
    print(f"{PROGRAM}: {' '.join(message.split())}", file=sys.stderr)


def _methods(text: str) -> tuple[str, ...]:
    methods = tuple(name.strip() for name in text.split(","))
    for method in methods:
        if method not in METHODS:
            known = ", ".join(METHODS)
            raise argparse.ArgumentTypeError(f"unknown method {method!r}; known are {known}")
        if methods.count(method) > 1:
            raise argparse.ArgumentTypeError(f"{method} is named twice")
    return methods


def _learning_rate(text: str) -> tuple[str, float]:
    method, _, number = text.partition("=")
    if method not in METHODS:
        known = ", ".join(METHODS)
        raise argparse.ArgumentTypeError(
            f"expected METHOD=α with a method of {known}; got {text!r}"
        )
    return method, _rate(number)


def _rate(text: str) -> float:
    rate = _float(text)
    if not 0 < rate < math.inf:
        raise argparse.ArgumentTypeError(f"α must be a finite number > 0, got {text!r}")
    return rate


def _point(text: str) -> tuple[float, ...]:
    point = tuple(map(_float, text.split(",")))
    if not all(map(math.isfinite, point)):
        raise argparse.ArgumentTypeError(f"must be finite numbers X,Y,..., got {text!r}")
    return point


def _nonnegative(text: str) -> float:
    x = _float(text)
    if not 0 <= x < math.inf:
        raise argparse.ArgumentTypeError(f"must be a finite number >= 0, got {text!r}")
    return x


def _count(text: str, at_least: int = 1) -> int:
    if not (text.isdecimal() and at_least <= int(text) < 2**31):
        raise argparse.ArgumentTypeError(
            f"must be a whole number >= {at_least} and < 2^31, got {text!r}"
        )
    return int(text)


def _fraction(text: str) -> float:
    fraction = _float(text)
    if not 0 < fraction <= 1:
        raise argparse.ArgumentTypeError(f"must be a number in (0, 1], got {text!r}")
    return fraction


def _value_or_range(text: str) -> float | sweep_study.Range:
    log = text.endswith(":log")
    values = [_float(part) for part in text.removesuffix(":log").split(":")]
    largest = float(np.finfo(np.float32).max)
    if len(values) not in ((2,) if log else (1, 2)) or not all(abs(x) <= largest for x in values):
        raise argparse.ArgumentTypeError(f"must be X, A:B or A:B:log with numbers, got {text!r}")
    low, high = values[0], values[-1]
    if len(values) == 1:
        return low
    if not low < high:
        raise argparse.ArgumentTypeError(f"A must be less than B in A:B, got {text!r}")
    if log and low <= 0:
        raise argparse.ArgumentTypeError(f"A must be > 0 in A:B:log, got {text!r}")
    return sweep_study.Range(low, high, log)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _float(text: str) -> float:
    """The number, or NaN, which lies in no range."""
    try:
        return float(text)
    except ValueError:
        return math.nan
