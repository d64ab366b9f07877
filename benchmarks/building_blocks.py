"""Two choices that docstrings argue for: how `fit` shuffles, and how the convolution is written.

    python benchmarks/building_blocks.py [--size 8] [--rounds 5]

Shuffling: nine orders of 1,797 examples under vmap, by `jax.random.permutation` and by sorting
words of random bits and position. Convolution: a training step of the small convolutional net for
five models under vmap inside a scan, and for one model outside any loop, with `lax.conv` and as one
matrix product. The two sides take turns; the ratio of medians is above 1 where ours is faster.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp

from cs231n_optax.problems import networks
from cs231n_optax.training.fit import _permutation

BATCH, MODELS, STEPS = 128, 5, 3


def lax_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """What `networks._conv3x3` computes, by XLA's own convolution."""
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)


def training(size: int, conv: Callable[..., jax.Array], many: bool) -> Callable[..., Any]:
    """Compiled steps of gradient descent on random images, with one way to convolve."""
    network = networks.cnn((size, size, 1), 10)
    x = jax.random.normal(jax.random.key(0), (BATCH, size, size, 1))
    y = jnp.arange(BATCH) % 10

    def step(params: Any, _: None) -> tuple[Any, None]:
        grads = jax.grad(lambda p: networks.cross_entropy(network.apply(p, x), y))(params)
        return jax.tree.map(lambda p, g: p - 0.01 * g, params, grads), None

    def loop(params: Any) -> Any:
        return jax.lax.scan(step, params, length=STEPS)[0]

    params = network.init(jax.random.key(1))
    run: Callable[..., Any] = lambda params: step(params, None)[0]  # noqa: E731
    if many:
        params = jax.vmap(network.init)(jax.random.split(jax.random.key(1), MODELS))
        run = jax.vmap(loop)
    with mock.patch.object(networks, "_conv3x3", conv):
        compiled = jax.jit(run).lower(params).compile()
    return lambda: compiled(params)


def shuffling(permutation: Callable[..., jax.Array]) -> Callable[..., Any]:
    """Nine orders of the digits."""
    keys = jax.random.split(jax.random.key(0), 9)
    run = jax.jit(jax.vmap(lambda key: permutation(key, 1797)))
    return lambda: run(keys)


def compare(name: str, theirs: Callable[..., Any], ours: Callable[..., Any], rounds: int) -> None:
    """Print the ratio of medians."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for run, row in zip((theirs, ours), seconds, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(run())
            row.append(time.perf_counter() - start)
    a, b = (statistics.median(row[1:]) for row in seconds)
    print(f"{name:40} {a * 1e3:8.2f} ms {b * 1e3:8.2f} ms, ratio {a / b:.2f}", flush=True)


def main() -> None:
    """Print a line for each comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=8, help="of the images")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    compare("shuffling", shuffling(jax.random.permutation), shuffling(_permutation), options.rounds)
    for name, many in ((f"{MODELS} models in a scan", True), ("one model, no loop", False)):
        sides = (training(options.size, conv, many) for conv in (lax_conv, networks._conv3x3))
        compare(f"convolution, {options.size}x{options.size}, {name}", *sides, options.rounds)


if __name__ == "__main__":
    main()
