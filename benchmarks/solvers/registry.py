"""What a solver is to the benchmark, and the limits that all of them get.

A solver is registered by a *builder*: `build(fun, max_iters)` returns `solve(y0, gtol)`, which
returns `(y, n_fun_evals, n_grad_evals, converged)` and, if it likes, a fifth item: a dict of extras
(numbers or short strings, such as `n_hess` or `nit`). The two stages separate compiling, in the
first call of `solve`, from solving. `gtol` is an absolute bound on max|g|, and has to be a run-time
(traced) value: one compiled `solve` is called with a loose and with a tight one.

This module imports neither JAX nor a peer, so that reading a score needs none of them.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
MAX_ITERS = 2000
# relative to max(1, max|g| at the start)
TOL = {"f64": {"loose": 1e-5, "tight": 1e-8}, "f32": {"loose": 1e-3, "tight": 1e-5}}

Solve = Callable[[Any, Any], tuple[Any, ...]]
Build = Callable[[Callable[[Any], Any], int], Solve]


class Solver(NamedTuple):
    """A registered solver.

    Attributes:
      build: `build(fun, max_iters)` returns `solve(y0, gtol)`.
      family: the package it comes from.
      order: 1, or 2 if it uses Hessians or Hessian-vector products.
      max_n: it is skipped on problems with more variables.
    """

    build: Build
    family: str
    order: int = 1
    max_n: int = 10**9


SOLVERS: dict[str, Solver] = {}


def register(
    name: str, family: str, order: int = 1, max_n: int = 10**9
) -> Callable[[Build], Build]:
    """A decorator that enters a builder under a name; see `Solver` for the rest."""

    def enter(build: Build) -> Build:
        SOLVERS[name] = Solver(build, family, order, max_n)
        return build

    return enter


def load_file(path: str | Path) -> None:
    """Run a Python file that registers solvers."""
    spec = importlib.util.spec_from_file_location(f"solvers_{Path(path).stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"not a Python file: {path}")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def load_solvers(plugin: str = "") -> list[str]:
    """Register ours, the peers, and those of a plugin.

    JAX's platform and precision have to be set before (`worker.set_up_jax`).

    Args:
      plugin: the path of a Python file that does `from bench import register`; "" for none.

    Returns:
      The peers that are not installed, which are left out.
    """
    import ours  # noqa: F401
    import peers

    missing = peers.define()
    if plugin:
        load_file(plugin)
    return missing


def extras(result: tuple[Any, ...]) -> dict[str, Any]:
    """The extras that a `solve` returned, if it did."""
    return dict(result[4]) if len(result) > 4 else {}
