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

from cs231n_optax.experiments.catalog import DECAYS, MODELS
from cs231n_optax.experiments.sweep.experiment import Range


def count(text: Any, at_least: int = 1) -> int:
    """Convert to a whole number."""
    text = str(text)
    if not (text.isdecimal() and at_least <= int(text) < 2**31):
        raise typer.BadParameter(f"must be a whole number >= {at_least} and < 2^31, got {text!r}")
    return int(text)


def one_of(names: Collection[str]) -> Callable[[str], str]:
    """Return a converter that accepts these names only."""

    def choose(text: str) -> str:
        if text not in names:
            raise typer.BadParameter(f"invalid choice: {text!r} (choose from {', '.join(names)})")
        return text

    return choose


def learning_rate(text: Any) -> float:
    """Convert to a learning rate, a finite number > 0."""
    return _number(text, lambda x: 0 < x < math.inf, "α must be a finite number > 0")


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
    largest = float(np.finfo(np.float32).max)
    if len(values) not in ((2,) if log else (1, 2)) or not all(abs(x) <= largest for x in values):
        raise typer.BadParameter(f"must be X, A:B or A:B:log with numbers, got {text!r}")
    low, high = values[0], values[-1]
    if len(values) == 1:
        return low
    if not low < high:
        raise typer.BadParameter(f"A must be less than B in A:B, got {text!r}")
    if log and low <= 0:
        raise typer.BadParameter(f"A must be > 0 in A:B:log, got {text!r}")
    return Range(low, high, log)


def _number(text: Any, is_valid: Callable[[float], bool], wanted: str) -> float:
    number = _float(text)
    if not is_valid(number):
        raise typer.BadParameter(f"{wanted}, got {text!r}")
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
_OUT = "Folder of the results; older results there are replaced."

Data = Annotated[str, option(None, "DATA", _DATA)]
Model = Annotated[str, option(one_of(MODELS), "MODEL", _MODEL)]
Steps = Annotated[int, option(count, "N", "Number of updates.")]
BatchSize = Annotated[int, option(count, "N", "Images per update.")]
Seeds = Annotated[int, option(count, "N", "Number of starting points.")]
Decay = Annotated[str, option(one_of(DECAYS), "DECAY", f"Decay of the learning rate α: {_DECAYS}.")]
Out = Annotated[Path, option(None, "DIR", _OUT)]
Quiet = Annotated[bool, switch("--quiet", "Print nothing but errors.")]
