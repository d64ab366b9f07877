"""A sweep over learning rates, momenta and decays in one compiled program.

    python examples/vmapped_sweep.py

Every numeric hyperparameter of a method and of its schedule may be a traced array. So a training
loop that is a function of them can be mapped over a table: by `jax.vmap`, or by
`cs231n_optax.sweep`, which spreads the rows over all devices and, given a folder, resumes after a
crash. A row that diverges does not affect the others.
"""

import argparse
import functools
import itertools
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import cs231n_optax

X, Y = load_digits(return_X_y=True)
TRAIN_X, TEST_X, TRAIN_Y, TEST_Y = train_test_split(np.float32(X / 16), Y, random_state=0)
GRID = {"learning_rate": np.geomspace(1e-3, 1, 7), "rho": [0.0, 0.9], "decay": [0.0, 0.01]}


def init(key):
    """A network of 32 hidden units."""
    first, second = jax.random.split(key)
    return {
        "hidden": jax.random.normal(first, (64, 32)) / 8,
        "output": jax.random.normal(second, (32, 10)) / 32**0.5,
    }


def predict(params, x):
    """A score for each digit."""
    return jnp.tanh(x @ params["hidden"]) @ params["output"]


def squared_error(params, x, y):
    """Squared error to the one-hot labels."""
    return jnp.mean(jnp.sum((predict(params, x) - jax.nn.one_hot(y, 10)) ** 2, axis=1))


def train(hparams, steps=200):
    """One row: momentum with an exponential decay, in an ordinary Optax loop."""
    schedule = cs231n_optax.exponential_decay(hparams["learning_rate"], hparams["decay"])
    tx = cs231n_optax.momentum(schedule, hparams["rho"])
    init_key, batch_key = jax.random.split(jax.random.key(0))
    params = init(init_key)

    def step(carry, key):
        params, state = carry
        rows = jax.random.choice(key, len(TRAIN_X), (64,))
        x, y = jnp.asarray(TRAIN_X)[rows], jnp.asarray(TRAIN_Y)[rows]
        loss, grads = jax.value_and_grad(squared_error)(params, x, y)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), loss

    keys = jax.random.split(batch_key, steps)
    (params, _), losses = jax.lax.scan(step, (params, tx.init(params)), keys)
    diverged = ~jnp.isfinite(losses)
    return {
        "loss": losses[-20:].mean(),
        "accuracy": jnp.mean(predict(params, TEST_X).argmax(axis=1) == TEST_Y),
        "diverged_at": jnp.where(diverged.any(), diverged.argmax(), -1),
    }


def sweep(run, path):
    """`cs231n_optax.sweep`; prints how many rows were already in the folder."""
    finished = []
    began = time.perf_counter()
    table = cs231n_optax.sweep(
        run,
        GRID,
        path=path,
        callback=lambda progress: finished.append(progress.num_finished),
    )
    seconds = time.perf_counter() - began
    print(f"sweep: {finished[0]} rows read, {finished[-1] - finished[0]} computed; {seconds:.1f} s")
    return table


def main(steps=200, path=None):
    """Sweep both ways, then resume from the finished folder; print the best row."""
    run = functools.partial(train, steps=steps)
    columns = zip(*itertools.product(*GRID.values()), strict=True)
    rows = {name: jnp.array(column) for name, column in zip(GRID, columns, strict=True)}
    began = time.perf_counter()
    by_vmap = jax.device_get(jax.jit(jax.vmap(run))(rows))
    print(f"jax.vmap: {len(rows['rho'])} rows; {time.perf_counter() - began:.1f} s")

    with tempfile.TemporaryDirectory() as temporary:
        sweep(run, path or temporary)
        table = sweep(run, path or temporary)

    losses = table.outputs["loss"]
    difference = np.nanmax(np.abs(losses / by_vmap["loss"] - 1))
    print(f"the largest relative difference of a loss: {difference:.0e}")
    diverged_at = table.outputs["diverged_at"]
    diverged = diverged_at >= 0
    print(f"{diverged.sum()} rows diverged, the first at step {diverged_at[diverged].min()}")
    best = cs231n_optax.best_row(table, lambda outputs: outputs["loss"])
    print(f"best: row {best},", *(f"{name} {x[best]:.3g}," for name, x in table.hparams.items()))
    print(f"  loss {losses[best]:.3f}, test accuracy {table.outputs['accuracy'][best]:.1%}")
    return rows, by_vmap, table


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--path", help="a folder for the finished rows of the sweep, to go on from")
    main(path=parser.parse_args().path)
