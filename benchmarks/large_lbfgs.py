"""An L-BFGS update of very many parameters, beside reading its history twice.

    python benchmarks/large_lbfgs.py [--size 1e7] [--memory 10]

The state is donated, float32. `accepted` is an update of `scale_by_lbfgs` that writes a pair and
computes the direction, `rejected` one with ``accept=False``; the direction is their difference.
Reading the history twice, which no method can avoid, is timed as matrix-vector products over arrays
as large, the faster of x @ A and A @ x. All take turns; times are medians.
"""

import argparse
import re
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

import cs231n_optax


def seconds_of(run: Callable[[], Any]) -> tuple[float, Any]:
    """The time of a call, and its result."""
    start = time.perf_counter()
    out = jax.block_until_ready(run())
    return time.perf_counter() - start, out


def main() -> None:
    """Print the times and what the compiled update copies."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=float, default=1e7, help="parameters (default: 1e7)")
    parser.add_argument("--memory", type=int, default=10, help="pairs (default: 10)")
    parser.add_argument("--turns", type=int, default=9, help="repetitions (default: 9)")
    options = parser.parse_args()
    n, m = int(options.size), options.memory
    tx = cs231n_optax.scale_by_lbfgs(m)
    curvature = jnp.linspace(0.1, 1.0, n)

    @partial(jax.jit, donate_argnums=1)
    def update(x: jax.Array, state: Any, accept: jax.Array) -> Any:
        return tx.update(curvature * x, state, x, accept=accept)

    @jax.jit
    def by_rows(a: jax.Array, b: jax.Array, x: jax.Array) -> jax.Array:
        return a @ x + b @ x

    @jax.jit
    def by_columns(a: jax.Array, b: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.sum(w @ a + w @ b)

    x = jnp.sin(jnp.arange(n, dtype=jnp.float32))
    points = [x * 0.9**k + 0.01 * k for k in range(3)]
    state = tx.init(x)
    compiled = update.lower(x, state, jnp.array(True)).compile()
    large = rf"f32\[{m},{n}\]\S* copy\("
    copies = len(re.findall(large, compiled.as_text()))
    for k in range(m + 1):
        _, state = compiled(points[k % 3], state, jnp.array(True))
    history, weights = state.s + 0, jnp.ones(m)
    times: dict[str, list[float]] = {
        key: [] for key in ("accepted", "rejected", "by rows", "by columns")
    }
    for turn in range(options.turns):
        for key, accept in (("accepted", True), ("rejected", False)):
            run = partial(compiled, points[turn % 3], state, jnp.array(accept))
            seconds, (_, state) = seconds_of(run)
            times[key].append(seconds)
        times["by rows"].append(2 * seconds_of(lambda: by_rows(history, history, x))[0])
        times["by columns"].append(2 * seconds_of(lambda: by_columns(history, history, weights))[0])
    median = {key: statistics.median(row) for key, row in times.items()}
    streams = min(median["by rows"], median["by columns"])
    print(f"N = {n:,}, m = {m}; copies of a history in the update: {copies}")
    for key in times:
        print(f"  {key:11} {median[key] * 1e3:8.1f} ms  {median[key] / streams:5.2f} two streams")
    direction = median["accepted"] - median["rejected"]
    print(f"  {'direction':11} {direction * 1e3:8.1f} ms  {direction / streams:5.2f} two streams")


if __name__ == "__main__":
    main()
