"""Full-batch, smooth, unconstrained minimisers on the CUTEst problems of sif2jax.

python bench.py run --solvers cs231n_lbfgs,optax_lbfgs --out f64.jsonl [--timed] [--jobs 2]
python bench.py run --dtype f32 --out f32.jsonl
python bench.py verify --solvers cs231n_lbfgs    # the solvers' counters against executed ones
python bench.py catalog --out all.json           # list all of sif2jax's problems (a slow import)

`run` appends one line of JSON for each problem and solver (`worker.py` describes it) and skips what
the file already holds, so a run can be resumed. What a solver says about convergence is recorded,
but the gradient at the returned point decides. README.md explains how to register a solver of your
own.
"""

import argparse
import json
import os
import queue
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import problems
import registry
import verify
import worker
from interface import TOL, Solver
from registry import register  # for plugins: `from bench import register`

__all__ = ["register"]

DEFAULT_VERIFIED = ["CUBE", "HELIX", "BIGGS6"]


def finished(path: Path) -> tuple[set[tuple[Any, ...]], set[tuple[str, str]]]:
    """The (problem, solver, dtype) a file holds, and the (problem, dtype) that can't be evaluated.

    An incomplete last line, from a run that was killed, is removed from the file.
    """
    done, broken = set(), set()
    if path.exists():
        text = path.read_text()
        if text and not text.endswith("\n"):
            text = text[: text.rfind("\n") + 1]
            path.write_text(text)
        for record in map(json.loads, text.splitlines()):
            done.add((record["problem"], record["solver"], record["dtype"]))
            if record["solver"] is None and not record["ok"]:
                broken.add((record["problem"], record["dtype"]))
    return done, broken


def run(options: argparse.Namespace, solvers: dict[str, Solver]) -> None:
    """Run the solvers on the chosen problems and append the records to a file."""
    rows = [row for row in problems.read_catalog(options.catalog) if row["n"] <= options.max_n]
    if options.problems:
        rows = [row for row in rows if row["name"] in options.problems]
    random.Random(0).shuffle(rows)  # a run that is cut short is then a fair sample
    path, start = Path(options.out), time.monotonic()
    done, broken = finished(path)
    todo: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    for row in rows:
        todo.put(row)
    lock, stop, num_finished = threading.Lock(), threading.Event(), 0
    children: list[worker.Worker] = []

    def run_problem(row: dict[str, Any], child: worker.Worker | None) -> worker.Worker | None:
        """Evaluate the start (solver None), then run each solver; returns the last child."""
        name = row["name"]
        for solver in [None, *solvers]:
            if stop.is_set() or (name, options.dtype) in broken:
                break
            if (name, solver, options.dtype) in done:
                continue
            record = {"problem": name, "n": row["n"], "solver": solver, "dtype": options.dtype}
            if solver and row["n"] > solvers[solver].max_n:
                record |= {"ok": False, "error": "skipped: n > max_n"}
            else:
                if child is None or not child.alive():
                    child = worker.Worker(options.dtype, options.timed, options.plugin)
                    children.append(child)
                record |= child.job(problem=name, module=row["module"], solver=solver)
            if stop.is_set():
                break
            with lock:
                file.write(json.dumps(record) + "\n")
                file.flush()
                if solver is None and not record["ok"]:
                    broken.add((name, options.dtype))
        return child

    def run_problems() -> None:
        """Take problems from the queue until it is empty."""
        nonlocal num_finished
        child = None
        while not stop.is_set():
            try:
                row = todo.get_nowait()
            except queue.Empty:
                break
            child = run_problem(row, child)
            with lock:
                num_finished += 1
                progress = f"{time.monotonic() - start:7.0f}s {num_finished}/{len(rows)}"
                print(f"{progress} {row['name']} n={row['n']}", flush=True)

    with path.open("a") as file, ThreadPoolExecutor(options.jobs) as pool:
        try:
            for future in [pool.submit(run_problems) for _ in range(options.jobs)]:
                future.result()
        finally:
            stop.set()
            for child in children:
                child.kill()
    for child in children:  # a thread may have started one meanwhile
        child.kill()


def main() -> None:
    """Read the command line and run its command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["run", "verify", "catalog", "worker"])
    parser.add_argument("--dtype", choices=list(TOL), default="f64")
    parser.add_argument("--out", default="", help="default: DTYPE.jsonl; catalog: catalog.json")
    registry.add_options(parser)
    parser.add_argument(
        "--problems",
        type=registry.comma_separated,
        default=[],
        help=f"default: all; verify: {','.join(DEFAULT_VERIFIED)}",
    )
    parser.add_argument("--max-n", type=int, default=2000, help="most variables (default: 2000)")
    parser.add_argument("--timed", action="store_true", help="time each solver again, compiled")
    parser.add_argument("--jobs", type=int, default=1, help="problems at a time, a process each")
    parser.add_argument("--catalog", default=problems.PROBLEMS, help="the list of problems")
    options = parser.parse_args()

    if options.command == "catalog":
        worker.set_up_jax("f64")
        problems.write_catalog(options.out or "catalog.json")
        return
    if options.command == "worker":
        worker.serve(options.dtype, options.timed, options.plugin)
        return
    worker.set_up_jax(options.dtype if options.command == "run" else "f64")
    solvers = registry.chosen(parser, options, orders=(1, 2))
    catalog = {row["name"]: row for row in problems.read_catalog(options.catalog)}
    if unknown := set(options.problems) - catalog.keys():
        parser.error(f"not in {os.path.relpath(options.catalog)}: {sorted(unknown)}")
    if options.command == "run":
        options.out = options.out or f"{options.dtype}.jsonl"
        # SIGTERM then raises KeyboardInterrupt, so that the children are killed, too
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        run(options, solvers)
    else:
        names = options.problems or DEFAULT_VERIFIED
        agree = verify.verify([catalog[name] for name in names], solvers)
        raise SystemExit(0 if agree else 1)


if __name__ == "__main__":
    main()
