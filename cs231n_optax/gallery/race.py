"""The race: several methods on one problem, from the same points and through the same batches.

Seed i decides a first point and an order of the batches, the same for every method. A method
trains from all its seeds at once, under one `jax.vmap`. Here is the computation only;
`race_report` shows it and `cs231n_optax.cli` starts it.
"""

import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cs231n_optax.problems.datasets import Dataset
from cs231n_optax.problems.networks import Network, accuracy, cross_entropy
from cs231n_optax.training.fit import FitHistory, FitState, fit

_EVALUATION_BLOCK = 512
_FEWEST_CHUNKS, _MOST_CHUNKS = 20, 40
_FEWEST_EVALUATIONS = 10

Progress = Callable[[int, float], None]
"""Called with the steps done so far and the mean loss of the last batches; NaN if all diverged."""


class Problem(NamedTuple):
    """What is trained: a network, on a data set."""

    dataset: Dataset
    network: Network


class Budget(NamedTuple):
    """What every method may spend.

    Attributes:
      steps: updates from each seed.
      batch_size: examples an update.
      seeds: how many starts, seeds 0 ... seeds - 1.
    """

    steps: int
    batch_size: int
    seeds: int


class Tuning(NamedTuple):
    """How the learning rates were chosen: the same for every method, so that the race is fair.

    Attributes:
      runs: of each method, each as long as the race.
      lowest: of the rates that were tried, evenly spaced on a log scale.
      highest: likewise.
      seed: where they started; it does not race.
    """

    runs: int
    lowest: float
    highest: float
    seed: int


class Setting(NamedTuple):
    """The configuration of a race with every default resolved, for the record.

    Attributes:
      data: the name of the data set.
      source: where it came from: the same name, or a path.
      train_examples: how many train.
      test_examples: how many test.
      model: the name of the network.
      parameters: how many numbers it trains.
      budget: see `Budget`.
      learning_rates: α₀ of each method, in the order in which they start.
      decay: the name of the decay.
      decay_parameters: its arguments besides α₀.
      accuracy_goal: the stated test accuracy, a fraction.
      tuning: how the learning rates were chosen; None if they were given.
    """

    data: str
    source: str
    train_examples: int
    test_examples: int
    model: str
    parameters: int
    budget: Budget
    learning_rates: Mapping[str, float]
    decay: str
    decay_parameters: Mapping[str, float]
    accuracy_goal: float
    tuning: Tuning | None = None


class Entrant(NamedTuple):
    """One method at the start.

    Attributes:
      name: what it is called in the results.
      lane: a small number of its own, which decides how it is drawn.
      learning_rate: α₀, which ``tx`` has been built with, scheduled, so that it is recorded.
      tx: the method.
    """

    name: str
    lane: int
    learning_rate: float
    tx: optax.GradientTransformation


class Track(NamedTuple):
    """What one method did. NaN stands for everything after a seed has diverged.

    Attributes:
      entrant: the method.
      loss: float (seeds, steps), the batch's loss at each step, before its update.
      learning_rate: float (seeds, steps), the rate of that update.
      grad_norm: float (seeds, steps), the Euclidean norm of the batch's gradient.
      evaluated_at: int (evaluations,), the number of updates before each evaluation: 0 ... steps.
      train_loss: float (seeds, evaluations), the mean loss on the whole training set.
      test_accuracy: float (seeds, evaluations), the fraction of the test set that is right.
      diverged_at: int (seeds,), the step whose loss was not finite; -1 for a seed that finished.
      train_seconds: for all seeds together, neither compiling nor evaluating.
      compile_seconds: to trace and compile the training loop.
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
      track: what it did.
      train_loss: the final one.
      test_accuracy: the final one.
      steps_to_accuracy: float (seeds,), the steps before the first evaluation that reached the
        stated accuracy; infinite where none did.
      steps_per_second: updates of all seeds together, while training.
    """

    track: Track
    train_loss: Spread
    test_accuracy: Spread
    steps_to_accuracy: np.ndarray
    steps_per_second: float


class Plan(NamedTuple):
    """How the steps are cut.

    Attributes:
      chunks: numbers of steps; each is one call of a compiled program, so that a progress bar
        moves and Ctrl-C is heard between two. The last may be smaller.
      evaluated: after how many steps there is an evaluation: at 0, after some of the chunks, and
        after the last.
    """

    chunks: list[int]
    evaluated: list[int]


def plan(problem: Problem, budget: Budget) -> Plan:
    """Cut the steps into up to 40 chunks, and evaluate as often as training makes worth while.

    Chunks are of one length where the steps allow it: another length is another program to
    compile. There are at least 10 evaluations, or one a step, and after every chunk if that costs
    about what the training does: a step costs three times the evaluation of its batch.
    """
    counts = range(_MOST_CHUNKS, _FEWEST_CHUNKS - 1, -1)
    count = next((n for n in counts if budget.steps % n == 0), _MOST_CHUNKS)
    length = math.ceil(budget.steps / count)
    whole, rest = divmod(budget.steps, length)
    chunks = [length] * whole + [rest] * bool(rest)

    examples = len(problem.dataset.x_train) + len(problem.dataset.x_test)
    affordable = max(3 * budget.steps * budget.batch_size // examples, _FEWEST_EVALUATIONS)
    stride = max(1, len(chunks) // affordable)
    ends = list(itertools.accumulate(chunks))
    return Plan(chunks, [0, *reversed(ends[::-stride])])


def run(entrant: Entrant, problem: Problem, budget: Budget, progress: Progress) -> Track:
    """Train one method from every seed, and evaluate it as it goes.

    Args:
      entrant: the method.
      problem: the network and the data.
      budget: the steps, the batch size and the seeds.
      progress: called before the first step, with NaN, and after every chunk.

    Returns:
      The `Track`. A method that diverges has one too.
    """
    data = problem.dataset
    train = (jnp.asarray(data.x_train), jnp.asarray(data.y_train))
    test = (jnp.asarray(data.x_test), jnp.asarray(data.y_test))
    start, advance = _training(entrant.tx, problem.network, budget.batch_size)
    chunks, evaluated = plan(problem, budget)

    def evaluations_of(params: Any) -> np.ndarray:
        seeds = range(budget.seeds)
        return np.array([_evaluate(problem.network, params, seed, train, test) for seed in seeds])

    progress(0, math.nan)
    points, batch_keys = _first_points(problem.network, jnp.arange(budget.seeds))
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
        if done in evaluated:
            evaluations.append(evaluations_of(params))
        progress(done, _mean_of_finite(histories[-1].loss))

    return _track(
        entrant,
        histories,
        evaluated_at=np.array(evaluated),
        evaluations=np.stack(evaluations, axis=1),
        nonfinite_step=np.asarray(state.nonfinite_step),
        train_seconds=train_seconds,
        compile_seconds=compile_seconds,
    )


def summarize(track: Track, accuracy_goal: float) -> Summary:
    """Condense a track to its row in the table.

    Args:
      track: what the method did.
      accuracy_goal: the stated test accuracy, a fraction.
    """
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
    """The best first, by mean final train loss; any that diverged, from few seeds or many, last."""

    def key(summary: Summary) -> tuple[int, float]:
        diverged = int(np.sum(summary.track.diverged))
        return diverged, float(np.nan_to_num(summary.train_loss.mean, nan=np.inf))

    return sorted(summaries, key=key)


def num_parameters(network: Network) -> int:
    """How many numbers a network trains."""
    params = jax.eval_shape(network.init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def first_point(network: Network, seed: jax.typing.ArrayLike) -> tuple[Any, jax.Array]:
    """The first parameters and the key of the batches of a seed: no method has a say in them."""
    init_key, batch_key = jax.random.split(jax.random.key(seed))
    return network.init(init_key), batch_key


def batch_loss(network: Network) -> Callable[[Any, Any], jax.Array]:
    """What is minimised, ``loss(params, (x, y))``."""

    def loss(params: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        x, y = batch
        return cross_entropy(network.apply(params, x), y)

    return loss


def evaluate(network: Network, params: Any, train: Any, test: Any) -> jax.Array:
    """Train loss and test accuracy (2,), in blocks, so that memory is bounded."""

    def mean(metric: Callable[..., jax.Array], data: tuple[jax.Array, jax.Array]) -> jax.Array:
        x, y = data

        def of_one(i: jax.Array) -> jax.Array:
            return metric(network.apply(params, x[i][None]), y[i][None])

        indices = jnp.arange(len(x))  # map these: of the examples themselves it would make a copy
        return jnp.mean(jax.lax.map(of_one, indices, batch_size=_EVALUATION_BLOCK))

    return jnp.stack([mean(cross_entropy, train), mean(accuracy, test)])


@partial(jax.jit, static_argnames="network")
def _first_points(network: Network, seeds: jax.Array) -> tuple[Any, jax.Array]:
    return jax.vmap(partial(first_point, network))(seeds)


@partial(jax.jit, static_argnames="network")
def _evaluate(network: Network, params: Any, seed: int, train: Any, test: Any) -> jax.Array:
    """Of one of the seeds."""
    return evaluate(network, jax.tree.map(lambda leaf: leaf[seed], params), train, test)


def _training(
    tx: optax.GradientTransformation, network: Network, batch_size: int
) -> tuple[Callable[..., FitState], Callable[..., tuple[FitState, Any, FitHistory]]]:
    """The state before the first step, and the state some steps on; both of one seed."""
    loss = batch_loss(network)

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
    """`advance` for all seeds at once, compiled ahead, so that its time is not the training's."""
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
    # A run may overflow with its last update, which only the evaluation sees.
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
