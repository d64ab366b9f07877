"""A sweep: one method, trained once for each of many values of its hyperparameters.

Every configuration starts from the same points and sees the same batches, those of a race.
"""

import math
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cs231n_optax.experiments import task as tasks
from cs231n_optax.experiments.race.experiment import Tuning
from cs231n_optax.experiments.task import Budget, Task, TaskSetting
from cs231n_optax.training.fit import fit
from cs231n_optax.training.sweep import SweepProgress, SweepResult, sweep

Make = Callable[[Mapping[str, Any]], optax.GradientTransformation]
"""From hyperparameters by name, numbers or traced, to a transformation."""

Progress = Callable[[SweepProgress], None]

_MOST_BLOCKS = 50


@dataclass(frozen=True)
class Range:
    """The values that a hyperparameter may take, both ends included.

    Attributes:
      low: the smallest value.
      high: the largest value.
      log: whether values are evenly spaced on a log scale; otherwise on a linear one.
    """

    low: float
    high: float
    log: bool


@dataclass(frozen=True, kw_only=True)
class Setting(TaskSetting):
    """The configuration of a sweep with every default resolved, for the record.

    Attributes:
      method: the name of the method.
      decay: the name of the decay of its learning rate.
      budget: what each run may spend.
      ranges: of the hyperparameters that vary.
      fixed: the values of the others.
      search: evenly spaced values of one range, or a grid or a random search of several.
      num: number of runs.
      seed: of the random search; None for the others, which use no random numbers.
    """

    method: str
    decay: str
    budget: Budget
    ranges: Mapping[str, Range]
    fixed: Mapping[str, float]
    search: Literal["even", "grid", "random"]
    num: int
    seed: int | None


class Outcome(NamedTuple):
    """The result of one configuration; in a `SweepResult` the arrays have a leading axis of rows.

    Attributes:
      train_loss: the final loss on the whole training set, the mean over the seeds; NaN if it
        diverged from any of them.
      test_accuracy: the final fraction of the test set classified right, likewise.
      diverged_at: int, the first step whose loss was not finite; -1 if there is none.
      curve: float (1 + blocks,), the loss of the first batch, and then the mean loss of the
        batches in up to 50 blocks of steps, the last of which may be shorter; not finite from
        where it diverged.
    """

    train_loss: Any
    test_accuracy: Any
    diverged_at: Any
    curve: Any


def configurations(setting: Setting) -> list[dict[str, float]]:
    """Return the values of the hyperparameters that vary, one row per configuration."""
    ranges, points = setting.ranges.values(), _unit_points(setting).T
    columns = [_between(*pair) for pair in zip(ranges, points, strict=True)]
    return [dict(zip(setting.ranges, row, strict=True)) for row in np.stack(columns, 1).tolist()]


def run(
    make: Make,
    task: Task,
    setting: Setting,
    *,
    path: Path | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> SweepResult:
    """Train every configuration; ``outputs`` of the result is an `Outcome`.

    The last three arguments are those of `cs231n_optax.sweep`: the folder where finished
    configurations are saved and found, the number of configurations per device at a time, and the
    callback, called before the first batch of configurations and after each.
    """
    run_one = _runner(make, task, setting.budget, range(setting.budget.seeds))
    rows = configurations(setting)
    return sweep(run_one, rows, batch_size=batch_size, path=path, callback=progress)


def tune(
    make: Make, task: Task, budget: Budget, tuning: Tuning, progress: Progress | None = None
) -> float:
    """Return the learning rate that ends with the lowest train loss; the lowest if all diverge."""
    rates = _between(Range(tuning.lowest, tuning.highest, log=True), np.linspace(0, 1, tuning.runs))
    run_one = _runner(make, task, budget, [tuning.seed])
    result = sweep(run_one, {"learning_rate": rates}, callback=progress)
    return float(rates[np.nan_to_num(result.outputs.train_loss, nan=np.inf).argmin()])


def rank(result: SweepResult) -> list[int]:
    """Return the rows that did not diverge, the lowest final train loss first."""
    losses = result.outputs.train_loss
    return [int(row) for row in np.argsort(losses, kind="stable") if np.isfinite(losses[row])]


def is_end_of_range(value: float, low: float, high: float) -> bool:
    """Return whether a value is an end of its range, so that a better one may lie beyond."""
    return any(math.isclose(value, end, rel_tol=1e-6) for end in (low, high))


def grid_side(num: int, dimensions: int) -> int:
    """Return the largest number of values per dimension of a grid of at most ``num`` points."""
    values = round(num ** (1 / dimensions))
    return values if values**dimensions <= num else values - 1


def block_length(steps: int) -> int:
    """Return the number of steps per block of `Outcome.curve`."""
    return math.ceil(steps / _MOST_BLOCKS)


def bytes_per_row(steps: int, num_ranges: int) -> int:
    """Return the memory that the hyperparameters and the `Outcome` of one configuration take."""
    curve = 1 + math.ceil(steps / block_length(steps))
    return sys.getsizeof(dict.fromkeys(range(num_ranges))) + 32 * num_ranges + 4 * (3 + curve)


def _unit_points(setting: Setting) -> np.ndarray:
    """Return points (num, ranges) of the unit cube.

    The random ones are a scrambled Sobol sequence: no two share a coordinate, and in every
    dimension they are spread as evenly as a grid of as many values.
    """
    dimensions = len(setting.ranges)
    if setting.search == "random":
        from scipy.stats import qmc  # its import takes a second

        points = qmc.Sobol(dimensions, rng=setting.seed)
        return points.random_base2((setting.num - 1).bit_length())[: setting.num]
    side = np.linspace(0, 1, grid_side(setting.num, dimensions))
    axes = np.meshgrid(*dimensions * (side,), indexing="ij")
    return np.stack([axis.reshape(-1) for axis in axes], axis=1)


def _between(range_: Range, points: np.ndarray) -> np.ndarray:
    """Map points of [0, 1] into a range."""
    low, high = range_.low, range_.high
    values = low * (high / low) ** points if range_.log else low + (high - low) * points
    return np.clip(values, low, high)


def _runner(
    make: Make, task: Task, budget: Budget, seeds: Iterable[int]
) -> Callable[[dict[str, jax.Array]], Outcome]:
    """Return the function that `sweep` maps over the configurations."""
    train, test = task.train_and_test_sets()
    starts = jnp.array(list(seeds))

    def run_from_seed(tx: optax.GradientTransformation, seed: jax.Array) -> Outcome:
        params, batch_key = tasks.first_point(task.network, seed)
        result = fit(
            tasks.batch_loss(task.network),
            params,
            tx,
            train,
            steps=budget.steps,
            batch_size=budget.batch_size,
            key=batch_key,
        )
        train_loss, test_accuracy = tasks.evaluate(task.network, result.params, train, test)
        nonfinite_step = result.state.nonfinite_step
        # Overflow in the last update shows only in the evaluation.
        overflowed = (nonfinite_step < 0) & ~jnp.isfinite(train_loss)
        return Outcome(
            train_loss=train_loss,
            test_accuracy=test_accuracy,
            diverged_at=jnp.where(overflowed, budget.steps, nonfinite_step),
            curve=_block_means(result.history.loss),
        )

    def run_one(hparams: dict[str, jax.Array]) -> Outcome:
        tx = make(hparams)
        outcomes = jax.vmap(lambda seed: run_from_seed(tx, seed))(starts)
        diverged = outcomes.diverged_at >= 0
        first = jnp.min(jnp.where(diverged, outcomes.diverged_at, budget.steps))
        any_diverged = jnp.any(diverged)
        return Outcome(
            train_loss=jnp.where(any_diverged, jnp.nan, jnp.mean(outcomes.train_loss)),
            test_accuracy=jnp.where(any_diverged, jnp.nan, jnp.mean(outcomes.test_accuracy)),
            diverged_at=jnp.where(any_diverged, first, -1),
            curve=jnp.mean(outcomes.curve, axis=0),
        )

    return run_one


def _block_means(losses: jax.Array) -> jax.Array:
    """Return the first loss, and the mean of each block of losses."""
    length = block_length(len(losses))
    blocks = jnp.pad(losses, (0, -len(losses) % length), constant_values=jnp.nan)
    return jnp.append(losses[0], jnp.nanmean(blocks.reshape(-1, length), axis=1))
