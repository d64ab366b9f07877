"""What the command line can name, as data: here names become functions, and nowhere else.

`METHODS`, `DECAYS`, `DATASETS` and `MODELS` serve ``race`` and, with `HYPERPARAMETERS`, ``sweep``;
`PROBLEMS`, `SEARCHES` and `METHODS` serve ``solve``.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import optax

import cs231n_optax
from cs231n_optax import _checks
from cs231n_optax.experiments.errors import InputError
from cs231n_optax.experiments.task import Budget, Task, TaskSetting, num_parameters
from cs231n_optax.problems import datasets, landscapes, networks, regressions

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

# The methods that choose the length of a step: 7-1-9, 7-1-10, and descent along the gradient.
SEARCHES: dict[str, Callable[..., optax.GradientTransformation]] = {
    "lbfgs": cs231n_optax.lbfgs,
    "bfgs": cs231n_optax.bfgs,
    "newton": cs231n_optax.newton,
    "newton-cg": cs231n_optax.newton_cg,
    "gd": partial(cs231n_optax.with_line_search, optax.identity()),
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

PROBLEMS: dict[str, Callable[..., landscapes.Landscape]] = {
    "rosenbrock": landscapes.rosenbrock,
    "taco-shell": landscapes.taco_shell,
    "beale": landscapes.beale,
    "himmelblau": landscapes.himmelblau,
    "saddle": landscapes.saddle,
    "logistic-regression": regressions.logistic_regression,
    "softmax-regression": regressions.softmax_regression,
}


class Decay(NamedTuple):
    """A decay of the learning rate.

    Attributes:
      schedule: makes the schedule, from the first learning rate and parameters by name.
      parameters: the default parameters for a given number of steps.
      about: what it does, for the help.
    """

    schedule: Callable[..., optax.Schedule]
    parameters: Callable[[int], dict[str, float]]
    about: str


def _constant(init_value: float) -> optax.Schedule:
    return lambda count: init_value


# 7-1-8 and 7-1-11. The three that only fall end at a tenth of α, or near it.
DECAYS = {
    "constant": Decay(_constant, lambda steps: {}, "α throughout"),
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
        "four half cosines from α to 0",
    ),
}


class Hyperparameter(NamedTuple):
    """A hyperparameter of methods or decays.

    Attributes:
      argument: its name in the signatures of their functions.
      owners: the names of the methods or decays that have it.
      about: what it is, for the help.
    """

    argument: str
    owners: tuple[str, ...]
    about: str


# In the order of the columns of a sweep.
HYPERPARAMETERS = {
    "learning_rate": Hyperparameter("learning_rate", tuple(METHODS), "rate α before any decay"),
    "rho": Hyperparameter("rho", ("momentum", "nesterov"), "friction ρ of the velocity"),
    "beta": Hyperparameter("decay", ("rmsprop",), "decay β of the mean square"),
    "b1": Hyperparameter("b1", ("adam-uncorrected", "adam"), "decay β₁ of the mean"),
    "b2": Hyperparameter("b2", ("adam-uncorrected", "adam"), "decay β₂ of the mean square"),
    "eps": Hyperparameter(
        "eps", ("adagrad", "rmsprop", "adam-uncorrected", "adam"), "constant ε added to the root"
    ),
    "decay_every": Hyperparameter("every", ("step",), "steps between two drops of α"),
    "decay_factor": Hyperparameter("factor", ("step",), "factor of α at a drop"),
    "decay_rate": Hyperparameter("rate", ("exponential", "inverse-time"), "decay k per step"),
    "cycle_length": Hyperparameter("cycle_length", ("cyclic-cosine",), "steps of a cycle"),
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
        ("saddle", *7 * (0.1,)),  # its usual start is stationary: no rate matters
        ("logistic-regression", 0.5, 1, 0.5, 0.5, 0.002, 0.2, 0.5),
        ("softmax-regression", 1, 1, 1, 1, 0.002, 0.2, 0.5),
    )
}

# Where `sweep` looks for a learning rate by default, and `race --tune` for that of each method.
LOWEST_RATE, HIGHEST_RATE = 1e-4, 10.0

# The test accuracy that "steps to accuracy" counts to.
ACCURACY_GOALS = {"digits": 0.95}
USUAL_ACCURACY_GOAL = 0.9

MEMORY_SIZE = 15  # of lbfgs
LARGEST_DIM = 1_000_000
# The largest dimension of the methods that keep N² numbers, and the method to take beyond it.
LARGEST_DENSE_DIM = {"bfgs": (5_000, "lbfgs"), "newton": (2_000, "newton-cg")}


def make_method(
    method: str,
    decay: str,
    learning_rate: Any,
    decay_parameters: Mapping[str, Any],
    /,
    **options: Any,
) -> optax.GradientTransformation:
    """Make a method with a decaying learning rate; the numbers may be traced."""
    schedule = DECAYS[decay].schedule(learning_rate, **decay_parameters)
    return METHODS[method](schedule, **options)


def make_swept_method(
    method: str, decay: str, hyperparameters: Mapping[str, Any]
) -> optax.GradientTransformation:
    """Make a method from hyperparameters named as in `HYPERPARAMETERS`; they may be traced."""
    options = arguments(method, hyperparameters)
    rate = options.pop("learning_rate")
    return make_method(method, decay, rate, arguments(decay, hyperparameters), **options)


def arguments(owner: str, hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a method or a decay, from hyperparameters by name."""
    return {
        argument: hyperparameters[name]
        for name, (argument, owners, _) in HYPERPARAMETERS.items()
        if owner in owners
    }


def default_hyperparameters(
    method: str, decay: str, *, steps: int, data: str, model: str
) -> dict[str, Any]:
    """Return the default of every hyperparameter that a method and a decay have."""
    signature = inspect.signature(METHODS[method]).parameters
    parameters = DECAYS[decay].parameters(steps)
    of_method = {
        name: signature[argument].default
        for name, (argument, owners, _) in HYPERPARAMETERS.items()
        if method in owners
    }
    of_decay = {
        name: parameters[argument]
        for name, (argument, owners, _) in HYPERPARAMETERS.items()
        if decay in owners
    }
    return of_method | of_decay | {"learning_rate": default_rates(data, model)[method]}


def default_rates(data: str, model: str) -> Mapping[str, float]:
    """Return the default learning rate of each method."""
    if data in DATASETS:
        return LEARNING_RATES[model, data]
    known = LEARNING_RATES[model, "mnist5k"]
    return {method: float(f"{rate / 3:.1g}") for method, rate in known.items()}


def load_task(data: str, model: str, batch_size: int) -> tuple[Task, TaskSetting]:
    """Load a data set, by name or from a path, and build a network for it.

    Raise InputError if the data can't be loaded, or do not suit the network or the batch size.
    """
    try:
        dataset = _load_dataset(data)
    except (ImportError, OSError, ValueError) as error:
        raise InputError(str(error)) from error
    except MemoryError as error:
        raise InputError(f"{data}: not enough memory for it: {error}") from error
    if batch_size > len(dataset.x_train):
        raise InputError(
            f"--batch-size {batch_size} is more than the {len(dataset.x_train)} training "
            f"examples of {dataset.name}"
        )
    try:
        network = MODELS[model](dataset.x_train.shape[1:], dataset.num_classes)
    except ValueError as error:
        raise InputError(f"--model {model} does not suit {dataset.name}: {error}") from error
    setting = TaskSetting(
        data=dataset.name,
        source=data,
        train_examples=len(dataset.x_train),
        test_examples=len(dataset.x_test),
        model=model,
        parameters=num_parameters(network),
    )
    return Task(dataset, network), setting


def check_memory(
    setting: TaskSetting, budget: Budget, *, runs: int = 1, records: int, request: str
) -> None:
    """Refuse what would have to hold more than 4 GiB at a time, before it begins.

    Counted are the least bytes of ``runs`` that train at a time, from every seed: parameters,
    gradient and two moments, three numbers per step, and the order of the examples.

    Args:
      setting: the task.
      budget: of each run.
      runs: the number of configurations that train at a time.
      records: the bytes that are kept of what has finished.
      request: the options that make it large, for the message.
    """
    numbers = 4 * setting.parameters + 3 * budget.steps + setting.train_examples
    try:
        _checks.fits_in_memory(
            f"{request}: a model of {setting.parameters} parameters takes arrays",
            runs * budget.seeds * 4 * numbers + records,
            "make one of them smaller",
        )
    except ValueError as error:
        raise InputError(str(error)) from error


def _load_dataset(data: str) -> datasets.Dataset:
    if data in DATASETS:
        return DATASETS[data]()
    try:
        data.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"--data {data!r}: its name is not UTF-8, and the results name it; rename it"
        ) from error
    path = Path(data)
    if not path.exists():
        raise InputError(f"no such data: {data} is not {', '.join(DATASETS)} or a path that exists")
    return datasets.load_cifar10(path) if path.is_dir() else datasets.load_npz(path)
