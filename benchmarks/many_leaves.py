"""Adam on a model of many leaves: as a tree, in `optax.flatten`, and with the parameters kept flat.

    python benchmarks/many_leaves.py [--leaves 1000] [--size 1000] [--rounds 8]

The loss is the sum over leaves w of tanh(x · w)², so it depends on every leaf. A step is gradient,
update and apply, with donated buffers. The ways take turns within each round; the ratio is the
tree's median over the way's: above 1, the way is faster.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from timing import Steps, argument_parser, compile_donated, medians, training_step, versions

import cs231n_optax as co

STEPS = 5  # a round


def main() -> None:
    """Print a row for each way."""
    parser = argument_parser(__doc__)
    parser.add_argument("--leaves", type=int, default=1000, help="default: 1000")
    parser.add_argument("--size", type=int, default=1000, help="of a leaf (default: 1000)")
    parser.add_argument("--rounds", type=int, default=8, help="default: 8")
    options = parser.parse_args()

    x = jnp.linspace(-1, 1, options.size)
    params = [jnp.full(options.size, 0.1) for _ in range(options.leaves)]
    flat, unravel = ravel_pytree(params)

    def loss(params: Any) -> jax.Array:
        return sum((jnp.tanh(x @ w) ** 2 for w in params), start=jnp.zeros(()))

    ways = {
        "tree": (co.adam(1e-3), loss, params),
        "optax.flatten": (optax.flatten(co.adam(1e-3)), loss, params),
        "flat parameters": (co.adam(1e-3), lambda flat: loss(unravel(flat)), flat),
    }
    runs, compile_seconds = {}, {}
    for way, (tx, loss_of_way, start) in ways.items():
        carry = jax.tree.map(jnp.copy, start), tx.init(start)
        step, compile_seconds[way] = compile_donated(training_step(tx, loss_of_way), carry)
        runs[way] = Steps(step, carry, num=STEPS)
    seconds = medians(runs, options.rounds)
    print(f"{versions()}, {options.leaves} leaves of {options.size}")
    for way, median in seconds.items():
        ratio = seconds["tree"] / median
        print(
            f"{way:16} {median / STEPS * 1e3:8.2f} ms {ratio:6.2f}"
            f"  compile {compile_seconds[way]:.1f} s"
        )


if __name__ == "__main__":
    main()
