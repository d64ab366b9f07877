"""CUTEst's unconstrained problems, from sif2jax, and the catalogue that lists them."""

import importlib
import importlib.util
import json
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

from interface import HERE

PROBLEMS = Path(os.environ.get("SOLVER_BENCH_CATALOG", HERE / "problems.json"))


def load(name: str, module: str) -> tuple[Callable[[Any], Any], Any]:
    """The objective and the starting point of a problem.

    `import sif2jax` instantiates every problem, which takes about a minute. Its packages are put
    into `sys.modules` as bare namespaces, so that only the problem's own module is imported.
    """
    if "sif2jax" not in sys.modules:
        spec = importlib.util.find_spec("sif2jax")
        if spec is None or spec.origin is None:
            raise ImportError("the problems are in sif2jax: pip install -r requirements.txt")
        root = Path(spec.origin).parent
        for package in ("sif2jax", "sif2jax.cutest", "sif2jax.cutest._unconstrained_minimisation"):
            bare = types.ModuleType(package)
            bare.__path__ = [str(root.joinpath(*package.split(".")[1:]))]
            sys.modules[package] = bare
    problem = getattr(importlib.import_module(module), name)()
    args = problem.args
    return lambda y: problem.objective(y, args), problem.y0


def read_catalog(path: str | Path = PROBLEMS) -> list[dict[str, Any]]:
    """The catalogue's rows: name, module and n, the number of variables."""
    return json.loads(Path(path).read_text())


def write_catalog(path: str | Path) -> None:
    """Write a catalogue of all of sif2jax's unconstrained problems, each once."""
    import jax
    import sif2jax

    listed = sif2jax.unconstrained_minimisation_problems
    rows: dict[str, dict[str, Any]] = {}
    for problem in listed:
        name = type(problem).__name__
        n = sum(leaf.size for leaf in jax.tree.leaves(problem.y0))
        rows.setdefault(name, {"name": name, "module": type(problem).__module__, "n": int(n)})
    lines = ",\n".join(json.dumps(row) for row in rows.values())
    Path(path).write_text(f"[\n{lines}\n]\n")
    print(f"{len(listed)} listed, {len(rows)} distinct: {path}")
