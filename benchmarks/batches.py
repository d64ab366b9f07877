"""`minimize_batch` beside one `jax.vmap(minimize)`, and beside SciPy in a pool of two processes.

    python benchmarks/batches.py [--cases tail even ...] [--runs 10000] [--rounds 5]

- tail: Rosenbrock's function in two variables, of a steepness exp(N(1, 2)) for each run, from
  uniform starts in [-2, 2]; float32, by `lbfgs` and by `bfgs`.
- even: the same function of steepness 100 from one start, so that all runs take the same number of
  evaluations; also of a tenth of the runs, which are no more than one batch.
- sizes: the tail by `lbfgs` again, with batches of other sizes: the first one, and the steps from
  each to the next.
- weibull, gp: the problems of examples/many_fits.py, in float64 by `bfgs`, beside SciPy's L-BFGS-B
  with gradients by hand in NumPy and the same criterion of the gradient. SciPy's processes are
  started, and have their data, before the time is taken; each uses one thread.

All ways take turns. `seconds` are medians without compilation: every way has run once before.
`compile` is the time of that first call less the median.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # of NumPy and SciPy, in the pool, too

import multiprocessing
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import timing

import cs231n_optax as co

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import many_fits

STARTS = 64  # of the Gaussian process
PROCESSES = 2


class Problem(NamedTuple):
    """A function, its starts and arguments, and how they are given to both ways."""

    name: str
    fun: Callable[..., Any]
    tx: Any
    x0: Any
    args: tuple[Any, ...]
    in_axes: tuple[int | None, ...]
    limits: dict[str, float]
    by_hand: Any = None


def valley(x: jax.Array, steepness: jax.Array) -> jax.Array:
    """Rosenbrock's function."""
    return steepness * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2


def valleys(name: str, runs: int, tx: Any, *, even: bool) -> Problem:
    """Starts of Rosenbrock's function, in float32."""
    rng = np.random.default_rng(0)
    x0, steepness = rng.uniform(-2, 2, (runs, 2)), np.exp(rng.normal(1, 2, runs))
    if even:
        x0, steepness = np.tile([-1.2, 1.0], (runs, 1)), np.full(runs, 100.0)
    given = jnp.asarray(x0, jnp.float32), (jnp.asarray(steepness, jnp.float32),)
    return Problem(name, valley, tx, *given, (0, 0), {"tol": 1e-5})


def weibull(runs: int) -> Problem:
    """Small regressions with data of their own."""
    data = tuple(map(jnp.asarray, many_fits.survival_data(runs)))
    limits = {"tol": 0.0, "atol": many_fits.GTOL}
    x0, in_axes = jnp.zeros(4), (None, 0, 0, 0)
    return Problem(
        f"weibull, {runs}", many_fits.weibull, co.bfgs(), x0, data, in_axes, limits, weibull_rows
    )


def gaussian_process(rows: int) -> Problem:
    """Starts that share their data."""
    x, y = many_fits.regression_data(rows)
    starts = many_fits.random_starts(STARTS, x.shape[1])
    limits = {"tol": 0.0, "atol": many_fits.GTOL}
    return Problem(
        f"gp, {STARTS} starts, {rows} rows",
        many_fits.gaussian_process,
        co.bfgs(),
        jnp.asarray(starts),
        (jnp.asarray(x), jnp.asarray(y)),
        (0, None, None),
        limits,
        gaussian_process_rows,
    )


# SciPy. Each process makes the data once, and is then asked for rows.

DATA: dict[str, Any] = {}


def make_data(runs: int, rows: int) -> None:
    """The data of both problems, in a process of the pool."""
    DATA["weibull"] = many_fits.survival_data(runs)
    DATA["gp"] = many_fits.regression_data(rows)
    DATA["starts"] = many_fits.random_starts(STARTS, DATA["gp"][0].shape[1])


def weibull_rows(rows: range) -> list[tuple[float, int]]:
    """Values and evaluations of some regressions."""
    return [
        (result.fun, result.nfev)
        for i in rows
        for result in [
            many_fits.by_scipy(
                many_fits.weibull_by_hand, np.zeros(4), *(a[i] for a in DATA["weibull"])
            )
        ]
    ]


def gaussian_process_rows(rows: range) -> list[tuple[float, int]]:
    """Values and evaluations from some starts."""
    return [
        (result.fun, result.nfev)
        for i in rows
        for result in [
            many_fits.by_scipy(many_fits.gaussian_process_by_hand, DATA["starts"][i], *DATA["gp"])
        ]
    ]


def in_pool(pool: Any, solve_rows: Any, num: int) -> np.ndarray:
    """All rows, in forty pieces."""
    size = max(1, num // 40)
    pieces = [range(i, min(i + size, num)) for i in range(0, num, size)]
    return np.array([row for piece in pool.map(solve_rows, pieces) for row in piece])


# The comparison.


def compare(problem: Problem, rounds: int, pool: Any, sizes: tuple[int | None, ...]) -> None:
    """Time one problem in all ways, and print its rows."""
    num = next(
        len(jax.tree.leaves(tree)[0])
        for tree, axis in zip((problem.x0, *problem.args), problem.in_axes, strict=True)
        if axis == 0
    )

    def one(x0: Any, *args: Any) -> Any:
        return co.minimize(problem.fun, x0, problem.tx, args=args, **problem.limits)

    vmapped = jax.jit(jax.vmap(one, in_axes=problem.in_axes))

    def batched(batch_size: int | None) -> Any:
        return co.minimize_batch(
            problem.fun,
            problem.x0,
            problem.tx,
            args=problem.args,
            in_axes=problem.in_axes,
            batch_size=batch_size,
            **problem.limits,
        )

    ways: dict[str, Callable[[], Any]] = {
        "vmap": lambda: vmapped(problem.x0, *problem.args),
    }
    for size in sizes:
        name = "minimize_batch" if size is None else f"minimize_batch, {size} at once"
        ways[name] = lambda size=size: batched(size)
    if problem.by_hand is not None:
        ways["SciPy, 2 processes"] = lambda: in_pool(pool, problem.by_hand, num)

    first = {name: timing.seconds_of(way) for name, way in ways.items()}
    seconds = timing.seconds_in_turns(ways, rounds)
    middle = {name: statistics.median(row) for name, row in seconds.items()}
    values = np.asarray(first["vmap"][1].value)
    for name in ways:
        took, result = first[name]
        is_ours = isinstance(result, co.MinimizeResult)
        evals = np.asarray(result.num_evals) if is_ours else result[:, 1]
        value = np.asarray(result.value) if is_ours else result[:, 0]
        converged = f"{result.success.mean():.2%}" if is_ours else ""
        cells = [
            problem.name,
            name,
            f"{np.median(evals):.0f} / {np.percentile(evals, 99):.0f} / {evals.max():.0f}",
            converged,
            f"{middle[name]:.3f}",
            f"{middle['vmap'] / middle[name]:.2f}",
            f"{took - middle[name]:.1f}" if is_ours else "",
            f"{np.nanmax(np.abs(value - values)):.0e}",
            f"{np.sum(np.abs(value - values) > 1e-6)}",
            f"{np.nanmin(value) - np.nanmin(values):.0e}",
        ]
        print("| " + " | ".join(cells) + " |", flush=True)


def compare_sizes(runs: int, rounds: int) -> None:
    """Time the tail with other sizes of the batch, and print a row for each."""
    problem = valleys("tail", runs, co.lbfgs(), even=False)
    module: Any = sys.modules[co.minimize_batch.__module__]
    default = module.SIZES

    def of_sizes(batch_size: int | None, sizes: tuple[int, ...]) -> Callable[[], Any]:
        def fun(x: jax.Array, steepness: jax.Array) -> jax.Array:  # of which the programs are new
            return valley(x, steepness)

        def solve() -> Any:
            module.SIZES = sizes
            return co.minimize_batch(
                fun, problem.x0, problem.tx, args=problem.args, batch_size=batch_size
            )

        return solve

    ways = {
        f"{batch_size} at once, then {sizes}": of_sizes(batch_size, sizes)
        for batch_size, sizes in [
            *((batch_size, default) for batch_size in (256, 1024, 4096, runs)),
            (1024, tuple(2**i for i in range(14))),
            (1024, tuple(4**i for i in range(10))),
            (1024, ()),
        ]
    }
    print("\n| sizes of the batch | seconds | compile, s |\n|---|---|---|")
    first = {name: timing.seconds_of(way)[0] for name, way in ways.items()}
    for name, seconds in timing.medians(ways, rounds).items():
        print(f"| {name} | {seconds:.3f} | {first[name] - seconds:.1f} |", flush=True)
    module.SIZES = default


def main() -> None:
    """Print one table."""
    parser = timing.argument_parser(__doc__)
    names = ["tail", "even", "sizes", "weibull", "gp"]
    parser.add_argument("--cases", nargs="+", choices=names, default=names)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=60, help="of the Gaussian process")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    runs = options.runs

    print(timing.versions())
    header = ["case", "way", "evaluations: median / 99 % / most", "converged", "seconds"]
    header += ["vmap's / its", "compile, s", "largest difference of a value", "differ by 1e-6"]
    header += ["difference of the best"]
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    if "tail" in options.cases:
        for name, tx in (("lbfgs", co.lbfgs()), ("bfgs", co.bfgs())):
            problem = valleys(f"tail, {runs}, {name}", runs, tx, even=False)
            compare(problem, options.rounds, None, (None,))
    if "even" in options.cases:
        for name, tx in (("lbfgs", co.lbfgs()), ("bfgs", co.bfgs())):
            for num in (runs, runs // 10):
                problem = valleys(f"even, {num}, {name}", num, tx, even=True)
                compare(problem, options.rounds, None, (None,))
    context = multiprocessing.get_context("spawn")
    made = (runs, options.rows)
    if {"weibull", "gp"} & set(options.cases):
        with (
            jax.enable_x64(True),
            ProcessPoolExecutor(PROCESSES, context, make_data, made) as pool,
        ):
            if "weibull" in options.cases:
                compare(weibull(runs), options.rounds, pool, (None,))
            if "gp" in options.cases:
                compare(gaussian_process(options.rows), options.rounds, pool, (None, 8))
    if "sizes" in options.cases:
        compare_sizes(runs, options.rounds)


if __name__ == "__main__":
    main()
