"""Step and compile times of the first-order methods beside Optax's, in one interleaved run.

    python benchmarks/first_order.py [--methods adam,...] [--cases 1x10M,...] [--rounds 21]

One step is `update` and `apply_updates` with donated buffers, on gradients that are in memory
already. Ours and Optax's take turns within each round; compile times are medians of three, in turns
too. `triad` is the time of a += b c in place, on buffers as large, over the time of our step: it
says how close a step comes to streaming three arrays.

Ratios are Optax's median over ours: above 1, ours is faster.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from timing import Steps, argument_parser, compile_donated, medians, versions

import cs231n_optax as co

# ours, and Optax's with the same rule (for AdaGrad Optax's own, with eps inside the root)
METHODS: dict[str, tuple[Any, Any]] = {
    "sgd": (co.sgd(1e-3), optax.sgd(1e-3)),
    "momentum": (co.momentum(1e-3), optax.sgd(1e-3, momentum=0.9)),
    "nesterov": (co.nesterov(1e-3), optax.sgd(1e-3, momentum=0.9, nesterov=True)),
    "adagrad": (co.adagrad(1e-3), optax.adagrad(1e-3, 0.0)),
    "rmsprop": (co.rmsprop(1e-3), optax.rmsprop(1e-3, eps=1e-7, eps_in_sqrt=False)),
    "adam": (co.adam(1e-3), optax.adam(1e-3, eps=1e-7)),
}


def resnet_like() -> list[tuple[int, ...]]:
    """200 leaves, 11 M numbers: 3x3 convolutions of growing width, each with a scale and a bias."""
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


def measure(method: str, case: str, rounds: int) -> Timing:
    """Interleaved times of one method on one tree."""
    shapes = CASES[case]
    params = [jnp.ones(shape) for shape in shapes]
    grads = [jnp.full(shape, 1e-3) for shape in shapes]
    size = sum(leaf.size for leaf in params)
    num_steps = max(10, min(2000, int(2e7 / size / len(shapes) ** 0.5)))

    def step_of(tx: Any) -> Callable[..., Any]:
        def step(params: Any, state: Any, grads: Any) -> Any:
            updates, state = tx.update(grads, state, params)
            return optax.apply_updates(params, updates), state

        return step

    runs, compile_seconds = {}, {}
    for _ in range(3):
        for who, tx in zip(("ours", "optax"), METHODS[method], strict=True):
            shapes_of_carry = params, jax.eval_shape(tx.init, params)
            step, seconds = compile_donated(step_of(tx), shapes_of_carry, grads)
            carry = jax.tree.map(jnp.copy, params), tx.init(params)
            runs[who] = Steps(step, carry, grads, num=num_steps)
            compile_seconds.setdefault(who, []).append(seconds)

    carry, constants = (jnp.zeros(size),), (jnp.ones(size), jnp.full(size, 1e-3))
    triad, _ = compile_donated(lambda a, b, c: (a + b * c,), carry, *constants)
    runs["triad"] = Steps(triad, carry, *constants, num=num_steps)
    seconds = {who: median / num_steps for who, median in medians(runs, rounds).items()}
    compiling = {f"{who}_compile": statistics.median(row) for who, row in compile_seconds.items()}
    return Timing(**seconds, **compiling)


def names(known: dict[str, Any]) -> Callable[[str], list[str]]:
    """An argparse type: a comma-separated choice of known names."""

    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := set(chosen) - set(known):
            raise argparse.ArgumentTypeError(f"unknown: {sorted(unknown)}; known: {list(known)}")
        return chosen

    return parse


def main() -> None:
    """Print a row of times for each tree and method."""
    parser = argument_parser(__doc__)
    parser.add_argument("--methods", type=names(METHODS), default=list(METHODS))
    parser.add_argument("--cases", type=names(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int, default=21, help="default: 21")
    options = parser.parse_args()
    print(versions())
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
