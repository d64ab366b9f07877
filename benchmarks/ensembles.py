"""Ensembles beside a single model: how much of the lecture's "2 % extra" (7-1-11) they gain.

    python benchmarks/ensembles.py [--out docs/ensembles.png] [--quick]

A perceptron of 64 hidden units on scikit-learn's digits and on mnist5k, trained by momentum
(ρ = 0.9) on batches of 32, in ten repeats. A budget of 1 is 20 epochs. In a repeat all methods
start from the same parameters and see the data in the same order; the single model is the first of
the five. All repeats test on the same images. The rates and the decay are those with the least
error on a held-out fifth of the training images, over three seeds that the comparison does not use.
"""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from timing import argument_parser

import cs231n_optax
from cs231n_optax.problems import datasets, networks

MEMBERS = 5
EPOCHS = 20
BATCH_SIZE = 32
RATES = (0.01, 0.03, 0.1, 0.2)
HUANG = 0.2  # α₀ of Huang et al.
SEEDS = range(10)
TUNING_SEEDS = range(100, 103)

OFF_SCALE = 2  # above so many errors of the single model: a number at the figure's edge
# Colours: Okabe & Ito
COLORS = {"single": "#000000", "models": "#0072B2", "snapshots": "#D55E00", "Polyak": "#009E73"}

Entry = tuple[str, int]
"""A method and its budget."""


class Problem(NamedTuple):
    """A data set, the network for it, and the steps of a budget of 1."""

    name: str
    network: networks.Network
    dataset: datasets.Dataset
    steps: int


class Score(NamedTuple):
    """Scores on the test images; scalars, or arrays over the repeats.

    Attributes:
      error: of the ensemble, %.
      members_error: the mean over its members, %.
      cross_entropy: of the ensemble, nats.
    """

    error: Any
    members_error: Any
    cross_entropy: Any


class Choice(NamedTuple):
    """The decay and rate with the least error on the held-out images, and that error, %."""

    decay: str
    learning_rate: jax.typing.ArrayLike
    error: float


Decay = Callable[[Any, int], optax.Schedule]
DECAYS: dict[str, Decay] = {
    "constant": lambda rate, steps: lambda count: jnp.asarray(rate, float),
    "step_decay": lambda rate, steps: cs231n_optax.step_decay(rate, every=steps // 5),
    "half a cosine": lambda rate, steps: cs231n_optax.cyclic_cosine(rate, steps),
    "cyclic_cosine": lambda rate, steps: cs231n_optax.cyclic_cosine(rate, steps // MEMBERS),
}


def make_problem(dataset: datasets.Dataset, epochs: int) -> Problem:
    """The perceptron for a data set."""
    network = networks.mlp(dataset.x_train.shape[1:], dataset.num_classes, hidden=(64,))
    steps = epochs * (len(dataset.x_train) // BATCH_SIZE)
    return Problem(dataset.name, network, dataset, steps)


def held_out(problem: Problem) -> Problem:
    """The problem with the last fifth of its training images as test images."""
    x, y = problem.dataset.x_train, problem.dataset.y_train
    n = len(x) * 4 // 5
    parts = {"x_train": x[:n], "y_train": y[:n], "x_test": x[n:], "y_test": y[n:]}
    return problem._replace(dataset=problem.dataset._replace(**parts))


def train(
    problem: Problem,
    schedule: optax.Schedule,
    seed: jax.Array,
    *,
    steps: int,
    members: int = 1,
    averaging: optax.GradientTransformation | None = None,
) -> cs231n_optax.FitResult:
    """Train the models of a seed; the first is the same for any number of members."""
    data = problem.dataset

    def loss(params: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        x, y = batch
        return networks.cross_entropy(problem.network.apply(params, x), y)

    return cs231n_optax.fit_members(
        loss,
        problem.network.init,
        cs231n_optax.momentum(schedule, rho=0.9),
        (data.x_train, data.y_train),
        num_members=members,
        steps=steps,
        batch_size=BATCH_SIZE,
        key=jax.random.key(seed),
        averaging=averaging,
        chunk_size=problem.steps // MEMBERS,
        members_at_once=1,
    )


def score(problem: Problem, members: Any, weights: Any = None) -> Score:
    """Test an ensemble, and its members one by one."""
    x, y = jnp.asarray(problem.dataset.x_test), jnp.asarray(problem.dataset.y_test)

    def predict(members: Any, weights: Any = None) -> jax.Array:
        return cs231n_optax.ensemble_predict(problem.network.apply, members, x, weights=weights)

    def error(probabilities: jax.Array) -> jax.Array:
        return 100 * (1 - networks.accuracy(probabilities, y))

    one_by_one = jax.tree.map(lambda leaf: leaf[:, None], members)
    alone = jax.lax.map(lambda member: error(predict(member)), one_by_one)
    together = predict(members, weights)
    log = jnp.log(jnp.maximum(together, jnp.finfo(together.dtype).tiny))
    nats = -jnp.mean(jnp.take_along_axis(log, y[:, None], axis=1))
    return Score(error(together), jnp.average(alone, weights=weights), nats)


def plain(problem: Problem, seed: jax.Array, choice: Choice, steps: int, members: int = 1) -> Score:
    """An ensemble of independent models, or a single one."""
    schedule = DECAYS[choice.decay](choice.learning_rate, steps)
    return score(problem, train(problem, schedule, seed, steps=steps, members=members).params)


def averaged(problem: Problem, seed: jax.Array, choice: Choice, steps: int) -> Score:
    """The Polyak average of a run; its only member is the last point of the run."""
    schedule = DECAYS[choice.decay](choice.learning_rate, steps)
    averaging = cs231n_optax.polyak_average(decay=0.995)
    run = train(problem, schedule, seed, steps=steps, averaging=averaging)
    average = score(problem, cs231n_optax.averaged_params(run.state))
    return average._replace(members_error=score(problem, run.params).error)


def snapshots(problem: Problem, seed: jax.Array, choice: Choice, steps: int) -> Score:
    """The ensemble of the snapshots of one run."""
    schedule = DECAYS[choice.decay](choice.learning_rate, steps)
    averaging = cs231n_optax.snapshots(MEMBERS, every=steps // MEMBERS)
    run = train(problem, schedule, seed, steps=steps, averaging=averaging)
    members = jax.tree.map(lambda leaf: leaf[0], cs231n_optax.snapshot_params(run.state))
    return score(problem, members, cs231n_optax.snapshots_filled(run.state)[0])


def choose(
    way: Callable[..., Score], problem: Problem, decays: Sequence[str], budget: int = 1
) -> Choice:
    """The decay and rate with the least error on held-out images; ties go by cross-entropy."""
    inner = held_out(problem)
    tried = []
    for decay in decays:

        def run(hparams: dict[str, jax.Array], decay: str = decay) -> Score:
            choice = Choice(decay, hparams["learning_rate"], np.nan)
            return way(inner, hparams["seed"], choice, budget * problem.steps)

        grid = {"learning_rate": RATES, "seed": TUNING_SEEDS}
        outputs = cs231n_optax.sweep(run, grid, batch_size=len(TUNING_SEEDS)).outputs
        table = [np.mean(x.reshape(len(RATES), -1), axis=1) for x in outputs]
        for rate, error, _, nats in zip(RATES, *table, strict=True):
            tried.append((error, nats, Choice(decay, rate, float(error))))
    return min(tried, key=lambda row: row[:2])[2]


def compare(problem: Problem, seeds: Sequence[int]) -> dict[Entry, Score]:
    """The scores of every entry, as arrays over the repeats."""
    choices = {
        "single model": choose(plain, problem, ["constant", "step_decay", "half a cosine"]),
        "Polyak average, constant rate": choose(averaged, problem, ["constant"]),
        "snapshots, budget 1": choose(snapshots, problem, ["cyclic_cosine"]),
        "snapshots, budget 5": choose(snapshots, problem, ["cyclic_cosine"], budget=5),
    }
    for name, choice in choices.items():
        print(
            f"{problem.name}: {name}: {choice.decay}, α₀ = {choice.learning_rate} "
            f"({choice.error:.2f} % of the held-out images wrong)",
            flush=True,
        )
    single, polyak, short, long = choices.values()
    huang = Choice("cyclic_cosine", HUANG, np.nan)
    one, five, fifth = problem.steps, 5 * problem.steps, problem.steps // 5

    entries: dict[Entry, Callable[[jax.Array], Score]] = {
        ("single model", 1): lambda seed: plain(problem, seed, single, one),
        ("single model", 5): lambda seed: plain(problem, seed, single, five),
        ("5 models", 5): lambda seed: plain(problem, seed, single, one, MEMBERS),
        ("5 models", 1): lambda seed: plain(problem, seed, single, fifth, MEMBERS),
        ("5 snapshots", 1): lambda seed: snapshots(problem, seed, short, one),
        ("5 snapshots, α₀ = 0.2", 1): lambda seed: snapshots(problem, seed, huang, one),
        ("5 snapshots", 5): lambda seed: snapshots(problem, seed, long, five),
        ("5 snapshots, α₀ = 0.2", 5): lambda seed: snapshots(problem, seed, huang, five),
        ("Polyak average", 1): lambda seed: averaged(problem, seed, single, one),
        ("Polyak, constant rate", 1): lambda seed: averaged(problem, seed, polyak, one),
    }

    def run(hparams: dict[str, jax.Array]) -> list[Score]:
        return [entry(hparams["seed"]) for entry in entries.values()]

    scores = cs231n_optax.sweep(run, {"seed": seeds}, batch_size=5).outputs
    return dict(zip(entries, scores, strict=True))


def standard_error(values: Any) -> Any:
    """The standard error of the mean over the repeats."""
    return np.std(values, ddof=1) / np.sqrt(len(values))


def mean_and_error(values: Any, digits: int = 2, sign: str = "") -> str:
    """The mean over the repeats, and its standard error."""
    return f"{np.mean(values):{sign}.{digits}f} ± {standard_error(values):.{digits}f}"


def table(scores: dict[Entry, Score]) -> str:
    """The scores as a Markdown table."""
    single = scores["single model", 1]
    columns = (
        "method",
        "budget",
        "test error, %",
        "gained on the single model, points",
        "of its errors, %",
        "gained on its own members, points",
        "cross-entropy, nats",
    )
    rows = [columns, ["---"] * len(columns)]
    for (method, budget), score in scores.items():
        gain = single.error - score.error
        rows.append(
            [
                method,
                str(budget),
                mean_and_error(score.error),
                mean_and_error(gain, sign="+"),
                f"{100 * np.mean(gain) / np.mean(single.error):+.0f}",
                mean_and_error(score.members_error - score.error, sign="+"),
                mean_and_error(score.cross_entropy, digits=3),
            ]
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def picture(results: dict[str, dict[Entry, Score]]) -> Figure:
    """A panel for each problem with a row for each entry; 1200 pixels wide."""
    figure = Figure(figsize=(8, 4), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(results), sharey=True, squeeze=False)[0]
    for axes, (name, scores) in zip(panels, results.items(), strict=True):
        single = np.mean(scores["single model", 1].error)
        axes.axvline(single, color="0.35", linewidth=0.9, linestyle=(0, (1, 2)))
        for row, ((method, _), score) in enumerate(scores.items()):
            color = next(color for word, color in COLORS.items() if word in method)
            errors = np.sort(score.error)
            mean, error = np.mean(errors), standard_error(errors)
            if mean > OFF_SCALE * single:
                place = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "center"}
                axes.text(
                    1, row, f"{mean:.0f} ± {error:.0f}  →", color=color, fontsize=8.5, **place
                )
                continue
            spread = row + np.linspace(-0.25, 0.25, len(errors))
            axes.scatter(errors, spread, s=9, color=color, alpha=0.35, linewidth=0)
            axes.errorbar(mean, row, xerr=error, fmt="D", color=color, markersize=4.5)
        axes.set_title(name, fontsize=9, loc="left")
        axes.set_xlabel("test error, %", fontsize=8.5)
        axes.tick_params(labelsize=8.5)
        axes.grid(axis="x", color="0.9", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    entries = next(iter(results.values()))
    labels = [f"{method}  ×{budget}" for method, budget in entries]
    panels[0].set_yticks(range(len(entries)), labels)
    panels[0].invert_yaxis()
    repeats = len(next(iter(entries.values())).error)
    figure.suptitle(
        f"Test error: mean ± standard error of {repeats} repeats, each a dot. "
        "×1, ×5: budget. Dotted: the single model",
        fontsize=10,
    )
    return figure


def main() -> None:
    """Print the tables and draw the figure."""
    parser = argument_parser(__doc__)
    parser.add_argument("--out", type=Path, default=Path("ensembles.png"), help="the figure")
    parser.add_argument("--quick", action="store_true", help="a smoke run: digits, 5 epochs")
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", os.cpu_count())

    if options.quick:
        problems, seeds = [make_problem(datasets.digits(), epochs=5)], range(2)
    else:
        both = (datasets.digits(), datasets.mnist5k())
        problems, seeds = [make_problem(dataset, EPOCHS) for dataset in both], SEEDS
    results = {}
    for problem in problems:
        began = time.perf_counter()
        results[problem.name] = compare(problem, seeds)
        seconds = time.perf_counter() - began
        print(f"\n{problem.name}, budget 1 = {problem.steps} steps ({seconds:.0f} s)\n")
        print(table(results[problem.name]), end="\n\n", flush=True)
    picture(results).savefig(options.out)
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
