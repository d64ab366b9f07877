"""Snapshot ensembles on digits: five models for the cost of one training, and their gain.

    python examples/snapshot_ensemble.py

The learning rate falls from α₀ to 0 five times (lecture 7-1-11; G. Huang et al., ICLR 2017, also
for α₀ = 0.2). `cs231n_optax.snapshots` keeps the parameters at the end of each cycle, and their
predicted probabilities are averaged. The comparison is a single model of the same cost: as many
steps, in one cycle.

The gain depends on α₀: with 0.1 the snapshots are too similar, and their average is no better than
the single model. The benchmarks have ten repeats, with a tuned rate for each method.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.stats
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import train_test_split

import cs231n_optax

X, Y = load_digits(return_X_y=True)
TRAIN_X, TEST_X, TRAIN_Y, TEST_Y = train_test_split(
    np.float32(X / 16), Y, test_size=0.2, random_state=0, stratify=Y
)
BATCH_SIZE = 32


def init(key):
    """A network of 64 hidden units."""
    first, second = jax.random.split(key)
    return {
        "hidden": jax.random.normal(first, (64, 64)) * (2 / 64) ** 0.5,
        "bias": jnp.zeros(64),
        "output": jax.random.normal(second, (64, 10)) / 8,
    }


def apply(params, x):
    """Logits."""
    return jax.nn.relu(x @ params["hidden"] + params["bias"]) @ params["output"]


def make_step(num, every, learning_rate):
    """The transformation and its training step."""
    schedule = cs231n_optax.cyclic_cosine(learning_rate, cycle_length=every)
    tx = optax.chain(
        cs231n_optax.momentum(schedule, rho=0.9), cs231n_optax.snapshots(num=num, every=every)
    )

    @jax.jit
    def step(params, state, batch):
        def loss(params):
            logits = apply(params, batch["x"])
            return optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"]).mean()

        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    return tx, step


def train(tx, step, steps, seed):
    """Train; return the last parameters and the state with the snapshots."""
    params = init(jax.random.key(seed))
    state = tx.init(params)
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        rows = rng.choice(len(TRAIN_X), BATCH_SIZE, replace=False)
        params, state = step(params, state, {"x": TRAIN_X[rows], "y": TRAIN_Y[rows]})
    return params, state


def main(num=5, every=176, learning_rate=0.2, seeds=range(5)):
    """Compare on the test images; return (test error, cross-entropy) for each seed."""
    one_cycle = make_step(1, num * every, learning_rate)
    cyclic = make_step(num, every, learning_rate)
    predict = jax.jit(lambda members: cs231n_optax.ensemble_predict(apply, members, TEST_X))
    scores = {"one cycle": [], "the last snapshot": [], "all snapshots": []}
    for seed in seeds:
        _, single = train(*one_cycle, num * every, seed)
        _, state = train(*cyclic, num * every, seed)
        snapshots = cs231n_optax.snapshot_params(state)
        members = {
            "one cycle": cs231n_optax.snapshot_params(single),
            "the last snapshot": jax.tree.map(lambda copies: copies[-1:], snapshots),
            "all snapshots": snapshots,
        }
        for name, stacked in members.items():
            probabilities = np.asarray(predict(stacked))
            error = 1 - accuracy_score(TEST_Y, probabilities.argmax(axis=1))
            scores[name].append((error, log_loss(TEST_Y, probabilities)))

    def summary(rows, unit):
        return f"{unit * np.mean(rows):7.3f} ± {unit * scipy.stats.sem(rows):.3f}"

    scores = {name: np.array(rows) for name, rows in scores.items()}
    print(f"{num} cycles of {every} steps, {len(seeds)} seeds; ± the standard error")
    print(f"{'':18}{'test error, %':>17}{'cross-entropy, nats':>22}")
    for name, rows in scores.items():
        print(f"{name:18}{summary(rows[:, 0], 100):>17}{summary(rows[:, 1], 1):>22}")
    gained = scores["one cycle"] - scores["all snapshots"]
    print(f"{'gained':18}{summary(gained[:, 0], 100):>17}{summary(gained[:, 1], 1):>22}")
    return scores


if __name__ == "__main__":
    main()
