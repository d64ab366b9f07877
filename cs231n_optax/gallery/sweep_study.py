"""A study of hyperparameters: one method, trained once for each of many values of them.

Every configuration starts from the same points and sees the same batches, those of the race. Here
is the computation only; `sweep_report` shows it and `cs231n_optax.cli` starts it.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cs231n_optax.gallery.race import (
    Budget,
    Problem,
    Tuning,
    batch_loss,
    evaluate,
    first_point,
)
from cs231n_optax.training.fit import fit
from cs231n_optax.training.sweep import SweepProgress, SweepResult, sweep

Make = Callable[[Mapping[str, Any]], optax.GradientTransformation]
"""From hyperparameters by name, numbers or traced, to a transformation."""

Progress = Callable[[SweepProgress], None]

_MOST_BLOCKS = 50


class Range(NamedTuple):
    """Where a hyperparameter is looked for, both ends included.

    Attributes:
      low: the smallest value.
      high: the largest.
      log: whether values are evenly spread on a log scale; else on a linear one.
    """

    low: float
    high: float
    log: bool


class Setting(NamedTuple):
    """The configuration of a study with every default resolved, for the record.

    Attributes:
      data: the name of the data set.
      source: where it came from: the same name, or a path.
      train_examples: how many train.
      test_examples: how many test.
      model: the name of the network.
      parameters: how many numbers it trains.
      method: the name of the method.
      decay: the name of the decay of its learning rate.
      budget: what each configuration may spend.
      ranges: of the hyperparameters that vary.
      fixed: the values of the others.
      search: evenly spaced values of one range; of several a grid, or a random search.
      num: configurations.
      seed: of the random search; None for the others, where nothing is random.
    """

    data: str
    source: str
    train_examples: int
    test_examples: int
    model: str
    parameters: int
    method: str
    decay: str
    budget: Budget
    ranges: Mapping[str, Range]
    fixed: Mapping[str, float]
    search: Literal["even", "grid", "random"]
    num: int
    seed: int | None


class Outcome(NamedTuple):
    """How a configuration did; in the result of a sweep every array has an axis of rows in front.

    Attributes:
      train_loss: the final one on the whole training set, the mean over the seeds; NaN if it
        diverged from any of them.
      test_accuracy: the final fraction of the test set that is right, likewise.
      diverged_at: int, the first step whose loss was not finite; -1 if there is none.
      curve: float (1 + blocks,), the loss of the first batch, and then the mean of the batches'
        losses in up to 50 blocks of the steps, the last of which may be shorter; not finite from
        where it diverged.
    """

    train_loss: Any
    test_accuracy: Any
    diverged_at: Any
    curve: Any


def configurations(setting: Setting) -> list[dict[str, float]]:
    """The values of the hyperparameters that vary, a row a configuration."""
    ranges = setting.ranges.values()
    columns = [
        _between(range_, shares) for range_, shares in zip(ranges, _shares(setting).T, strict=True)
    ]
    return [dict(zip(setting.ranges, row, strict=True)) for row in np.stack(columns, 1).tolist()]


def run(
    make: Make,
    problem: Problem,
    setting: Setting,
    *,
    path: Path | None = None,
    lane_batch: int | None = None,
    progress: Progress | None = None,
) -> SweepResult:
    """Train every configuration.

    Args:
      make: the method of a configuration's hyperparameters.
      problem: the network and the data.
      setting: the ranges, the search and the budget.
      path: the folder that finished batches are saved in, and found in.
      lane_batch: ``batch_size`` of `cs231n_optax.sweep`: configurations on a device at once.
      progress: called with what has finished, before the first batch and after each.

    Returns:
      A result whose outputs are an `Outcome`.
    """
    trial = _trial(make, problem, setting.budget, range(setting.budget.seeds))
    rows = configurations(setting)
    return sweep(trial, rows, batch_size=lane_batch, path=path, callback=progress)


def tune(
    make: Make, problem: Problem, budget: Budget, tuning: Tuning, progress: Progress | None = None
) -> float:
    """Find the learning rate of one method that ends with the lowest train loss.

    Args:
      make: the method of its learning rate.
      problem: the network and the data.
      budget: of the race.
      tuning: how many rates, from where to where, from which seed.
      progress: called with what has finished, before the first batch and after each.

    Returns:
      The rate; the lowest one if all diverged.
    """
    rates = _between(Range(tuning.lowest, tuning.highest, log=True), np.linspace(0, 1, tuning.runs))
    trial = _trial(make, problem, budget, [tuning.seed])
    result = sweep(trial, {"learning_rate": rates}, callback=progress)
    return float(rates[np.nan_to_num(result.outputs.train_loss, nan=np.inf).argmin()])


def rank(result: SweepResult) -> list[int]:
    """The rows that did not diverge, the lowest final train loss first."""
    losses = result.outputs.train_loss
    return [int(row) for row in np.argsort(losses, kind="stable") if np.isfinite(losses[row])]


def at_the_end(value: float, low: float, high: float) -> bool:
    """Whether a value is an end of where it was looked for, so that a better one may lie beyond."""
    return any(math.isclose(value, end, rel_tol=1e-6) for end in (low, high))


def side(num: int, dimensions: int) -> int:
    """The largest number of values of each hyperparameter whose grid has no more than ``num``."""
    values = round(num ** (1 / dimensions))
    return values if values**dimensions <= num else values - 1


def block_length(steps: int) -> int:
    """How many steps a value of `Outcome.curve` is the mean of, but for its first."""
    return math.ceil(steps / _MOST_BLOCKS)


def _shares(setting: Setting) -> np.ndarray:
    """Points (num, ranges) of the unit cube.

    The random ones are Sobol's, scrambled: of each range they cover every part alike, as a grid of
    as many values would, and no two of them share a value.
    """
    dimensions = len(setting.ranges)
    if setting.search == "random":
        from scipy.stats import qmc  # it takes a second, and only this needs it

        points = qmc.Sobol(dimensions, rng=setting.seed)
        return points.random_base2((setting.num - 1).bit_length())[: setting.num]
    axes = np.meshgrid(
        *dimensions * (np.linspace(0, 1, side(setting.num, dimensions)),), indexing="ij"
    )
    return np.stack([axis.reshape(-1) for axis in axes], axis=1)


def _between(range_: Range, shares: np.ndarray) -> np.ndarray:
    low, high, log = range_
    values = low * (high / low) ** shares if log else low + (high - low) * shares
    return np.clip(values, low, high)


def _trial(
    make: Make, problem: Problem, budget: Budget, seeds: Iterable[int]
) -> Callable[[dict[str, jax.Array]], Outcome]:
    """What `sweep` runs: the hyperparameters of a configuration to its outcome."""
    network, data = problem.network, problem.dataset
    train = (jnp.asarray(data.x_train), jnp.asarray(data.y_train))
    test = (jnp.asarray(data.x_test), jnp.asarray(data.y_test))
    starts = jnp.array(list(seeds))
    steps, length = budget.steps, block_length(budget.steps)

    def trial(hparams: dict[str, jax.Array]) -> Outcome:
        tx = make(hparams)

        def from_seed(seed: jax.Array) -> Outcome:
            params, batch_key = first_point(network, seed)
            result = fit(
                batch_loss(network),
                params,
                tx,
                train,
                steps=steps,
                batch_size=budget.batch_size,
                key=batch_key,
            )
            train_loss, test_accuracy = evaluate(network, result.params, train, test)
            nonfinite_step = result.state.nonfinite_step
            # A run may overflow with its last update, which only the evaluation sees.
            overflowed = (nonfinite_step < 0) & ~jnp.isfinite(train_loss)
            losses = result.history.loss
            blocks = jnp.pad(losses, (0, -steps % length), constant_values=jnp.nan)
            means = jnp.nanmean(blocks.reshape(-1, length), axis=1)
            return Outcome(
                train_loss=train_loss,
                test_accuracy=test_accuracy,
                diverged_at=jnp.where(overflowed, steps, nonfinite_step),
                curve=jnp.append(losses[0], means),
            )

        train_loss, test_accuracy, diverged_at, curve = jax.vmap(from_seed)(starts)
        diverged = jnp.any(diverged_at >= 0)
        first = jnp.min(jnp.where(diverged_at < 0, steps, diverged_at))
        return Outcome(
            train_loss=jnp.where(diverged, jnp.nan, jnp.mean(train_loss)),
            test_accuracy=jnp.where(diverged, jnp.nan, jnp.mean(test_accuracy)),
            diverged_at=jnp.where(diverged, first, -1),
            curve=jnp.mean(curve, axis=0),
        )

    return trial
