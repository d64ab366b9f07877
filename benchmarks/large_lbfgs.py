"""An L-BFGS update of very many parameters, beside reading its history twice.

    python benchmarks/large_lbfgs.py [--size 1e7] [--memory 10] [--rounds 8]

Float32, with the state donated. `accepted` is an update of `scale_by_lbfgs` that writes a pair and
computes the direction, `rejected` one with ``accept=False``; the direction takes their difference.
No method can avoid reading the history twice. The time of that is measured as the faster of the
products S @ x and w @ S. The calls take turns; times are medians.
"""

import itertools
import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from timing import argument_parser, medians, versions

import cs231n_optax


def main() -> None:
    """Print the times, and how many histories the compiled update copies."""
    parser = argument_parser(__doc__)
    parser.add_argument("--size", type=float, default=1e7, help="parameters (default: 1e7)")
    parser.add_argument("--memory", type=int, default=10, help="pairs (default: 10)")
    parser.add_argument("--rounds", type=int, default=8, help="default: 8")
    options = parser.parse_args()
    n, m = int(options.size), options.memory
    tx = cs231n_optax.scale_by_lbfgs(m)
    curvature = jnp.linspace(0.1, 1.0, n)

    @partial(jax.jit, donate_argnums=1)
    def update(x: jax.Array, state: Any, accept: jax.Array) -> Any:
        return tx.update(curvature * x, state, x, accept=accept)

    @jax.jit
    def read_by_rows(s: jax.Array, y: jax.Array, x: jax.Array) -> jax.Array:
        return s @ x + y @ x

    @jax.jit
    def read_by_columns(s: jax.Array, y: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.sum(w @ s + w @ y)

    x = jnp.sin(jnp.arange(n, dtype=jnp.float32))
    points = [x * 0.9**k + 0.01 * k for k in range(3)]
    state = tx.init(x)
    compiled = update.lower(x, state, jnp.array(True)).compile()
    copies = len(re.findall(rf"f32\[{m},{n}\]\S* copy\(", compiled.as_text()))

    next_point = {accept: itertools.cycle(points) for accept in (True, False)}

    def run(accept: bool) -> Any:
        nonlocal state
        direction, state = compiled(next(next_point[accept]), state, jnp.array(accept))
        return direction

    for _ in range(m + 1):  # fills the history
        run(True)
    history, weights = state.s + 0, jnp.ones(m)
    seconds = medians(
        {
            "accepted": lambda: run(True),
            "rejected": lambda: run(False),
            "by rows": lambda: read_by_rows(history, history, x),
            "by columns": lambda: read_by_columns(history, history, weights),
        },
        options.rounds,
    )
    for name in ("by rows", "by columns"):
        seconds[name] *= 2  # S and Y are read once in a call
    seconds["direction"] = seconds["accepted"] - seconds["rejected"]
    reading = min(seconds["by rows"], seconds["by columns"])
    print(versions())
    print(f"N = {n:,}, m = {m}; copies of a history in the update: {copies}")
    for name, median in seconds.items():
        ratio = median / reading
        print(f"  {name:11} {median * 1e3:8.1f} ms  {ratio:5.2f} readings of the history")


if __name__ == "__main__":
    main()
