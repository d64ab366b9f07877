"""One sweep, and one data-parallel L-BFGS, over every device of several hosts.

On one host, with every device that JAX sees:

    python examples/multihost_sweep.py

On several hosts, run it on each with the address of the first. On SLURM, Cloud TPU and the like JAX
finds the three arguments itself, and ``jax.distributed.initialize()`` needs none:

    python examples/multihost_sweep.py --coordinator HOST:PORT --num-processes 2 --process-id 0
    python examples/multihost_sweep.py --coordinator HOST:PORT --num-processes 2 --process-id 1

The code does not depend on the number of hosts. The sweep sends rows of hyperparameters to devices,
which do not communicate until the results are gathered. L-BFGS replicates its parameters and shards
the examples; XLA sums the parts of the loss and of its gradient.
"""

import argparse
import os

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import cs231n_optax

X = np.random.default_rng(0).standard_normal((4096, 32)).astype(np.float32)
LABELS = (X @ np.linspace(-1, 1, 32, dtype=np.float32) > 0.1).astype(np.float32)
GRID = {"learning_rate": np.geomspace(1e-3, 10, 8), "decay": [0.0, 0.01]}


def loss(w, batch):
    """Logistic regression with an L2 penalty."""
    x, y = batch
    margins = (2 * y - 1) * (x @ w)
    return jnp.mean(jnp.logaddexp(0.0, -margins)) + 1e-3 * jnp.sum(w**2)


def run(hparams):
    """The loss after 200 steps of momentum with a decay, and the step of divergence."""
    schedule = cs231n_optax.exponential_decay(hparams["learning_rate"], hparams["decay"])
    result = cs231n_optax.fit(
        loss,
        jnp.zeros(32),
        cs231n_optax.momentum(schedule, rho=0.9),
        (X, LABELS),
        steps=200,
        batch_size=64,
        key=jax.random.key(0),
    )
    return {"loss": loss(result.params, (X, LABELS)), "died": result.state.nonfinite_step}


def main() -> None:
    """Run both and print the results in the first process."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--coordinator", help="HOST:PORT of the first process")
    parser.add_argument("--num-processes", type=int)
    parser.add_argument("--process-id", type=int)
    parser.add_argument("--path", help="a folder for the finished batches of the sweep")
    parser.add_argument("--csv", help="a file for its table")
    options = parser.parse_args()

    jax.config.update("jax_num_cpu_devices", os.cpu_count())  # on a host without accelerators
    if options.coordinator is not None:
        jax.distributed.initialize(options.coordinator, options.num_processes, options.process_id)
    mesh = Mesh(np.array(jax.devices()), ("everywhere",))

    table = cs231n_optax.sweep(run, GRID, batch_size=2, mesh=mesh, path=options.path)
    best = cs231n_optax.best_row(table, lambda outputs: outputs["loss"])

    def shared_out(array: np.ndarray) -> jax.Array:
        sharding = NamedSharding(mesh, PartitionSpec("everywhere"))
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    @jax.jit
    def solve(batch):
        tx = cs231n_optax.lbfgs()
        return cs231n_optax.minimize(loss, jnp.zeros(32), tx, args=(batch,))

    batch = shared_out(X), shared_out(LABELS)
    solution = solve(batch)

    if jax.process_index() == 0:
        print(f"{jax.process_count()} processes, {mesh.size} devices")
        print(*(f"{name:>14}" for name in table.hparams | table.outputs))
        for row in zip(*table.hparams.values(), *table.outputs.values(), strict=True):
            print(*(f"{x:14.4g}" for x in row))
        print(f"best: row {best}")
        if options.csv is not None:
            cs231n_optax.write_csv(table, options.csv)
        status = cs231n_optax.Status(int(solution.status)).name
        print(f"L-BFGS: {status}, loss {solution.value:.7f}, {solution.num_evals} evaluations")


if __name__ == "__main__":
    main()
