"""Resume training after kill -9 with Orbax, with the same bits as an uninterrupted run.

    python examples/orbax_resume.py

trains a small network on scikit-learn's digits twice by each method: once without interruption, and
once in a process that is killed while it writes a checkpoint, then resumed from the newest complete
one. To start your own run, and to resume it after Ctrl-C or kill -9:

    python examples/orbax_resume.py --directory /tmp/run --method lbfgs

The states of this library are NamedTuples of arrays, which Orbax saves directly. That of L-BFGS
includes its line search: here it is killed inside a search, after a rejected trial.
"""

import argparse
import functools
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from sklearn.datasets import load_digits

import cs231n_optax

IMAGES, LABELS = load_digits(return_X_y=True)
IMAGES = np.float32(IMAGES / 16)
METHODS = {  # with the images per batch
    "adam": (cs231n_optax.adam(cs231n_optax.exponential_decay(0.01, 0.01)), 64),
    "lbfgs": (cs231n_optax.lbfgs(), None),  # all, for the line search
}
STEPS, SAVE_EVERY = 20, 2


class Run(NamedTuple):
    """The complete state of a run."""

    params: Any
    opt_state: optax.OptState
    key: jax.Array  # of the next batches
    step: jax.Array


@functools.partial(jax.jit, static_argnums=0)
def begin(method):
    """The run before its first step."""
    key, first, second = jax.random.split(jax.random.key(0), 3)
    params = {
        "hidden": jax.random.normal(first, (64, 32)) / 8,
        "output": jax.random.normal(second, (32, 10)) / 32**0.5,
    }
    tx, _ = METHODS[method]
    return Run(params, tx.init(params), key, jnp.zeros((), jnp.int32))


@functools.partial(jax.jit, static_argnums=1)
def advance(run, method):
    """One evaluation and one update, of any method."""
    tx, batch_size = METHODS[method]
    key, batch_key = jax.random.split(run.key)
    images, labels = jnp.asarray(IMAGES), jnp.asarray(LABELS)
    if batch_size is not None:
        rows = jax.random.choice(batch_key, len(images), (batch_size,))
        images, labels = images[rows], labels[rows]

    def loss(params):
        logits = jnp.tanh(images @ params["hidden"]) @ params["output"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    value, grads = jax.value_and_grad(loss)(run.params)
    updates, opt_state = tx.update(grads, run.opt_state, run.params, value=value)
    return Run(optax.apply_updates(run.params, updates), opt_state, key, run.step + 1)


def train(directory, method, die_at=None):
    """Train from the newest complete checkpoint, if any; return the `Run` after each step."""
    options = ocp.CheckpointManagerOptions(save_interval_steps=SAVE_EVERY, max_to_keep=3)
    with ocp.CheckpointManager(pathlib.Path(directory).absolute(), options=options) as manager:
        run = begin(method)
        newest = manager.latest_step()
        if newest is not None:
            run = manager.restore(newest, args=ocp.args.StandardRestore(run))  # run: the layout
        runs = [run]
        while run.step < STEPS:
            run = advance(run, method)
            runs.append(run)
            manager.save(int(run.step), args=ocp.args.StandardSave(run))  # in the background
            if run.step == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
    return runs


def bits(run):
    """The bytes of all arrays of a run."""
    leaves = jax.tree.leaves(run._replace(key=jax.random.key_data(run.key)))
    return [np.asarray(leaf).tobytes() for leaf in leaves]


class Comparison(NamedTuple):
    """An uninterrupted run, a resumed one, and the exit status of the killed process."""

    undisturbed: list[Run]
    resumed: list[Run]
    returncode: int


def compare(folder, method):
    """Train without interruption; train in a process that is killed; resume that one."""
    undisturbed = train(folder / f"{method}-undisturbed", method)
    rejected = {int(run.step) for run in undisturbed if not cs231n_optax.accepted(run.opt_state)}
    saves = range(2 * SAVE_EVERY, STEPS, SAVE_EVERY)
    amid_searches = [step for step in saves if {step, step - SAVE_EVERY} <= rejected]
    die_at = amid_searches[0] if amid_searches else saves[len(saves) // 2]

    killed = folder / f"{method}-killed"
    command = [sys.executable, __file__, "--directory", killed, "--method", method]
    child = subprocess.run([*command, "--die-at", str(die_at)])
    left = sorted((path.name for path in killed.iterdir()), key=lambda n: int(n.split(".")[0]))
    resumed = train(killed, method)

    print(f"{method}: killed at step {die_at} of {STEPS}, with exit status {child.returncode}")
    print(f"  it left {', '.join(left)}; resumed from step {resumed[0].step}")
    if not cs231n_optax.accepted(resumed[0].opt_state):
        value = float(optax.tree.get(resumed[0].opt_state, "anchor_value"))
        step = float(resumed[0].opt_state.search_state.step)
        print(f"  in a line search from the loss {value:.4f}: a trial rejected, {step:.3f} is next")
    same = bits(resumed[-1]) == bits(undisturbed[-1])
    print(f"  every bit at step {STEPS} as in the undisturbed run: {same}")
    return Comparison(undisturbed, resumed, child.returncode)


def main(folder=None):
    """Compare for both methods; the checkpoints are kept if a folder is given."""
    with tempfile.TemporaryDirectory() as temporary:
        return {method: compare(pathlib.Path(folder or temporary), method) for method in METHODS}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--directory", help="of the checkpoints of one run, to begin or continue")
    parser.add_argument("--method", choices=METHODS, default="lbfgs")
    parser.add_argument("--die-at", type=int, help="a step at which it kills itself")
    options = parser.parse_args()
    if options.directory is None:
        main()
    else:
        runs = train(options.directory, options.method, options.die_at)
        print(f"from step {runs[0].step} to step {runs[-1].step}")
