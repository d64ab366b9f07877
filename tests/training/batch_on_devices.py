"""`minimize_batch` on one of this process's devices and on all: a JSON report.

Run by test_minimize_batch.py in a process of its own, since JAX counts its devices once.
"""

import json
import sys

import jax
import numpy as np

import cs231n_optax as co

jax.config.update("jax_enable_x64", True)
RNG = np.random.default_rng(0)
STARTS, STEEPNESS = RNG.uniform(-2, 2, (23, 2)), np.exp(RNG.normal(1, 2, 23))


def valley(x: jax.Array, steepness: jax.Array) -> jax.Array:
    """Rosenbrock's function."""
    return steepness * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


def main() -> None:
    """Solve the batch both ways, in each with runs that wait for a place."""
    meshes = {"one": jax.make_mesh((1,), ("d",), devices=jax.devices()[:1]), "four": None}
    report, tx = {}, co.bfgs()
    for name, mesh in meshes.items():
        spread = set()

        def callback(progress: co.MinimizeBatchProgress, spread: set[int] = spread) -> None:
            spread.update(len(x.sharding.device_set) for x in jax.live_arrays())

        result = co.minimize_batch(
            valley, STARTS, tx, args=(STEEPNESS,), mesh=mesh, batch_size=4, callback=callback
        )
        report[name] = {"devices": max(spread)} | {
            key: np.asarray(getattr(result, key)).tolist()
            for key in ("num_evals", "status", "params")
        }
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
