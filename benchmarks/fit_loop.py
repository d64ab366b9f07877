"""A step of `fit` beside a bare scan and a Python loop around a jitted step.

    python benchmarks/fit_loop.py [--steps 1000] [--rounds 9]

Adam on a 64-64-10 network, with batches of 128 of scikit-learn's digits. The three take turns
within each round. The loop is what one writes by hand: NumPy shuffles each epoch, the jitted step
gathers its batch, and the losses are kept. The scan uses one order for all epochs. Neither checks
for a non-finite loss, keeps the last good parameters or records the gradient's norm.
"""

import statistics
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from timing import argument_parser, seconds_of, versions

import cs231n_optax as co
from cs231n_optax.problems import datasets, networks

BATCH = 128


def main() -> None:
    """Print the microseconds that a step takes in each way."""
    parser = argument_parser(__doc__)
    parser.add_argument("--steps", type=int, default=1000, help="default: 1000")
    parser.add_argument("--rounds", type=int, default=9, help="default: 9")
    options = parser.parse_args()

    digits = datasets.digits()
    data = (jnp.asarray(digits.x_train), jnp.asarray(digits.y_train))
    network = networks.mlp(digits.x_train.shape[1:], digits.num_classes)
    params, key, tx = network.init(jax.random.key(0)), jax.random.key(1), co.adam(1e-3)

    def loss(params: Any, batch: Any) -> jax.Array:
        return networks.cross_entropy(network.apply(params, batch[0]), batch[1])

    def step(carry: Any, batch: Any) -> tuple[Any, jax.Array]:
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params, batch)
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), value

    def scan(carry: Any) -> Any:
        order = jax.random.permutation(key, len(data[0]))
        per_epoch = len(order) // BATCH

        def body(carry: Any, i: jax.Array) -> tuple[Any, jax.Array]:
            rows = jax.lax.dynamic_slice(order, (i % per_epoch * BATCH,), (BATCH,))
            return step(carry, jax.tree.map(lambda leaf: leaf[rows], data))

        return jax.lax.scan(body, carry, jnp.arange(options.steps))

    def run_fit(state: Any) -> Any:
        return co.fit(
            loss, state.params, tx, data, steps=options.steps, batch_size=BATCH, state=state
        )

    @partial(jax.jit, donate_argnums=0)
    def jitted_step(carry: Any, data: Any, rows: Any) -> tuple[Any, jax.Array]:
        return step(carry, jax.tree.map(lambda leaf: leaf[rows], data))

    def loop(carry: Any) -> Any:
        rng, losses, batches = np.random.default_rng(0), [], iter(())
        for _ in range(options.steps):
            rows = next(batches, None)
            if rows is None:
                order = rng.permutation(len(data[0]))
                batches = iter(order[: len(order) // BATCH * BATCH].reshape(-1, BATCH))
                rows = next(batches)
            carry, value = jitted_step(carry, data, rows)
            losses.append(value)
        return carry, losses

    start = co.fit(loss, params, tx, data, steps=0, batch_size=BATCH, key=key).state
    carry = (params, tx.init(params))
    ways = {
        "fit": (jax.jit(run_fit, donate_argnums=0), start),
        "scan": (jax.jit(scan, donate_argnums=0), carry),
        "loop": (loop, carry),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(options.rounds + 1):
        for way, (run, first) in ways.items():
            fresh = jax.block_until_ready(jax.tree.map(jnp.copy, first))
            seconds[way].append(seconds_of(partial(run, fresh))[0])
    medians = {way: statistics.median(row[1:]) / options.steps for way, row in seconds.items()}
    print(versions())
    for way, median in medians.items():
        print(f"{way:5} {median * 1e6:7.1f} µs a step, {median / medians['fit']:.2f} of fit's")


if __name__ == "__main__":
    main()
