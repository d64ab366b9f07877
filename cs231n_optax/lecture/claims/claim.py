"""A claim of the lecture: what is claimed, the experiment, and the rule that decides.

An experiment returns samples, one row per repeat. A rule derives the verdict from their means and
standard errors alone. It asks whether a number is *clearly* above or below a bound, which is by
`SIGMAS` standard errors, so that chance seldom decides.
"""

import enum
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

SIGMAS = 3

Numbers = Mapping[str, np.ndarray]
"""What an experiment returns, by name; NaN stands for a run that diverged or never got there."""


class Answer(enum.StrEnum):
    """What the numbers say about a claim."""

    HOLDS = "holds"
    HOLDS_WHEN = "holds when"
    FAILS = "does not hold here"


class Verdict(NamedTuple):
    """An answer; ``condition`` says when a claim holds, or why it does not."""

    answer: Answer
    condition: str = ""

    def __str__(self) -> str:
        if not self.condition:
            return self.answer.value
        comma = ":" if self.answer is Answer.FAILS else ""
        return f"{self.answer.value}{comma} {self.condition}"


class Claim(NamedTuple):
    """One claim of the lecture, as data.

    Attributes:
      name: of the files and on the command line.
      section: of the lecture, such as "7-1-2 A".
      statement: the claim in our words.
      experiment: maps ``quick`` to the numbers. Its docstring describes it in the report.
      verdict: the rule. Its docstring states it in the report.
      figure: the numbers in one line, with standard errors.
      draw: the numbers as a picture.
    """

    name: str
    section: str
    statement: str
    experiment: Callable[[bool], Mapping[str, Any]]
    verdict: Callable[[Numbers], Verdict]
    figure: Callable[[Numbers], str]
    draw: Callable[[Numbers], Figure]


@dataclass(frozen=True)
class Estimate:
    """A mean and its standard error, numbers or arrays of them."""

    value: Any
    error: Any

    def __getitem__(self, index: Any) -> "Estimate":
        return Estimate(self.value[index], self.error[index])

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self.value)))

    def __str__(self) -> str:
        """The value to the second digit of its error."""
        if not (np.isfinite(self.value) and np.isfinite(self.error)):
            return "not finite"
        if self.error < 1e-6 * abs(self.value):
            return f"{self.value:.4g}"
        magnitude = max(abs(self.value), self.error)
        if magnitude == 0:
            return "0"
        if not 1e-3 <= magnitude < 1e5:
            power = math.floor(math.log10(magnitude))
            return f"({Estimate(self.value / 10**power, self.error / 10**power)}) · 10^{power}"
        digits = max(0, 1 - math.floor(math.log10(self.error)))
        return f"{self.value:.{digits}f} ± {self.error:.{digits}f}"


def mean(samples: Any) -> Estimate:
    """The mean over the repeats, along the first axis, and its standard error."""
    samples = np.asarray(samples, float)
    error = samples.std(axis=0, ddof=1) / math.sqrt(len(samples))
    return Estimate(samples.mean(axis=0), error)


def ratio(x: Any, y: Any) -> Estimate:
    """mean(x) / mean(y) of paired samples, with the standard error of the jackknife."""
    x, y = np.asarray(x, float), np.asarray(y, float)
    n = len(x)
    left_out = (x.sum(axis=0) - x) / (y.sum(axis=0) - y)
    error = (n - 1) / math.sqrt(n) * left_out.std(axis=0, ddof=1)
    return Estimate(x.mean(axis=0) / y.mean(axis=0), error)


def slope(x: Any, y: Any) -> Estimate:
    """The exponent p of y ∝ x^p: a log-log fit for each repeat, and their mean.

    Args:
      x: (points,).
      y: (repeats, points).
    """
    return mean(np.polyfit(np.log(np.asarray(x, float)), np.log(np.asarray(y, float)).T, 1)[0])


def is_above(estimate: Estimate, bound: Any) -> Any:
    """Whether a number is clearly above a bound."""
    return estimate.value - SIGMAS * estimate.error > bound


def is_below(estimate: Estimate, bound: Any) -> Any:
    """Whether a number is clearly below a bound."""
    return estimate.value + SIGMAS * estimate.error < bound


def is_within(estimate: Estimate, target: Any, tolerance: Any) -> Any:
    """Whether a number, with its uncertainty, is no farther from a target than ``tolerance``."""
    return np.abs(estimate.value - target) + SIGMAS * estimate.error <= tolerance


def by_case(cases: Iterable[str], holds: Iterable[Any]) -> Verdict:
    """A claim that was tried in several cases holds in all, in none, or when one of some."""
    cases, holds = list(cases), [bool(each) for each in holds]
    if all(holds):
        return Verdict(Answer.HOLDS)
    if not any(holds):
        return Verdict(Answer.FAILS)
    met = [case for case, each in zip(cases, holds, strict=True) if each]
    return Verdict(Answer.HOLDS_WHEN, ", or ".join(met))


def by_value(name: str, values: Any, holds: Iterable[Any]) -> Verdict:
    """The same for the ascending values of one quantity: an upper or a lower bound if it is one."""
    holds = [bool(each) for each in holds]
    met = [f"{value:g}" for value, each in zip(values, holds, strict=True) if each]
    count, tried = len(met), f" (tried: {', '.join(f'{value:g}' for value in values)})"
    if len(set(holds)) == 1:
        return by_case(met, holds)
    if all(holds[:count]):
        return Verdict(Answer.HOLDS_WHEN, f"{name} <= {met[-1]}{tried}")
    if all(holds[-count:]):
        return Verdict(Answer.HOLDS_WHEN, f"{name} >= {met[0]}{tried}")
    return Verdict(Answer.HOLDS_WHEN, f"{name} = {', '.join(met)}{tried}")
