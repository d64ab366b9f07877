"""A race: several methods on one task, from the same first points and through the same batches.

A method trains from all its seeds at once, under one `jax.vmap`.
"""

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cs231n_optax.experiments import task as tasks
from cs231n_optax.experiments.task import Budget, Task, TaskSetting
from cs231n_optax.problems.networks import Network
from cs231n_optax.training.fit import FitHistory, FitState, fit

_FEWEST_CHUNKS, _MOST_CHUNKS = 20, 40
_FEWEST_EVALUATIONS = 10
BYTES_PER_STEP = 3 * 4  # of a `Track`: loss, learning rate and norm of the gradient

Progress = Callable[[int, float], None]
"""Called with the steps done so far and the mean loss of the last batches; NaN if all diverged."""


@dataclass(frozen=True)
class Tuning:
    """How the learning rates were chosen: in the same way for every method.

    Attributes:
      runs: runs of each method, each as long as the race.
      lowest: the lowest rate tried; the rates are evenly spaced on a log scale.
      highest: the highest rate tried.
      seed: the seed of these runs, which is none of the race's.
    """

    runs: int
    lowest: float
    highest: float
    seed: int


@dataclass(frozen=True)
class RateSearch:
    """How the learning rates were found by a range test, see `learning_rate_range_test`.

    Attributes:
      rates: rates that were tried of each method.
      lowest: the lowest of them.
      highest: the highest of them.
      seed: the seed of the test, which is none of the race's.
      evaluations: that it took of each method's budget.
    """

    rates: int
    lowest: float
    highest: float
    seed: int
    evaluations: int


@dataclass(frozen=True, kw_only=True)
class Setting(TaskSetting):
    """The configuration of a race with every default resolved, for the record.

    Attributes:
      budget: what every method may spend.
      learning_rates: α₀ of each method, in the order in which they start.
      decay: the name of the decay.
      decay_parameters: its arguments besides α₀.
      accuracy_goal: the test accuracy that the steps are counted to, a fraction.
      tuning: how the learning rates were chosen; None if they were given.
      search: the same, by a range test; its evaluations are not in the budget.
    """

    budget: Budget
    learning_rates: Mapping[str, float]
    decay: str
    decay_parameters: Mapping[str, float]
    accuracy_goal: float
    tuning: Tuning | None = None
    search: RateSearch | None = None


class Entrant(NamedTuple):
    """One method at the start.

    Attributes:
      name: its name in the results.
      style_index: the index of its style in the picture.
      learning_rate: α₀ of ``tx``, for the record.
      tx: the transformation.
    """

    name: str
    style_index: int
    learning_rate: float
    tx: optax.GradientTransformation


class Track(NamedTuple):
    """The record of one method; every entry after a seed has diverged is NaN.

    Attributes:
      entrant: the method.
      loss: float (seeds, steps), the batch's loss at each step, before its update.
      learning_rate: float (seeds, steps), the rate of that update.
      grad_norm: float (seeds, steps), the Euclidean norm of the batch's gradient.
      evaluated_at: int (evaluations,), the number of updates before each evaluation: 0 ... steps.
      train_loss: float (seeds, evaluations), the mean loss on the whole training set.
      test_accuracy: float (seeds, evaluations), the fraction of the test set classified right.
      diverged_at: int (seeds,), the step whose loss was not finite; -1 for a seed that finished.
      train_seconds: of all seeds together, without compiling and evaluating.
      compile_seconds: the time to trace and compile the training loop.
    """

    entrant: Entrant
    loss: np.ndarray
    learning_rate: np.ndarray
    grad_norm: np.ndarray
    evaluated_at: np.ndarray
    train_loss: np.ndarray
    test_accuracy: np.ndarray
    diverged_at: np.ndarray
    train_seconds: float
    compile_seconds: float

    @property
    def diverged(self) -> np.ndarray:
        """Whether each seed diverged: bool (seeds,)."""
        return self.diverged_at >= 0


class Spread(NamedTuple):
    """Mean and sample standard deviation over the seeds that finished; NaN where there is none."""

    mean: float
    std: float


class Summary(NamedTuple):
    """One method's row in the ranking.

    Attributes:
      track: its record.
      train_loss: at the end.
      test_accuracy: at the end.
      steps_to_accuracy: float (seeds,), the steps before the first evaluation that reached the
        accuracy goal; infinite where none did.
      steps_per_second: updates of all seeds together, during training.
    """

    track: Track
    train_loss: Spread
    test_accuracy: Spread
    steps_to_accuracy: np.ndarray
    steps_per_second: float


class Plan(NamedTuple):
    """The chunks of a training run.

    Attributes:
      chunks: the number of steps of each. A chunk is one call of a compiled program; between two
        the progress bar advances and Ctrl-C takes effect. The last may be smaller.
      evaluated_at: the numbers of steps after which there is an evaluation: 0, after some of the
        chunks, and after the last.
    """

    chunks: list[int]
    evaluated_at: list[int]


def plan(task: Task, budget: Budget) -> Plan:
    """Divide the steps into up to 40 chunks, and spend at most about as much on evaluation.

    Chunks have one length where the number of steps allows it, since every length is compiled
    separately. There are at least 10 evaluations, or one after each step if there are fewer steps.
    A step is taken to cost three times the evaluation of its batch.
    """
    counts = range(_MOST_CHUNKS, _FEWEST_CHUNKS - 1, -1)
    count = next((n for n in counts if budget.steps % n == 0), _MOST_CHUNKS)
    length = math.ceil(budget.steps / count)
    whole, rest = divmod(budget.steps, length)
    chunks = [length] * whole + [rest] * bool(rest)

    examples = len(task.dataset.x_train) + len(task.dataset.x_test)
    affordable = max(3 * budget.steps * budget.batch_size // examples, _FEWEST_EVALUATIONS)
    stride = max(1, len(chunks) // affordable)
    ends = list(itertools.accumulate(chunks))
    return Plan(chunks, [0, *reversed(ends[::-stride])])


def run(entrant: Entrant, task: Task, budget: Budget, progress: Progress) -> Track:
    """Train one method from every seed, with evaluations on the way.

    ``progress`` is called before the first step, with NaN, and after every chunk. A method that
    diverges has a record too.
    """
    train, test = task.train_and_test_sets()
    start, advance = _training(entrant.tx, task.network, budget.batch_size)
    chunks, evaluated_at = plan(task, budget)

    def evaluations_of(params: Any) -> np.ndarray:
        seeds = range(budget.seeds)
        return np.array([_evaluate(task.network, params, seed, train, test) for seed in seeds])

    progress(0, math.nan)
    points, batch_keys = _first_points(task.network, jnp.arange(budget.seeds))
    evaluations = [evaluations_of(points)]
    state = jax.jit(jax.vmap(start, in_axes=(0, 0, None)))(points, batch_keys, train)
    compile_began = time.perf_counter()
    programs = {length: _compile(advance, state, train, length) for length in set(chunks)}
    compile_seconds = time.perf_counter() - compile_began

    histories, train_seconds, done = [], 0.0, 0
    for length in chunks:
        chunk_began = time.perf_counter()
        state, params, history = jax.block_until_ready(programs[length](state, train))
        train_seconds += time.perf_counter() - chunk_began
        done += length
        histories.append(jax.device_get(history))
        if done in evaluated_at:
            evaluations.append(evaluations_of(params))
        progress(done, _mean_of_finite(histories[-1].loss))

    return _track(
        entrant,
        histories,
        evaluated_at=np.array(evaluated_at),
        evaluations=np.stack(evaluations, axis=1),
        nonfinite_step=np.asarray(state.nonfinite_step),
        train_seconds=train_seconds,
        compile_seconds=compile_seconds,
    )


def summarize(track: Track, accuracy_goal: float) -> Summary:
    """Condense the record of a method to its row in the ranking."""
    finished = ~track.diverged
    reached = track.test_accuracy >= accuracy_goal
    first = track.evaluated_at[reached.argmax(axis=1)]
    return Summary(
        track=track,
        train_loss=_spread(track.train_loss[finished, -1]),
        test_accuracy=_spread(track.test_accuracy[finished, -1]),
        steps_to_accuracy=np.where(reached.any(axis=1), first, np.inf),
        steps_per_second=track.loss.size / track.train_seconds,
    )


def rank(summaries: Sequence[Summary]) -> list[Summary]:
    """Sort by mean final train loss, the best first; methods that diverged from a seed are last."""

    def key(summary: Summary) -> tuple[int, float]:
        diverged = int(np.sum(summary.track.diverged))
        return diverged, float(np.nan_to_num(summary.train_loss.mean, nan=np.inf))

    return sorted(summaries, key=key)


@partial(jax.jit, static_argnames="network")
def _first_points(network: Network, seeds: jax.Array) -> tuple[Any, jax.Array]:
    return jax.vmap(partial(tasks.first_point, network))(seeds)


@partial(jax.jit, static_argnames="network")
def _evaluate(network: Network, params: Any, seed: int, train: Any, test: Any) -> jax.Array:
    """Evaluate the parameters of one seed."""
    return tasks.evaluate(network, jax.tree.map(lambda leaf: leaf[seed], params), train, test)


def _training(
    tx: optax.GradientTransformation, network: Network, batch_size: int
) -> tuple[Callable[..., FitState], Callable[..., tuple[FitState, Any, FitHistory]]]:
    """Return two functions of one seed: the first state, and the state some steps later."""
    loss = tasks.batch_loss(network)

    def start(params: Any, batch_key: jax.Array, train: Any) -> FitState:
        return fit(loss, params, tx, train, steps=0, batch_size=batch_size, key=batch_key).state

    def advance(state: FitState, train: Any, steps: int) -> tuple[FitState, Any, FitHistory]:
        params, state, history = fit(
            loss,
            state.params,
            tx,
            train,
            steps=steps,
            batch_size=batch_size,
            state=state,
            chunk_size=steps,
        )
        return state, params, history

    return start, advance


def _compile(advance: Callable[..., Any], states: FitState, train: Any, steps: int) -> Any:
    """Compile `advance` for all seeds at once, ahead of the training, which is timed."""
    over_seeds = jax.vmap(partial(advance, steps=steps), in_axes=(0, None))
    return jax.jit(over_seeds, donate_argnums=0).lower(states, train).compile()


def _track(
    entrant: Entrant,
    histories: list[FitHistory],
    *,
    evaluated_at: np.ndarray,
    evaluations: np.ndarray,
    nonfinite_step: np.ndarray,
    train_seconds: float,
    compile_seconds: float,
) -> Track:
    train_loss, test_accuracy = evaluations[..., 0], evaluations[..., 1]
    # Overflow in the last update shows only in the evaluation.
    overflowed = (nonfinite_step < 0) & ~np.isfinite(train_loss[:, -1])
    diverged_at = np.where(overflowed, evaluated_at[-1], nonfinite_step)
    over = (diverged_at[:, None] >= 0) & (evaluated_at >= diverged_at[:, None])
    history = jax.tree.map(lambda *parts: np.concatenate(parts, axis=1), *histories)
    return Track(
        entrant=entrant,
        loss=history.loss,
        learning_rate=history.learning_rate,
        grad_norm=history.grad_norm,
        evaluated_at=evaluated_at,
        train_loss=np.where(over, np.nan, train_loss),
        test_accuracy=np.where(over, np.nan, test_accuracy),
        diverged_at=diverged_at,
        train_seconds=train_seconds,
        compile_seconds=compile_seconds,
    )


def _spread(values: np.ndarray) -> Spread:
    mean = float(np.mean(values)) if values.size > 0 else math.nan
    std = float(np.std(values, ddof=1)) if values.size > 1 else math.nan
    return Spread(mean, std)


def _mean_of_finite(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(np.mean(finite)) if finite.size else math.nan
