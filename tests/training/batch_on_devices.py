"""`minimize_batch` on one of this process's devices and on all: a JSON report.

Run by test_minimize_batch.py in a process of its own, since JAX counts its devices once.
"""

import json
import sys

import jax
import numpy as np

import cs231n_optax as co

CURVATURES = np.random.default_rng(0).uniform(0.1, 1.5, 23)


def slope(x: jax.Array, curvature: jax.Array) -> jax.Array:
    """Plain descent takes the more steps, the smaller the curvature is."""
    return curvature * x**2 / 2


def main() -> None:
    """Solve the batch both ways, in each with runs that wait for a place."""
    jax.config.update("jax_enable_x64", True)
    meshes = {"one": jax.make_mesh((1,), ("d",), devices=jax.devices()[:1]), "four": None}
    report, tx = {}, co.sgd(0.5)
    for name, mesh in meshes.items():
        spread = set()

        def callback(progress: co.MinimizeBatchProgress, spread: set[int] = spread) -> None:
            spread.update(len(x.sharding.device_set) for x in jax.live_arrays())

        result = co.minimize_batch(
            slope, np.ones(23), tx, args=(CURVATURES,), mesh=mesh, batch_size=4, callback=callback
        )
        report[name] = {"devices": max(spread)} | {
            key: np.asarray(getattr(result, key)).tolist()
            for key in ("num_evals", "status", "params")
        }
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
