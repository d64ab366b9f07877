"""Time an update of `scale_by_lbfgs` beside Optax's, with each of its two ways to the direction.

    python benchmarks/lbfgs_direction.py [--sizes 2,10,...] [--batched 2,10,...] [--memory 10]

`scale_by_lbfgs` runs the two loops of the recursion for at most `lbfgs.TINY` parameters, and the
compact form for more. Here both ways run at every size. One round is a step along the direction, a
gradient of a quadratic, and an update that accepts the point; whether it does is not known at
compile time, as in a line search. The rounds run in one compiled loop that carries the state, for
one run and for a batch of 1000 runs under vmap. The contenders take turns; a time is the least of
many short calls, which other load on the machine affects little.

The last table has the error of the directions in float32, relative to the two loops in float64.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from timing import argument_parser, seconds_in_turns, seconds_of, versions

import cs231n_optax
from cs231n_optax.second_order import lbfgs

BATCH = 1000
SECONDS = 0.002  # a call runs about as many rounds as fit into this time


def with_tiny(tiny: int, m: int) -> optax.GradientTransformationExtraArgs:
    """`scale_by_lbfgs` with two loops for at most ``tiny`` parameters."""
    tx = cs231n_optax.scale_by_lbfgs(m)

    def patched(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            with mock.patch.object(lbfgs, "TINY", tiny):  # while it is traced
                return function(*args, **kwargs)

        return call

    return optax.GradientTransformationExtraArgs(patched(tx.init), patched(tx.update))


OURS: dict[str, Callable[[int], optax.GradientTransformationExtraArgs]] = {
    "two loops": partial(with_tiny, sys.maxsize),
    "compact": partial(with_tiny, 0),
}
CONTENDERS = OURS | {"Optax": lambda m: optax.with_extra_args_support(optax.scale_by_lbfgs(m))}


def compile_rounds(
    tx: optax.GradientTransformationExtraArgs, size: int, batch: int
) -> Callable[[int], Any]:
    """A function that runs some rounds, each time from where the last call ended.

    The quadratic has eigenvalues from 1 to 1/100. Each step has a fixed part as well, so that the
    run never settles and no product vanishes.
    """
    t = jnp.linspace(0, 1, size)
    eigenvalues, fixed_step = 10 ** (-2 * t), jnp.cos(37 * t)

    def one_round(k: jax.Array, carry: Any) -> Any:
        x, direction, state = carry
        x = x + jnp.cos(k.astype(x.dtype)) * fixed_step - 0.5 * direction
        accept = jnp.abs(x[0]) < 1e10  # always, but the compiler cannot know
        direction, state = tx.update(eigenvalues * x, state, x, accept=accept)
        return x, direction, state

    def run(carry: Any, rounds: int) -> Any:
        def body(k: jax.Array, carry: Any) -> Any:
            step = partial(one_round, k)
            return (jax.vmap(step) if batch else step)(carry)

        return jax.lax.fori_loop(0, rounds, body, carry)

    def start(x: jax.Array) -> Any:
        return x, jnp.zeros_like(x), tx.init(x)

    if batch:
        carry = jax.vmap(start)(jnp.linspace(1, 2, batch)[:, None] * fixed_step)
    else:
        carry = start(fixed_step)
    carry = jax.tree.map(jnp.copy, carry)  # no two arrays share a buffer
    compiled = jax.jit(run, donate_argnums=0).lower(carry, 1).compile()

    def call(rounds: int) -> Any:
        nonlocal carry
        carry = compiled(carry, rounds)
        return carry

    return call


def print_times(m: int, size: int, batch: int, rounds: int) -> None:
    """Print the time of a round in each way."""
    calls, num = {}, {}
    for name, make in CONTENDERS.items():
        call = compile_rounds(make(m), size, batch)
        call(m)  # fills the history
        seconds = min(seconds_of(partial(call, m))[0] for _ in range(10)) / m
        num[name] = max(2, min(20_000, int(SECONDS / seconds)))
        calls[name] = partial(call, num[name])
    in_turns = seconds_in_turns(calls, rounds)
    seconds = {name: min(of_rounds) / num[name] for name, of_rounds in in_turns.items()}
    row = [str(batch or 1), str(size), *(f"{least * 1e6:.2f}" for least in seconds.values())]
    row += [f"{seconds['Optax'] / seconds[name]:.2f}" for name in OURS]
    print(f"| {' | '.join(row)} |", flush=True)


def directions(make: Callable[[int], Any], points: np.ndarray, grads: np.ndarray, m: int) -> Any:
    """The directions along a path, in the precision of its arrays."""
    tx = make(m)
    update = jax.jit(tx.update)
    state, out = tx.init(jnp.asarray(points[0])), []
    for x, grad in zip(points, grads, strict=True):
        direction, state = update(jnp.asarray(grad), state, jnp.asarray(x))
        out.append(np.asarray(direction, np.float64))
    return np.stack(out[1:])


def print_errors(m: int, size: int = 100, num_steps: int = 40) -> None:
    """Print the median and the largest error of the directions, relative to their lengths."""
    jax.config.update("jax_enable_x64", True)
    print("\n| steps / parameters | way | median error | largest |\n|---|---|---|---|")
    rng = np.random.default_rng(0)
    eigenvalues = np.geomspace(1, 100, size)
    x0, steps = rng.normal(size=size), rng.normal(size=(num_steps, size))
    for length in (1e-1, 1e-2, 1e-3, 1e-4):
        points = (x0 + length * np.cumsum(steps, axis=0)).astype(np.float32)
        grads = (eigenvalues * points.astype(np.float64)).astype(np.float32)
        exact = directions(OURS["two loops"], *(a.astype(np.float64) for a in (points, grads)), m)
        for name, make in OURS.items():
            errors = np.linalg.norm(directions(make, points, grads, m) - exact, axis=1)
            errors /= np.linalg.norm(exact, axis=1)
            print(f"| {length:g} | {name} | {np.median(errors):.0e} | {np.max(errors):.0e} |")


def numbers(text: str) -> list[int]:
    """An argparse type: integers separated by commas."""
    return [int(float(word)) for word in text.split(",") if word]


def main() -> None:
    """Print the times for each size and each batch, then the errors."""
    parser = argument_parser(__doc__)
    sizes = [2, 5, 8, 10, 20, 50, 100, 1000, 10_000]
    parser.add_argument("--sizes", type=numbers, default=sizes, help="N of a single run")
    parser.add_argument("--batched", type=numbers, default=[2, 5, 8, 10, 50], help="N in a batch")
    parser.add_argument("--memory", type=int, default=10, help="pairs (default: 10)")
    parser.add_argument("--rounds", type=int, default=60, help="calls timed (default: 60)")
    options = parser.parse_args()
    print(f"{versions()}, float32, m = {options.memory}\n")
    header = ["runs", "N", *(f"{name}, µs" for name in CONTENDERS)]
    header += [f"Optax / {name}" for name in OURS]
    print(f"| {' | '.join(header)} |\n{'|---' * len(header)}|")
    for size in options.sizes:
        print_times(options.memory, size, 0, options.rounds)
    for size in options.batched:
        print_times(options.memory, size, BATCH, options.rounds)
    print_errors(options.memory)


if __name__ == "__main__":
    main()
