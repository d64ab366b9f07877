"""Options that several commands share, and the converters from text to values.

A converter also gets the default of its option, which is converted already.
"""

import contextlib
import math
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import typer

from cs231n_optax.experiments.catalog import DECAYS, METHODS, MODELS, SEARCHES
from cs231n_optax.experiments.sweep.experiment import Range

# The range of float32, in which networks are trained; JAX rounds smaller numbers to zero.
_SMALLEST, _LARGEST = (float(x) for x in (np.finfo(np.float32).tiny, np.finfo(np.float32).max))
_MOST_DIGITS, _MOST_SHOWN = 10, 40


def count(text: Any, at_least: int = 1) -> int:
    """Convert to a whole number."""
    text = str(text)
    short = text.isdecimal() and len(text) <= _MOST_DIGITS
    if not (short and at_least <= int(text) < 2**31):
        raise typer.BadParameter(
            f"must be a whole number >= {at_least} and < 2^31, got {text[:_MOST_SHOWN]!r}"
        )
    return int(text)


def one_of(names: Collection[str]) -> Callable[[str], str]:
    """Return a converter that accepts these names only, also with _ for -, as in Python."""

    def choose(text: str) -> str:
        name = _with_dashes(text)
        if name not in names:
            raise typer.BadParameter(f"invalid choice: {text!r} (choose from {', '.join(names)})")
        return name

    return choose


def minibatch_method(text: str) -> str:
    """Convert to a method that can train on mini-batches."""
    name = _with_dashes(text)
    if name in SEARCHES:
        raise typer.BadParameter(
            f"{name} needs the same data for every trial of a step, but here each step has another "
            f"mini-batch; instead: cs231n-optax solve softmax-regression --method {name}"
        )
    return one_of(METHODS)(name)


def _with_dashes(name: str) -> str:
    return name.strip().replace("_", "-")


def learning_rate(text: Any) -> float:
    """Convert to a learning rate, a number > 0 in the range of float32."""
    return _number(
        text, lambda x: _SMALLEST <= x <= _LARGEST, "α must be a finite number > 0 in float32"
    )


def nonnegative(text: Any) -> float:
    """Convert to a finite number >= 0."""
    return _number(text, lambda x: 0 <= x < math.inf, "must be a finite number >= 0")


def fraction(text: Any) -> float:
    """Convert to a number in (0, 1]."""
    return _number(text, lambda x: 0 < x <= 1, "must be a number in (0, 1]")


def point(text: str) -> tuple[float, ...]:
    """Convert ``X,Y,...`` to finite numbers."""
    coordinates = tuple(map(_float, text.split(",")))
    if not all(map(math.isfinite, coordinates)):
        raise typer.BadParameter(f"must be finite numbers X,Y,..., got {text!r}")
    return coordinates


def value_or_range(text: str) -> float | Range:
    """Convert ``X`` to a number, and ``A:B`` or ``A:B:log`` to a range."""
    log = text.endswith(":log")
    values = [_float(part) for part in text.removesuffix(":log").split(":")]
    if len(values) not in ((2,) if log else (1, 2)) or not all(abs(x) <= _LARGEST for x in values):
        raise typer.BadParameter(f"must be X, A:B or A:B:log with numbers, got {text!r}")
    low, high = values[0], values[-1]
    if len(values) == 1:
        return low
    if not low < high:
        raise typer.BadParameter(f"A must be less than B in A:B, got {text!r}")
    if log and low < _SMALLEST:
        raise typer.BadParameter(f"A must be > 0 in float32 in A:B:log, got {text!r}")
    return Range(low, high, log)


def _number(text: Any, is_valid: Callable[[float], bool], wanted: str) -> float:
    number = _float(text)
    if not is_valid(number):
        raise typer.BadParameter(f"{wanted}, got {str(text)[:_MOST_SHOWN]!r}")
    return number


def _float(text: Any) -> float:
    """Convert to a number; what is none becomes NaN, which lies in no range."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def flag(name: str) -> str:
    """Return the option of a parameter of a command."""
    return f"--{name.replace('_', '-')}"


def use_every_core() -> None:
    """Make a JAX device of each CPU core, unless JAX has started or their number is set."""
    if jax.config.values["jax_num_cpu_devices"] < 0:
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", os.cpu_count())


def option(parser: Callable[[Any], Any] | None, metavar: str, help: str) -> Any:
    """Return an option with a converter; None leaves the conversion to Typer."""
    return typer.Option(parser=parser, metavar=metavar, help=help)


def switch(name: str, help: str) -> Any:
    """Return an option without a value."""
    return typer.Option(name, metavar="", help=help)


_DECAYS = "; ".join(f"{name} ({decay.about})" for name, decay in DECAYS.items())
_DATA = (
    "The images: digits (1,797 of 8×8 pixels), mnist5k (5,000 of 28×28, for which the mnist extra "
    "is needed), or the path of your own: a .npz file with x_train, y_train, x_test and y_test, or "
    "a folder of CIFAR-10's binary batches."
)
_MODEL = (
    "softmax (softmax regression), mlp (a perceptron with one hidden layer of 64), or cnn (a small "
    "convolutional network, for images only)."
)
_OUT = "Folder of the results; older results of this command there are replaced."
_SWEEP_OUT = (
    "Folder of the results. A sweep with the same options goes on from what is there; another one "
    "is refused, so that no finished configuration is lost: give it another folder."
)

Data = Annotated[str, option(None, "DATA", _DATA)]
Model = Annotated[str, option(one_of(MODELS), "MODEL", _MODEL)]
Steps = Annotated[int, option(count, "N", "Number of updates.")]
BatchSize = Annotated[int, option(count, "N", "Images per update.")]
Seeds = Annotated[int, option(count, "N", "Number of starting points.")]
Decay = Annotated[str, option(one_of(DECAYS), "DECAY", f"Decay of the learning rate α: {_DECAYS}.")]
Out = Annotated[Path, option(None, "DIR", _OUT)]
SweepOut = Annotated[Path, option(None, "DIR", _SWEEP_OUT)]
Quiet = Annotated[bool, switch("--quiet", "Print nothing but errors.")]
