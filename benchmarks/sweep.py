"""A sweep beside what one would write by hand: seconds a row.

    python benchmarks/sweep.py [--model mlp|cnn|conv] [--num 64] [--steps 500] [--rounds 5]

Momentum at 8 learning rates and 8 values of rho (the first ``--num`` of these 64 rows), with a step
decay, on scikit-learn's digits in batches of 32. The ways take turns within each round:

- sequential: one compiled program with traced hyperparameters, called row by row;
- lax.map: what one writes by hand for two devices, a `jax.shard_map` of
  ``jax.lax.map(run, rows, batch_size=16)``;
- sweep, in batches of 16 rows, and with the batch size that `sweep` itself finds by timing;
- a new optimiser, and so a new compilation, for each row (the first four rows);
- PyTorch's eager loop (two rows), if PyTorch is installed: ``pip install torch==2.13.0``.

Compiled programs are timed without their compilation. A sweep is timed from the end of its first
batch to the end of its last, as its callback reports them; nan stands for a sweep of a single batch
(16 rows for each device). The last column is the whole call, compilation included.
``mlp`` is 64-64-10; ``cnn`` has this library's convolution, and ``conv`` is the same net with
`jax.lax.conv_general_dilated`.
"""

import importlib.util
import itertools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from building_blocks import cnn_with_lax_conv
from jax.sharding import Mesh, PartitionSpec
from timing import argument_parser

import cs231n_optax as co
from cs231n_optax.problems import datasets, networks

BATCH = 32


class Timing(NamedTuple):
    """Seconds for a row without compilation, and for the whole call."""

    row: float
    call: float


def main() -> None:
    """Print the medians over the rounds, relative to the sequential runs."""
    parser = argument_parser(__doc__)
    parser.add_argument("--model", choices=("mlp", "cnn", "conv"), default="mlp")
    parser.add_argument("--num", type=int, default=64, help="rows: up to 64, even (default: 64)")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", os.cpu_count())

    digits = datasets.digits()
    data = jnp.asarray(digits.x_train), jnp.asarray(digits.y_train)
    network = NETWORKS[options.model](digits.x_train.shape[1:], digits.num_classes)
    rows = [
        {"learning_rate": rate, "rho": rho}
        for rate, rho in itertools.product(np.geomspace(1e-3, 0.3, 8), np.linspace(0, 0.99, 8))
    ][: options.num]

    def loss(params: Any, batch: Any) -> jax.Array:
        return networks.cross_entropy(network.apply(params, batch[0]), batch[1])

    def run(hparams: dict[str, Any]) -> jax.Array:
        schedule = co.step_decay(hparams["learning_rate"], every=options.steps // 4)
        result = co.fit(
            loss,
            network.init(jax.random.key(0)),
            co.momentum(schedule, hparams["rho"]),
            data,
            steps=options.steps,
            batch_size=BATCH,
            key=jax.random.key(1),
        )
        return jnp.mean(result.history.loss[-50:])

    ways: dict[str, Callable[[], Timing]] = {
        "sequential": lambda: sequential(run, rows),
        "lax.map by hand, 16": lambda: by_hand(run, rows),
        "sweep, 16": lambda: swept(run, rows, 16),
        "sweep": lambda: swept(run, rows, None),
        "new optimiser a row": lambda: recompiled(run, rows[:4]),
    }
    if options.model == "mlp" and importlib.util.find_spec("torch"):
        params = jax.device_get(network.init(jax.random.key(0)))
        ways["PyTorch, eager"] = lambda: pytorch(params, data, rows[:2], options.steps)

    timings: dict[str, list[Timing]] = {name: [] for name in ways}
    for _ in range(options.rounds):
        for name, way in ways.items():
            timings[name].append(way())
    medians = {
        name: Timing(*(statistics.median(column) for column in zip(*of_rounds, strict=True)))
        for name, of_rounds in timings.items()
    }
    first = medians["sequential"]
    print(
        f"{len(rows)} rows of {options.steps} steps, {options.model}, {len(jax.devices())} devices"
    )
    print(f"{'':22}{'ms a row':>10}{'speed':>9}{'whole call, s':>16}")
    for name, timing in medians.items():
        print(f"{name:22}{1e3 * timing.row:10.2f}{first.row / timing.row:9.3f}{timing.call:16.2f}")


def sequential(run: Any, rows: list[dict[str, float]]) -> Timing:
    """One compiled program, row by row."""
    began = time.perf_counter()
    compiled = jax.jit(lambda hparams: run(hparams)).lower(rows[0]).compile()
    ready = time.perf_counter()
    for row in rows:
        jax.block_until_ready(compiled(jax.tree.map(jnp.float32, row)))
    end = time.perf_counter()
    return Timing((end - ready) / len(rows), end - began)


def by_hand(run: Any, rows: list[dict[str, float]]) -> Timing:
    """What one writes by hand for several devices."""
    began = time.perf_counter()
    mesh, spec = Mesh(np.array(jax.devices()), ("rows",)), PartitionSpec("rows")
    columns = {name: np.float32([row[name] for row in rows]) for name in rows[0]}

    def share(columns: Any) -> Any:
        return jax.lax.map(run, columns, batch_size=16)

    shares = jax.shard_map(share, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    compiled = jax.jit(shares).lower(columns).compile()
    ready = time.perf_counter()
    jax.block_until_ready(compiled(columns))
    end = time.perf_counter()
    return Timing((end - ready) / len(rows), end - began)


def swept(run: Any, rows: list[dict[str, float]], batch_size: int | None) -> Timing:
    """`sweep` itself, timed by its callback."""
    reports = []
    began = time.perf_counter()

    def callback(progress: co.SweepProgress) -> None:
        reports.append((time.perf_counter(), progress.num_finished))

    co.sweep(lambda hparams: run(hparams), rows, batch_size=batch_size, callback=callback)
    if batch_size is None:
        print("rows of each batch:", *np.diff([num_finished for _, num_finished in reports]))
    # reports[0] comes before the first batch
    (first_end, first_rows), (last_end, all_rows) = reports[1], reports[-1]
    timed_rows = all_rows - first_rows
    row = (last_end - first_end) / timed_rows if timed_rows else np.nan
    return Timing(row, last_end - began)


def recompiled(run: Any, rows: list[dict[str, float]]) -> Timing:
    """A new optimiser with Python numbers, and a compilation, for each row."""
    began = time.perf_counter()
    for row in rows:
        jax.block_until_ready(jax.jit(lambda row=row: run(row))())
    seconds = time.perf_counter() - began
    return Timing(seconds / len(rows), seconds)


def pytorch(params: Any, data: Any, rows: list[dict[str, float]], steps: int) -> Timing:
    """The same training in PyTorch, with its default number of threads."""
    import torch
    from torch import nn

    x, y = (torch.from_numpy(np.array(array)) for array in data)
    x, y = x.reshape(len(x), -1), y.long()
    began = time.perf_counter()
    for row in rows:
        model = torch.nn.Sequential(
            torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10)
        )
        with torch.no_grad():
            for i, layer in ((1, model[0]), (2, model[2])):
                layer.weight.copy_(torch.from_numpy(np.array(params[f"w{i}"].T)))
                layer.bias.copy_(torch.from_numpy(np.array(params[f"b{i}"])))
        optimizer = torch.optim.SGD(
            model.parameters(), lr=row["learning_rate"], momentum=row["rho"]
        )
        decay = torch.optim.lr_scheduler.StepLR(optimizer, steps // 4, 0.5)
        order = torch.randperm(len(x))
        per_epoch = len(x) // BATCH
        for t in range(steps):
            if t % per_epoch == 0:
                order = torch.randperm(len(x))
            rows_now = order[t % per_epoch * BATCH :][:BATCH]
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x[rows_now]), y[rows_now])
            loss.backward()
            optimizer.step()
            decay.step()
    seconds = time.perf_counter() - began
    return Timing(seconds / len(rows), seconds)


NETWORKS = {"mlp": networks.mlp, "cnn": networks.cnn, "conv": cnn_with_lax_conv}


if __name__ == "__main__":
    main()
