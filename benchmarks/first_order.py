"""Step and compile times of the first-order methods beside Optax's, in one interleaved run.

    python benchmarks/first_order.py [--methods adam,...] [--cases 1x10M,...] [--rounds 21]

One step is `update` and `apply_updates` with donated buffers, on gradients that already lie in
memory. Ours and Optax's take turns within each round, the order changing from round to round;
compile times are medians of three, in turns too. `triad` is the time of a += b c in place, on
buffers as large, over the time of our step: how near a step comes to merely streaming three arrays.

Ratios are Optax's median over ours: above 1, ours is faster.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import cs231n_optax as co

# ours, Optax's with the same rule (AdaGrad: Optax's own, its eps inside the root)
METHODS: dict[str, tuple[Any, Any]] = {
    "sgd": (co.sgd(1e-3), optax.sgd(1e-3)),
    "momentum": (co.momentum(1e-3), optax.sgd(1e-3, momentum=0.9)),
    "nesterov": (co.nesterov(1e-3), optax.sgd(1e-3, momentum=0.9, nesterov=True)),
    "adagrad": (co.adagrad(1e-3), optax.adagrad(1e-3, 0.0)),
    "rmsprop": (co.rmsprop(1e-3), optax.rmsprop(1e-3, eps=1e-7, eps_in_sqrt=False)),
    "adam": (co.adam(1e-3), optax.adam(1e-3, eps=1e-7)),
}


def resnet_like() -> list[tuple[int, ...]]:
    """200 leaves, 11 M numbers: 3x3 convolutions that widen, each with a scale and a bias."""
    shapes: list[tuple[int, ...]] = []
    for width, blocks in ((64, 14), (128, 18), (256, 18), (512, 16)):
        for _ in range(blocks):
            channels = width // 4
            shapes += [(3, 3, channels, width), (width,), (width,)]
    return [*shapes, (512, 1000), (1000,)]


CASES: dict[str, list[tuple[int, ...]]] = {
    "1x10M": [(10_000_000,)],
    "4x1M": [(1_000_000,)] * 4,
    "resnet200": resnet_like(),
    "1000x1000": [(1000,)] * 1000,
    "1x10": [(10,)],
}


class Timing(NamedTuple):
    """Medians: seconds a step, ours, Optax's and the triad's; seconds to trace and compile."""

    ours: float
    optax: float
    triad: float
    ours_compile: float
    optax_compile: float


def compile_step(tx: Any, params: Any, grads: Any) -> tuple[Callable[..., Any], float]:
    """The compiled step, and the seconds that tracing and compiling took."""

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.eval_shape(tx.init, params)
    start = time.perf_counter()
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, grads).compile()
    return compiled, time.perf_counter() - start


def time_steps(step: Callable[..., Any], carry: Any, grads: Any, repeats: int) -> tuple[Any, float]:
    """Seconds a step, over some steps."""
    jax.block_until_ready(carry)
    start = time.perf_counter()
    for _ in range(repeats):
        carry = step(*carry, grads)
    jax.block_until_ready(carry)
    return carry, (time.perf_counter() - start) / repeats


def triad_of(size: int) -> tuple[Callable[..., Any], Any, Any]:
    """A += b c in place over all numbers, as a step of `time_steps`."""
    step = jax.jit(lambda a, grads: (a + grads[0] * grads[1],), donate_argnums=0)
    return step, (jnp.zeros(size),), (jnp.ones(size), jnp.full(size, 1e-3))


def measure(method: str, case: str, rounds: int) -> Timing:
    """Interleaved times of one method on one tree."""
    shapes = CASES[case]
    params = [jnp.ones(shape) for shape in shapes]
    grads = [jnp.full(shape, 1e-3) for shape in shapes]
    size = sum(leaf.size for leaf in params)
    repeats = max(10, min(2000, int(2e7 / size / len(shapes) ** 0.5)))
    methods = METHODS[method]
    compiled = [[compile_step(tx, params, grads) for tx in methods] for _ in range(3)]
    compile_seconds = [statistics.median(row[i][1] for row in compiled) for i in (0, 1)]
    steps = [step for step, _ in compiled[-1]]
    carries = [(jax.tree.map(jnp.copy, params), tx.init(params)) for tx in methods]
    triad, a, bc = triad_of(size)
    a = triad(*a, bc)

    rows = []
    for i in range(rounds + 1):
        seconds = [0.0, 0.0]
        for which in (0, 1) if i % 2 else (1, 0):
            carries[which], seconds[which] = time_steps(
                steps[which], carries[which], grads, repeats
            )
        a, streaming = time_steps(triad, a, bc, repeats)
        rows.append((*seconds, streaming))
    columns = list(zip(*rows[1:], strict=True))
    return Timing(*map(statistics.median, columns), *compile_seconds)


def names(known: dict[str, Any]) -> Callable[[str], list[str]]:
    """An argparse type: a comma-separated choice of known names."""

    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := set(chosen) - set(known):
            raise argparse.ArgumentTypeError(f"unknown: {sorted(unknown)}; known: {list(known)}")
        return chosen

    return parse


def main() -> None:
    """Print one row a method and tree, and the compile times."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--methods", type=names(METHODS), default=list(METHODS))
    parser.add_argument("--cases", type=names(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int, default=21)
    options = parser.parse_args()
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, optax {optax.__version__}")
    print(
        f"{'case':10} {'method':9} {'ours µs':>9} {'Optax µs':>9} {'ratio':>6} {'triad':>6}", end=""
    )
    print(f" {'compile s':>10} {'Optax':>6} {'ratio':>6}")
    for case in options.cases:
        for method in options.methods:
            t = measure(method, case, options.rounds)
            print(
                f"{case:10} {method:9} {t.ours * 1e6:9.1f} {t.optax * 1e6:9.1f} "
                f"{t.optax / t.ours:6.2f} {t.triad / t.ours:6.2f} {t.ours_compile:10.2f} "
                f"{t.optax_compile:6.2f} {t.optax_compile / t.ours_compile:6.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
