"""Batch norm under L-BFGS: test accuracy by the statistics that the evaluation uses.

    python benchmarks/batch_norm.py [--seeds 10] [--quick]

A perceptron 64-64-64-10 on scikit-learn's digits, with a norm before each of its two rectifiers,
from ten initialisations. L-BFGS sees all training images in each step and has 200 evaluations;
Adam (1e-3) sees batches of 64. One run keeps the running statistics of two momenta, so the rows of
a run compare the same parameters.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from timing import argument_parser

import cs231n_optax
from cs231n_optax.problems import datasets, networks

WIDTHS = (64, 64, 64, 10)
EPS = 1e-5
MOMENTA = (0.99, 0.9)
PENALTY = 1e-4
SMALL_LOSS = 0.01

Params = dict[str, list[jax.Array]]
Statistics = list[tuple[jax.Array, jax.Array]]
"""Mean and variance before each rectifier."""

UNIT: Statistics = [(jnp.zeros(width), jnp.ones(width)) for width in WIDTHS[1:-1]]
"""What running statistics are at first."""


class Data(NamedTuple):
    """Images as vectors, and their labels."""

    x: jax.Array
    y: jax.Array


class Norm(NamedTuple):
    """Statistics: fixed ones, or None for those of the data, over an axis of (examples, units)."""

    statistics: Statistics | None = None
    axis: int = 0


TRAIN_MODE = Norm()
LAYER_NORM = Norm(axis=1)


class Scores(NamedTuple):
    """A row of the table: of one run, or of all seeds.

    Attributes:
      steps: accepted points of L-BFGS, steps of Adam.
      loss: cross-entropy of the training images, with the norms as in training.
      train, test: accuracy with the statistics of the row.
    """

    steps: Any
    loss: Any
    train: Any
    test: Any


def digits() -> tuple[Data, Data]:
    """The training and the test set."""
    data = datasets.digits()
    train, test = (jnp.asarray(x.reshape(len(x), -1)) for x in (data.x_train, data.x_test))
    return Data(train, jnp.asarray(data.y_train)), Data(test, jnp.asarray(data.y_test))


# The network.


def init(key: jax.Array) -> Params:
    """Weights of variance 2 / fan-in, scales 1 and shifts 0."""
    keys = jax.random.split(key, len(WIDTHS) - 1)
    weights = [
        jax.random.normal(key, (fan_in, fan_out)) * (2 / fan_in) ** 0.5
        for key, fan_in, fan_out in zip(keys, WIDTHS[:-1], WIDTHS[1:], strict=True)
    ]
    scales = [jnp.ones(width) for width in WIDTHS[1:-1]]
    return {"weight": weights, "scale": scales, "shift": [jnp.zeros(w) for w in WIDTHS[1:]]}


def apply(params: Params, x: jax.Array, norm: Norm = TRAIN_MODE) -> tuple[jax.Array, Statistics]:
    """The logits, and the statistics of the data before each norm."""
    of_data = []
    for layer, scale in enumerate(params["scale"]):
        x = x @ params["weight"][layer]
        of_data.append((x.mean(norm.axis), x.var(norm.axis)))
        mean, var = of_data[-1] if norm.statistics is None else norm.statistics[layer]
        if norm.axis == 1:
            mean, var = mean[:, None], var[:, None]
        x = jax.nn.relu(scale * (x - mean) / jnp.sqrt(var + EPS) + params["shift"][layer])
    return x @ params["weight"][-1] + params["shift"][-1], of_data


def cross_entropy(params: Params, data: Data, norm: Norm = TRAIN_MODE) -> jax.Array:
    """Of the logits."""
    return networks.cross_entropy(apply(params, data.x, norm)[0], data.y)


# Training.


def blend(momentum: float, running: Statistics, new: Statistics) -> Statistics:
    """The running statistics after one update."""
    return jax.tree.map(lambda r, n: momentum * r + (1 - momentum) * n, running, new)


def in_train_mode(
    params: Params, tx: Any, data: Data, *, penalty: float = 0.0, **options: Any
) -> cs231n_optax.FitResult:
    """Train with the statistics of the batch; the model state has the running ones by momentum."""

    def loss(params: Params, batch: Data, *, model_state: dict[float, Statistics]) -> Any:
        logits, of_batch = apply(params, batch.x)
        value = networks.cross_entropy(logits, batch.y)
        value += penalty * optax.tree.norm(params["weight"], squared=True)
        running = {m: blend(m, model_state[m], of_batch) for m in MOMENTA}
        return value, (running, of_batch)

    first = dict.fromkeys(MOMENTA, UNIT)
    return cs231n_optax.fit(loss, params, tx, data, model_state=first, has_aux=True, **options)


def with_norm(params: Params, data: Data, norm: Norm, steps: int) -> cs231n_optax.FitResult:
    """L-BFGS with statistics that stay as they are, or with layer norm."""
    tx = cs231n_optax.lbfgs()
    return cs231n_optax.fit(
        lambda p, batch: cross_entropy(p, batch, norm), params, tx, data, steps=steps
    )


def bias_corrected(momentum: float, result: cs231n_optax.FitResult) -> Statistics:
    """The running statistics without the share of their first values."""
    share = momentum**result.state.batch
    running = result.model_state[momentum]
    return jax.tree.map(lambda r, first: (r - share * first) / (1 - share), running, UNIT)


def at_every_evaluation(momentum: float, result: cs231n_optax.FitResult) -> Statistics:
    """The running statistics of a loop that updates them at rejected trial points, too."""
    num_evals = result.state.opt_state.trial.num_evals

    def step(running: Statistics, row: Any) -> tuple[Statistics, None]:
        number, of_batch = row
        new = blend(momentum, running, of_batch)
        return jax.tree.map(lambda n, r: jnp.where(number < num_evals, n, r), new, running), None

    return jax.lax.scan(step, UNIT, (result.history.step, result.history.aux))[0]


# The experiment.


def experiment(seed: jax.Array, train: Data, test: Data, steps: int) -> tuple[Any, Any]:
    """The rows by run and statistics, and further numbers, for one initialisation."""
    key = jax.random.key(seed)
    params = init(key)
    rows: dict[tuple[str, str], Scores] = {}

    def add(run: str, statistics: str, result: Any, trained: Norm, evaluated: Norm) -> None:
        accuracies = (
            networks.accuracy(apply(result.params, data.x, evaluated)[0], data.y)
            for data in (train, test)
        )
        loss = cross_entropy(result.params, train, trained)
        rows[run, statistics] = Scores(result.state.batch, loss, *accuracies)

    def add_train_mode(run: str, result: Any, **further: Statistics) -> None:
        _, recomputed = apply(result.params, train.x)
        running = {f"running, {m}": result.model_state[m] for m in MOMENTA}
        for name, statistics in {**running, **further, "recomputed": recomputed}.items():
            add(run, name.replace("_", " "), result, TRAIN_MODE, Norm(statistics))

    lbfgs, evaluations = cs231n_optax.lbfgs(), {"steps": steps}
    plain = in_train_mode(params, lbfgs, train, **evaluations)
    add_train_mode(
        "L-BFGS",
        plain,
        bias_corrected=bias_corrected(0.99, plain),
        at_every_evaluation=at_every_evaluation(0.99, plain),
    )
    decayed = in_train_mode(params, lbfgs, train, penalty=PENALTY, **evaluations)
    add_train_mode("L-BFGS, L2 on the weights", decayed)

    adam, batches = cs231n_optax.adam(1e-3), {"batch_size": 64, "key": key}
    few = in_train_mode(params, adam, train, steps=60, **batches)
    add_train_mode("Adam, 60 steps", few)
    many = in_train_mode(params, adam, train, steps=3 * steps, **batches)
    add_train_mode(f"Adam, {3 * steps} steps", many)

    fixed = Norm(UNIT)
    unit = with_norm(params, train, fixed, steps)
    add("L-BFGS in eval mode", "the first: 0 and 1", unit, fixed, fixed)
    warm = Norm(apply(few.params, train.x)[1])
    warmed = with_norm(few.params, train, warm, steps)
    add("L-BFGS in eval mode after 60 steps of Adam", "those after Adam", warmed, warm, warm)
    again = Norm(apply(warmed.params, train.x)[1])
    add("L-BFGS in eval mode after 60 steps of Adam", "recomputed", warmed, warm, again)
    layer = with_norm(params, train, LAYER_NORM, steps)
    add("L-BFGS, layer norm", "of each image", layer, LAYER_NORM, LAYER_NORM)

    further = {
        "cosine of W and its gradient": jax.vmap(cosine)(
            jnp.stack(params["weight"][:2]),
            jnp.stack(jax.grad(cross_entropy)(params, train)["weight"][:2]),
        ).max(),
        "‖W‖ at the end / at the start": growth(params, plain.params),
        "‖W‖ at the end / at the start, L2 on the weights": growth(params, decayed.params),
        "running / recomputed variance, 0.99": variance_ratio(plain, train),
        "running / recomputed variance, 0.99, L2 on the weights": variance_ratio(decayed, train),
        "evaluations": plain.state.opt_state.trial.num_evals,
        f"evaluations to loss {SMALL_LOSS}, train mode": first_small(plain),
        f"evaluations to loss {SMALL_LOSS}, eval mode": first_small(unit),
        f"evaluations to loss {SMALL_LOSS}, layer norm": first_small(layer),
    }
    return rows, further


def cosine(x: jax.Array, y: jax.Array) -> jax.Array:
    """|cos| of the angle between two arrays."""
    return jnp.abs(jnp.vdot(x, y)) / (jnp.linalg.norm(x) * jnp.linalg.norm(y))


def growth(start: Params, end: Params) -> jax.Array:
    """Of the norm of the weights before the norms."""
    return optax.tree.norm(end["weight"][:2]) / optax.tree.norm(start["weight"][:2])


def variance_ratio(result: cs231n_optax.FitResult, data: Data) -> jax.Array:
    """The median over the units of the running variance over that of the data."""
    _, of_data = apply(result.params, data.x)
    pairs = zip(result.model_state[0.99], of_data, strict=True)
    return jnp.median(jnp.stack([running / var for (_, running), (_, var) in pairs]))


def first_small(result: cs231n_optax.FitResult) -> jax.Array:
    """The number of evaluations up to the first small loss; NaN if there is none."""
    small = result.history.loss < SMALL_LOSS
    return jnp.where(jnp.any(small), 1.0 + jnp.argmax(small), jnp.nan)


# The report.


def table(rows: Mapping[tuple[str, str], Scores]) -> str:
    """A Markdown table of means, with the range of the test accuracy over the seeds."""
    lines = [
        "| training | statistics in the evaluation | steps | training loss | training accuracy, % "
        "| test accuracy, % | its range |",
        "|---|---|---|---|---|---|---|",
    ]
    for (run, statistics), scores in rows.items():
        steps, loss = np.mean(scores.steps), np.mean(scores.loss)
        train, test = 100 * scores.train, 100 * scores.test
        lines.append(
            f"| {run} | {statistics} | {steps:.0f} | {loss:.1g} | {np.mean(train):.1f} "
            f"| {np.mean(test):.1f} | {np.min(test):.1f}–{np.max(test):.1f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Print the table and the further numbers."""
    parser = argument_parser(__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="initialisations")
    parser.add_argument("--quick", action="store_true", help="a smoke run: 20 evaluations")
    options = parser.parse_args()
    train, test = digits()
    steps = 20 if options.quick else 200

    names: list[Any] = []

    def run(seed: jax.Array) -> Any:
        rows, further = experiment(seed, train, test, steps)
        names[:] = list(rows), list(further)
        return list(rows.values()), list(further.values())

    values = jax.tree.map(np.asarray, jax.jit(jax.vmap(run))(jnp.arange(options.seeds)))
    rows, further = (dict(zip(*pair, strict=True)) for pair in zip(names, values, strict=True))
    print(table(rows))
    for name, x in further.items():
        print(f"{name}: mean {np.mean(x):.3g}, from {np.min(x):.3g} to {np.max(x):.3g}")


if __name__ == "__main__":
    main()
