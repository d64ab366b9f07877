"""What a solver is to the benchmark, and the limits that apply to all solvers.

A solver is given by a *builder*: `build(fun, max_iters)` returns `solve(y0, gtol)`, and `solve`
returns `(y, n_fun_evals, n_grad_evals, converged)`, optionally followed by a dict of extras
(integers or short strings, such as `n_hess` or `nit`). The first call of `solve` compiles; later
calls only solve. `gtol` is an absolute bound on max|g| and must be a run-time (traced) value,
because one compiled `solve` is called with a loose and with a tight tolerance.

This module imports neither JAX nor a solver, so `score.py` runs without them.
"""

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
    """A solver and its conditions.

    Attributes:
      build: `build(fun, max_iters)` returns `solve(y0, gtol)`.
      family: the package that it comes from; a peer whose package is missing is left out.
      order: 1, or 2 if it uses Hessians or Hessian-vector products.
      max_n: problems with more variables are skipped.
    """

    build: Build
    family: str
    order: int = 1
    max_n: int = 10**9


def extras(result: tuple[Any, ...]) -> dict[str, Any]:
    """The dict of extras that `solve` returned; empty if there is none."""
    return dict(result[4]) if len(result) > 4 else {}
