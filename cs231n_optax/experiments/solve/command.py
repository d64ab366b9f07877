"""The command ``solve``: its options, and their errors."""

from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import optax
import typer

from cs231n_optax import _checks
from cs231n_optax.experiments import catalog, files, interrupts, options
from cs231n_optax.experiments.catalog import LARGEST_DIM, MEMORY_SIZE, METHODS, PROBLEMS, SEARCHES
from cs231n_optax.experiments.console import consoles, print_written
from cs231n_optax.experiments.errors import InputError
from cs231n_optax.experiments.options import count, flag, one_of, option
from cs231n_optax.experiments.solve import experiment, report
from cs231n_optax.experiments.solve.experiment import Setting
from cs231n_optax.problems.landscapes import Landscape

EXAMPLES = """Examples:
  cs231n-optax solve rosenbrock
      L-BFGS through the curved valley
  cs231n-optax solve taco-shell --method sgd --learning-rate 0.0195
      the zigzag of the lecture
  cs231n-optax solve himmelblau --method gd --start -1,-1
      which of the four minima?
  cs231n-optax solve saddle --method newton
      from a saddle point, where the gradient is zero
  cs231n-optax solve rosenbrock --dim 1000 --max-evals 10000
      a thousand variables
  cs231n-optax solve softmax-regression --method adam --dtype float32
      Adam on a convex problem
"""

_ALL_METHODS = SEARCHES | METHODS

_PROBLEM = (
    f"The function: one of {', '.join(PROBLEMS)}. The two regressions are on all 1,437 training "
    "images of scikit-learn's digits, odd against even and all ten, with an L2 penalty."
)
_METHOD = f"The method: one of {', '.join(_ALL_METHODS)}."
_DIM = f"Number of variables of rosenbrock, 2 to {LARGEST_DIM}; 2 by default."
_START = "The first point, a number for each variable; by default the usual one of the problem."
_LEARNING_RATE = (
    f"The learning rate of {', '.join(METHODS)}. The default is the best of a grid for the method "
    "and the problem from its usual start, for rosenbrock with two variables."
)
_MEMORY_SIZE = f"Number of past steps that lbfgs keeps; {MEMORY_SIZE} by default."
_TOL = "End when max |∇f| <= X max(1, max |∇f| at the start)."
_MAX_EVALS = "Largest number of evaluations of the value and the gradient."
_DTYPES = ("float32", "float64")
_DTYPE = f"The precision: {' or '.join(_DTYPES)}."


def solve(
    problem: Annotated[
        str, typer.Argument(parser=one_of(PROBLEMS), metavar="PROBLEM", help=_PROBLEM)
    ],
    method: Annotated[str, option(one_of(_ALL_METHODS), "METHOD", _METHOD)] = "lbfgs",
    dim: Annotated[int | None, option(count, "N", _DIM)] = None,
    start: Annotated[Any, option(options.point, "X,Y,...", _START)] = None,
    learning_rate: Annotated[
        float | None, option(options.learning_rate, "α", _LEARNING_RATE)
    ] = None,
    memory_size: Annotated[int | None, option(count, "M", _MEMORY_SIZE)] = None,
    tol: Annotated[float, option(options.nonnegative, "X", _TOL)] = 1e-5,
    max_evals: Annotated[int, option(count, "N", _MAX_EVALS)] = 1000,
    dtype: Annotated[str, option(one_of(_DTYPES), "DTYPE", _DTYPE)] = "float64",
    out: options.Out = Path("solve"),
    quiet: options.Quiet = False,
) -> int:
    """Minimise a test function and show every evaluation.

    All methods run in the same loop, with one value and one gradient per evaluation.
    lbfgs, bfgs and gd (descent along the gradient) choose trial points on a line, newton
    and newton-cg in a ball, and may reject some. The others take steps of a fixed learning
    rate and accept every point.

    The command prints the trace, thinned to 25 lines, and the result. The folder --out gets
    solve.csv (every evaluation), solve.json (configuration, versions, result) and a picture:
    in two dimensions path.png (the path through the contours), in more curves.png (the value
    and the gradient's norm against the evaluations).
    """
    files.check_writable(out, report.FILES)
    method_options = _method_options(method, problem, learning_rate, memory_size)
    landscape = _landscape(problem, dim, method)
    if tol > float(np.finfo(dtype).max):
        raise InputError(f"--tol {tol:g} is too large for {dtype}")
    setting = Setting(
        problem=landscape.name,
        start=_start(start, problem, landscape, dtype),
        method=method,
        method_options=method_options,
        dtype=dtype,
        tol=tol,
        max_evals=max_evals,
    )
    return _run(setting, landscape, _transformation(setting), out, quiet=quiet)


def _transformation(setting: Setting) -> optax.GradientTransformation:
    """Make the method; an InputError if its state would take more than 4 GiB."""
    n = len(setting.start)
    options = ", ".join(f"{flag(name)} {x:g}" for name, x in setting.method_options.items())
    request = f"{setting.method}{f' with {options}' if options else ''} on {n} variables"
    try:
        tx = _ALL_METHODS[setting.method](**setting.method_options)
        with jax.enable_x64(setting.dtype == "float64"):
            state = jax.eval_shape(tx.init, jax.ShapeDtypeStruct((n,), setting.dtype))
        size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
        _checks.fits_in_memory(f"{request} takes arrays", size, "make one of them smaller")
    except ValueError as error:
        raise InputError(str(error)) from error
    return tx


def _method_options(
    method: str, problem: str, learning_rate: float | None, memory_size: int | None
) -> dict[str, Any]:
    """Return the arguments of a method, with every default resolved."""
    if memory_size is not None and method != "lbfgs":
        raise InputError(f"--memory-size is for --method lbfgs, not for {method}")
    if method in METHODS:
        return {"learning_rate": learning_rate or catalog.SOLVE_RATES[problem][method]}
    if learning_rate is not None:
        raise InputError(f"--learning-rate: {method} chooses its steps by itself")
    return {"memory_size": memory_size or MEMORY_SIZE} if method == "lbfgs" else {}


def _landscape(problem: str, dim: int | None, method: str) -> Landscape:
    if dim is None:
        try:
            return PROBLEMS[problem]()
        except ImportError as error:
            raise InputError(str(error)) from error
    if problem != "rosenbrock":
        raise InputError(f"--dim is for rosenbrock: {problem} has a fixed dimension")
    if not 2 <= dim <= LARGEST_DIM:
        raise InputError(f"--dim must be from 2 to {LARGEST_DIM}, got {dim}")
    largest, instead = catalog.LARGEST_DENSE_DIM.get(method, (LARGEST_DIM, ""))
    if dim > largest:
        raise InputError(
            f"--dim {dim} is too large for {method}, which keeps N² numbers: at most {largest}, "
            f"or --method {instead}"
        )
    return PROBLEMS[problem](dim)


def _start(
    start: tuple[float, ...] | None, problem: str, landscape: Landscape, dtype: str
) -> tuple[float, ...]:
    if start is None:
        return tuple(landscape.x0.tolist())
    if len(start) != len(landscape.x0):
        numbers = "1 number" if len(start) == 1 else f"{len(start)} numbers"
        raise InputError(f"--start has {numbers}, but {problem} has {len(landscape.x0)} variables")
    if max(map(abs, start)) > float(np.finfo(dtype).max):
        raise InputError(f"--start has a number that is too large for {dtype}")
    return start


def _run(
    setting: Setting,
    landscape: Landscape,
    tx: optax.GradientTransformation,
    folder: Path,
    *,
    quiet: bool,
) -> int:
    """Solve, report and write."""
    out, err = consoles(quiet=quiet)
    interrupts.begin()
    report.introduce(setting, out)
    with report.Bar(setting, err) as bar:
        solution = experiment.run(landscape, tx, setting, interrupts.checking(bar.update))
        interrupts.finish()
    bar.end(solution)
    try:
        names = report.write(folder, setting, landscape, solution)
    finally:
        report.conclude(setting, solution, out)
    print_written(out, folder, names)
    return 0
