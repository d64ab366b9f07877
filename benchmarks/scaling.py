"""What an update costs as the number of parameters grows: the lecture's argument, measured.

    python benchmarks/scaling.py [--out docs/scaling.png] [--rounds 7] [--sizes 2]

Each method runs on the chained Rosenbrock function of N variables, in float32, with the state
donated. Time is the median of the accepted updates after the first few, evaluation included. Memory
is what XLA plans for the compiled update: arguments, results and temporaries, less what it reuses.
The exponents in the figure are those between the two largest sizes, which do not fit in the caches;
those over the larger half of the sizes are printed, too.
"""

import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from timing import argument_parser, compile_donated, planned_bytes, seconds_of, training_step

import cs231n_optax

WARM_UP = 3  # updates before the first that is timed


class Contender(NamedTuple):
    """A method, the numbers of parameters that it is tried with, and its style in the figure."""

    make: Callable[[], optax.GradientTransformationExtraArgs]
    sizes: tuple[int, ...]
    marker: str
    color: str


# Colours: Okabe & Ito
CONTENDERS = {
    "newton": Contender(cs231n_optax.newton, tuple(100 * 2**k for k in range(6)), "s", "#D55E00"),
    "bfgs": Contender(cs231n_optax.bfgs, tuple(800 * 2**k for k in range(6)), "^", "#E69F00"),
    "lbfgs": Contender(cs231n_optax.lbfgs, tuple(2**k for k in range(13, 25, 2)), "o", "#0072B2"),
    "newton_cg": Contender(
        cs231n_optax.newton_cg, tuple(2**k for k in range(13, 25, 2)), "D", "#009E73"
    ),
}


class Cost(NamedTuple):
    """The time and the memory of one update."""

    seconds: float
    bytes: int


def rosenbrock(x: jax.Array) -> jax.Array:
    """The chained function of Rosenbrock; an evaluation is O(N)."""
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def cost(tx: optax.GradientTransformationExtraArgs, n: int, rounds: int) -> Cost:
    """Measure an evaluation with its update."""
    x = jnp.resize(jnp.array([-1.2, 1.0], jnp.float32), n)
    carry: Any = x, tx.init(x)
    step, _ = compile_donated(training_step(tx, rosenbrock), carry)
    times = []
    for turn in range(20 * rounds):
        seconds, carry = seconds_of(partial(step, *carry))
        if turn >= WARM_UP and cs231n_optax.accepted(carry[1]):
            times.append(seconds)
        if len(times) == rounds:
            break
    return Cost(statistics.median(times), planned_bytes(step))


def exponent(sizes: tuple[int, ...], costs: list[float], last: int) -> float:
    """The slope of log(cost) in log(N) over the last sizes."""
    return float(np.polyfit(np.log(sizes[-last:]), np.log(costs[-last:]), 1)[0])


def main() -> None:
    """Print the table and draw the figure."""
    parser = argument_parser(__doc__)
    parser.add_argument("--out", type=Path, default=Path("scaling.png"), help="the figure")
    parser.add_argument("--rounds", type=int, default=7, help="updates timed (default: 7)")
    parser.add_argument("--sizes", type=int, help="only so many of the smallest, 2 or more")
    options = parser.parse_args()

    figure = Figure(figsize=(9, 4), dpi=150, layout="constrained")
    panels = figure.subplots(1, 2)
    print(f"{'method':10s} {'N':>9s} {'ms':>10s} {'MB':>10s}")
    for name, contender in CONTENDERS.items():
        sizes = contender.sizes[: options.sizes]
        costs = [cost(contender.make(), n, options.rounds) for n in sizes]
        for n, (seconds, size) in zip(sizes, costs, strict=True):
            print(f"{name:10s} {n:9d} {seconds * 1e3:10.3f} {size / 1e6:10.3f}", flush=True)
        columns = [[c.seconds * 1e3 for c in costs], [c.bytes / 1e6 for c in costs]]
        for last, where in ((3, "larger half"), (2, "two largest")):
            slopes = [exponent(sizes, column, last) for column in columns]
            print(f"{name}, {where}: time ~ N^{slopes[0]:.2f}, memory ~ N^{slopes[1]:.2f}")
        for axes, column, slope in zip(panels, columns, slopes, strict=True):
            axes.loglog(
                sizes,
                column,
                marker=contender.marker,
                color=contender.color,
                label=f"{name}: N^{slope:.1f}",
            )
    for axes, label in zip(panels, ("ms an update", "MB in an update"), strict=True):
        axes.set_xlabel("parameters, N")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=9)
    figure.suptitle("What an update costs on the chained Rosenbrock function", fontsize=11)
    figure.savefig(options.out)
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
