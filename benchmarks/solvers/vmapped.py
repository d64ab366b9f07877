"""Random starts of Rosenbrock's function at once: JAX solvers under one vmap, SciPy in a loop.

    python vmapped.py [f64|f32] [out.json] [--solvers a,b] [--tol tight] [--sizes 2,10]

The chained function in 2 and in 10 variables, or in others, from uniform starts in [-2, 2]. Each
run of the batch stops at max|g| <= 1e-5 (float32: 1e-3) x max(1, max|g| at its start), with
--tol tight at 1e-8 (1e-5). The first gradients are between 1e2 and 4e3, so the loose test in
float32 passes far from the minimum.

The solvers take turns; each is timed once a round, in an order that alternates. A solver that has
used up --budget seconds is not timed again. `ratio` is its median time over that of the best JAX
peer: the fastest among those that solve 99 % of the starts.

A batch runs until its last start has stopped. `rounds` is the number of iterations of that loop,
for solvers in which an iteration is one evaluation of each start (this library's): the most
evaluations of any start. The rows are printed as JSON lines, then as a table; out.json holds them,
too.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import registry
import score
from interface import MAX_ITERS, TOL, Solver
from ours import FAMILY
from peers import PEERS


def rosenbrock(x: jax.Array) -> jax.Array:
    """The chained function; its minimum is 0, at ones."""
    return jnp.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def is_scipy(solver: Solver) -> bool:
    """Whether a solver is SciPy's, which can be neither traced nor vmapped."""
    return solver.family == "scipy"


def batched(solver: Solver) -> Callable[[jax.Array, jax.Array], tuple[Any, Any]]:
    """A solver as a function of all starts and tolerances: (points, evaluations)."""
    solve = solver.build(rosenbrock, MAX_ITERS)
    if not is_scipy(solver):
        batch = jax.jit(jax.vmap(solve))

        def run(starts: jax.Array, gtol: jax.Array) -> tuple[Any, Any]:
            result = jax.block_until_ready(batch(starts, gtol))
            return result[0], np.asarray(result[1])

        return run

    def loop(starts: jax.Array, gtol: jax.Array) -> tuple[Any, Any]:
        pairs = zip(np.asarray(starts), np.asarray(gtol), strict=True)
        results = [solve(y0, tol) for y0, tol in pairs]
        return np.stack([r[0] for r in results]), np.array([r[1] for r in results])

    return loop


def measure(
    n: int, solvers: dict[str, Solver], options: argparse.Namespace, dtype: Any
) -> list[dict[str, Any]]:
    """One row for each solver, on `n` variables."""
    rng = np.random.default_rng(0)
    starts = jnp.asarray(rng.uniform(-2, 2, (options.starts, n)), dtype)
    value, grad = jax.jit(jax.vmap(rosenbrock)), jax.jit(jax.vmap(jax.grad(rosenbrock)))
    scale = jnp.maximum(1.0, jnp.max(jnp.abs(grad(starts)), axis=1))
    gtol = TOL[options.dtype][options.tol] * scale

    rows: dict[str, dict[str, Any]] = {}
    runs: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in solvers}

    def timed(name: str) -> tuple[Any, float]:
        start = time.perf_counter()
        result = runs[name](starts, gtol)
        return result, time.perf_counter() - start

    for name, solver in solvers.items():
        row = rows[name] = {"dtype": options.dtype, "n": n, "solver": name}
        try:
            runs[name] = batched(solver)
            if is_scipy(solver):
                runs[name](starts[:1], gtol[:1])  # compiles the derivatives
            (points, evals), first = timed(name)
        except Exception as error:
            row["error"] = f"{type(error).__name__}: {error}"[:200]
            continue
        if is_scipy(solver):  # nothing to compile: the first run counts
            seconds[name].append(first)
        points = jnp.asarray(points, dtype)
        row |= {
            "first_s": 0.0 if is_scipy(solver) else first,
            "solved": float(jnp.mean(jnp.max(jnp.abs(grad(points)), axis=1) <= gtol)),
            "global_min": float(jnp.mean(value(points) < 1e-3)),
            "evals_median": float(np.median(evals)),
            "evals_max": int(evals.max()),
        }
        if solver.family == FAMILY:
            row["rounds"] = int(evals.max())

    running = [name for name in solvers if "error" not in rows[name]]
    for i in range(options.repeats):
        for name in running if i % 2 else running[::-1]:
            if sum(seconds[name]) < options.budget and len(seconds[name]) < options.repeats:
                seconds[name].append(timed(name)[1])

    for name in running:
        rows[name] |= {"total_s": statistics.median(seconds[name]), "repeats": len(seconds[name])}
    best = best_peer([rows[name] for name in running])
    for name in running:
        if best:
            rows[name] |= {"best": best["solver"]}
            rows[name] |= {"ratio": rows[name]["total_s"] / best["total_s"]}
    return list(rows.values())


def best_peer(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The fastest JAX peer that solves 99 % of the starts, if there is one."""
    jax_peers = {name for name, peer in PEERS.items() if not is_scipy(peer)}
    eligible = [row for row in rows if row["solved"] >= 0.99 and row["solver"] in jax_peers]
    return min(eligible, key=lambda row: row["total_s"], default=None)


def report(rows: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    header = ["n", "solver", "seconds", "ratio", "first s", "solved %", "at the minimum %"]
    header += ["evals median", "max", "rounds"]
    cells = []
    for row in rows:
        best = row["solver"] == row.get("best")
        number = score.number
        cells.append(
            [str(row["n"]), f"**{row['solver']}**" if best else row["solver"]]
            + [number(row.get("total_s")), number(row.get("ratio")), number(row.get("first_s"))]
            + [f"{100 * row[key]:.1f}" if key in row else "–" for key in ("solved", "global_min")]
            + [f"{row[key]:.0f}" if key in row else "–" for key in ("evals_median", "evals_max")]
            + [str(row.get("rounds", "–"))]
        )
    return score.table(header, cells)


def main() -> None:
    """Measure the solvers and print the rows and a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dtype", nargs="?", choices=list(TOL), default="f64")
    parser.add_argument("out", nargs="?", default="", help="a JSON file")
    registry.add_options(parser)
    parser.add_argument("--repeats", type=int, default=5, help="timed runs (default: 5)")
    parser.add_argument("--budget", type=float, default=10.0, help="seconds for a solver")
    parser.add_argument("--tol", choices=["loose", "tight"], default="loose")
    parser.add_argument("--starts", type=int, default=1000, help="default: 1000")
    parser.add_argument("--sizes", default="2,10", help="numbers of variables (default: 2,10)")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    jax.config.update("jax_enable_x64", options.dtype == "f64")
    solvers = registry.chosen(parser, options, orders=(1,))

    dtype = jnp.float64 if options.dtype == "f64" else jnp.float32
    rows = []
    for n in map(int, options.sizes.split(",")):
        fitting = {name: solver for name, solver in solvers.items() if n <= solver.max_n}
        of_n = measure(n, fitting, options, dtype)
        for row in of_n:
            print(json.dumps(row), flush=True)
        rows += of_n
    title = f"{options.dtype}, {options.tol}, {options.starts} starts; the best JAX peer in bold"
    title += f"\n{jax.devices()[0].device_kind}, jax {jax.__version__}"
    print(f"\n{title}\n\n{report(rows)}")
    if options.out:
        Path(options.out).write_text(json.dumps(rows, indent=0))


if __name__ == "__main__":
    main()
