"""Adam on a model of many leaves: as a tree, in `optax.flatten`, and with the parameters kept flat.

    python benchmarks/many_leaves.py [--leaves 1000] [--size 1000] [--rounds 9]

The model is a sum over leaves of tanh(x · w)², so that every leaf takes part in the loss; the step
is gradient, update and apply, with donated buffers. The ways take turns within each round; the
ratio is the tree's median over the way's, above 1 where the way is faster.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

import cs231n_optax as co


def compile_step(
    tx: Any, params: Any, loss: Callable[[Any], jax.Array]
) -> tuple[Callable[..., Any], list[Any], float]:
    """The compiled step, its first carry, and the seconds that tracing and compiling took."""

    def step(params: Any, state: Any) -> Any:
        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    carry = [jax.tree.map(jnp.copy, params), tx.init(params)]
    start = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*carry).compile()
    return compiled, carry, time.perf_counter() - start


def main() -> None:
    """Print a row for each way."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--leaves", type=int, default=1000)
    parser.add_argument("--size", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()

    x = jnp.linspace(-1, 1, options.size)
    params = [jnp.full(options.size, 0.1) for _ in range(options.leaves)]
    flat, unravel = ravel_pytree(params)

    def loss(params: Any) -> jax.Array:
        return sum((jnp.tanh(x @ w) ** 2 for w in params), start=jnp.zeros(()))

    ways = {
        "tree": compile_step(co.adam(1e-3), params, loss),
        "optax.flatten": compile_step(optax.flatten(co.adam(1e-3)), params, loss),
        "flat parameters": compile_step(co.adam(1e-3), flat, lambda flat: loss(unravel(flat))),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(options.rounds):
        for way, (step, carry, _) in ways.items():
            jax.block_until_ready(carry)
            start = time.perf_counter()
            for _ in range(5):
                carry[:] = step(*carry)
            jax.block_until_ready(carry)
            seconds[way].append((time.perf_counter() - start) / 5)
    medians = {way: statistics.median(row[1:]) for way, row in seconds.items()}
    print(f"{jax.devices()[0].device_kind}, {options.leaves} leaves of {options.size}")
    for way, (_, _, compile_seconds) in ways.items():
        ratio = medians["tree"] / medians[way]
        print(
            f"{way:16} {medians[way] * 1e3:8.2f} ms {ratio:6.2f}  compile {compile_seconds:.1f} s"
        )


if __name__ == "__main__":
    main()
