"""1000 random starts of Rosenbrock's function at once: JAX solvers under one vmap, SciPy in a loop.

    python vmapped.py [f64|f32] [out.json] [--solvers a,b] [--tol tight] [--repeats 5]

The chained function in 2 and in 10 variables, from uniform starts in [-2, 2]; each lane stops at
max|g| <= 1e-5 (float32: 1e-3) x max(1, max|g| at its start), with --tol tight at 1e-8 (1e-5). The
first gradients are of 1e2 to 4e3, so the loose test in float32 passes far from the minimum.

The solvers take turns, each timed once a round, the order changing from round to round; one that
has used up --budget seconds sits out the rest. `ratio` is its median time over that of the best JAX
peer: the fastest among those that solve 99 % of the lanes.

A batch goes on until its last lane has stopped. `rounds` says for how many turns of its loop, for
the solvers whose every turn is one evaluation a lane (this library's): the most evaluations of a
lane. JSON lines as they come, then a table; out.json holds the same rows.
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
import worker

OURS = "cs231n_optax"
JAX_PEERS = ("optax", "jaxopt", "optimistix", "jaxscipy")


def rosenbrock(x: jax.Array) -> jax.Array:
    """The chained function; its minimum is 0, at ones."""
    return jnp.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def batched(name: str) -> Callable[[jax.Array, jax.Array], tuple[Any, Any]]:
    """A solver as a function of all starts and tolerances: (points, evaluations)."""
    solver = registry.SOLVERS[name]
    solve = solver.build(rosenbrock, registry.MAX_ITERS)
    if not solver.family.startswith("scipy"):
        batch = jax.jit(jax.vmap(solve))

        def run(starts: jax.Array, gtol: jax.Array) -> tuple[Any, Any]:
            result = jax.block_until_ready(batch(starts, gtol))
            return result[0], np.asarray(result[1])

        return run

    def loop(starts: jax.Array, gtol: jax.Array) -> tuple[Any, Any]:
        results = [solve(*lane) for lane in zip(np.asarray(starts), np.asarray(gtol), strict=True)]
        return np.stack([r[0] for r in results]), np.array([r[1] for r in results])

    return loop


def measure(
    n: int, names: list[str], options: argparse.Namespace, dtype: Any
) -> list[dict[str, Any]]:
    """One row a solver, on `n` variables."""
    rng = np.random.default_rng(0)
    starts = jnp.asarray(rng.uniform(-2, 2, (options.starts, n)), dtype)
    value, grad = jax.jit(jax.vmap(rosenbrock)), jax.jit(jax.vmap(jax.grad(rosenbrock)))
    scale = jnp.maximum(1.0, jnp.max(jnp.abs(grad(starts)), axis=1))
    gtol = registry.TOL[options.dtype][options.tol] * scale

    rows: dict[str, dict[str, Any]] = {}
    runs: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in names}

    def timed(name: str) -> tuple[Any, float]:
        start = time.perf_counter()
        result = runs[name](starts, gtol)
        return result, time.perf_counter() - start

    for name in names:
        row = rows[name] = {"dtype": options.dtype, "n": n, "solver": name}
        scipy = registry.SOLVERS[name].family.startswith("scipy")
        try:
            runs[name] = batched(name)
            if scipy:
                runs[name](starts[:1], gtol[:1])  # compiles the derivatives
            (points, evals), first = timed(name)
        except Exception as error:
            row["error"] = f"{type(error).__name__}: {error}"[:200]
            continue
        if scipy:
            seconds[name].append(first)
        points = jnp.asarray(points, dtype)
        row |= {
            "first_s": 0.0 if scipy else first,
            "solved": float(jnp.mean(jnp.max(jnp.abs(grad(points)), axis=1) <= gtol)),
            "global_min": float(jnp.mean(value(points) < 1e-3)),
            "evals_median": float(np.median(evals)),
            "evals_max": int(evals.max()),
        }
        if registry.SOLVERS[name].family == OURS:
            row["rounds"] = int(evals.max())

    running = [name for name in names if "error" not in rows[name]]
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
    """The fastest JAX peer that solves 99 % of the lanes, if there is one."""
    eligible = [
        row
        for row in rows
        if row["solved"] >= 0.99 and registry.SOLVERS[row["solver"]].family in JAX_PEERS
    ]
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
    """Measure, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dtype", nargs="?", choices=list(registry.TOL), default="f64")
    parser.add_argument("out", nargs="?", default="", help="a JSON file")
    parser.add_argument("--solvers", default="", help="names with commas between; default: all")
    parser.add_argument("--plugin", default="", help="a Python file that registers solvers")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--budget", type=float, default=10.0, help="seconds a solver and n")
    parser.add_argument("--tol", choices=["loose", "tight"], default="loose")
    parser.add_argument("--starts", type=int, default=1000)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    worker.set_up_jax(options.dtype)
    missing = registry.load_solvers(options.plugin)
    if missing:
        print("not installed, left out:", *missing)
    first_order = [name for name, solver in registry.SOLVERS.items() if solver.order == 1]
    names = [name for name in options.solvers.split(",") if name] or first_order
    if unknown := set(names) - set(registry.SOLVERS):
        parser.error(f"unknown: {sorted(unknown)}; known: {', '.join(registry.SOLVERS)}")

    dtype = jnp.float64 if options.dtype == "f64" else jnp.float32
    rows = []
    for n in (2, 10):
        rows += measure(n, names, options, dtype)
        for row in rows[-len(names) :]:
            print(json.dumps(row), flush=True)
    title = f"{options.dtype}, {options.tol}, {options.starts} starts; the best JAX peer in bold"
    print(f"\n{title}\n\n{report(rows)}")
    if options.out:
        Path(options.out).write_text(json.dumps(rows, indent=0))


if __name__ == "__main__":
    main()
