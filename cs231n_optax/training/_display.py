"""Results as text: a name and a value per row, as SciPy prints them, and why a run ended."""

import textwrap
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from cs231n_optax import _tree
from cs231n_optax.globalization.trial import Status, find_trial
from cs231n_optax.second_order.bfgs import ScaleByBfgsState
from cs231n_optax.second_order.lbfgs import ScaleByLbfgsState
from cs231n_optax.second_order.newton import NewtonState
from cs231n_optax.second_order.newton_cg import NewtonCgState

WIDTH = 88  # columns
MAX_ROWS = 14
MAX_SIZE = 8  # of an array shown by its values
MAX_LEAVES = 4  # of a tree shown one by one


# Of `minimize`.


def minimize_text(result: Any) -> str:
    """A `MinimizeResult`."""
    rows: dict[str, str] = {}
    if is_readable(result.status) and np.isin(result.status, list(Status)).all():
        rows = {
            "message": result.message,
            "success": array(result.success),
            "status": _status_text(np.asarray(result.status)),
        }
    for name in ("params", "value", "grad", "grad_norm", "tolerance", "num_evals", "num_steps"):
        rows[name] = tree(getattr(result, name))
    if result.aux is not None:
        rows["aux"] = tree(result.aux)
    return table(rows | {"state": state(result.state)})


METHODS = {
    NewtonState: "newton",
    NewtonCgState: "newton_cg",
    ScaleByBfgsState: "bfgs",
    ScaleByLbfgsState: "lbfgs",
}


def method(state: Any) -> str:
    """The name of the second-order method of a state, or an empty one."""
    return next((name for kind, name in METHODS.items() if _tree.find(state, kind)), "")


def minimize_message(result: Any) -> str:
    """Why a run ended, or how many runs of a batch ended for which reason."""
    status = read_status(result, "message")
    return _run_message(result, status) if status.ndim == 0 else _batch_message(status)


def read_status(result: Any, name: str) -> np.ndarray:
    """The status of a result, for its property ``name``."""
    if not is_readable(result.status):
        raise TypeError(
            f"result.{name} needs the value of result.status, got {array(result.status)}: under "
            "jax.jit test result.status == cs231n_optax.Status.CONVERGED, or read it outside"
        )
    return np.asarray(result.status)


def _run_message(result: Any, status: np.ndarray) -> str:
    value, grad_norm, tolerance = map(array, (result.value, result.grad_norm, result.tolerance))
    small = result.grad_norm <= result.tolerance
    comparison = (
        f"max|grad| = {grad_norm} {'<=' if small else '>'} {tolerance} "
        "= atol + tol * max(1, max|grad at x0|)"
    )
    trial: Any = find_trial(result.state)
    if small and status != Status.CONVERGED and trial.predicted_decrease > 0:
        predicted = array(trial.predicted_decrease)
        comparison += f", but the method predicts that the value decreases by {predicted}"
    match Status(int(status)):
        case Status.RUNNING:
            return "The run has not ended."
        case Status.CONVERGED:
            own = "" if small else " within the tolerance of tx itself"
            return f"Converged{own}: {comparison}."
        case Status.STALLED:
            return f"Rounding errors prevent a further decrease: {comparison}."
        case Status.FAILED if result.num_evals == 1:
            return f"The value or gradient at x0 is not finite: {value}, max|grad| = {grad_norm}."
        case Status.FAILED:
            return (
                f"No step leads to a lower, finite value than {value}: the function may have no "
                f"lower bound, a kink or a wrong gradient, or the learning rate is too large. "
                f"{comparison}."
            )
        case Status.BUDGET:
            return f"All {array(result.num_evals)} evaluations (max_evals) are used: {comparison}."
        case Status.SADDLE:
            return f"The gradient is small, but some curvature negative: {comparison}."
        case Status.MISPLACED:
            return "The parameters were not where the last update sent them."
        case Status.UNBOUNDED:
            return (
                "The value falls without limit along a search direction: the function seems to "
                f"have no lower bound. The last accepted value is {value}."
            )
        case Status.STOPPED:
            return f"The callback asked for the end: {comparison}."


def _batch_message(status: np.ndarray) -> str:
    def part(member: Status) -> str:
        runs = np.argwhere(status == member).squeeze(1) if status.ndim == 1 else None
        count = f"{np.sum(status == member)} {member.name}"
        if runs is None or member == Status.CONVERGED:
            return count
        some = ", ".join(map(str, runs[:MAX_LEAVES]))
        return f"{count} (run {some}{', ...' if runs.size > MAX_LEAVES else ''})"

    return (
        f"{status.size} runs: {'; '.join(part(member) for member in Status if member in status)}."
    )


def _status_text(status: np.ndarray) -> str:
    if status.ndim == 0:
        return f"{Status(int(status)).name} ({status})"
    return array(status)


# Of `fit` and `sweep`.


def fit_text(result: Any) -> str:
    """A `FitResult`."""
    rows: dict[str, str] = {}
    if is_readable(result.state.nonfinite_step):
        rows["message"] = _fit_message(result)
    rows["params"] = tree(result.params)
    for name, values in result.history._asdict().items():
        text = None if name == "step" or values is None else _course(values)
        if text is not None:
            rows[f"history.{name}"] = text
    return table(rows | {"state": state(result.state)})


def _fit_message(result: Any) -> str:
    steps, ended = np.asarray(result.state.step), np.asarray(result.state.nonfinite_step)
    if ended.ndim:
        return (
            f"{ended.size} runs, {np.sum(ended >= 0)} of them ended by a loss that is not finite."
        )
    if ended >= 0:
        return f"The loss was not finite at step {ended}, which ended the run."
    message = f"{result.history.step.size} steps, {steps} in all."
    trial = find_trial(result.state.opt_state)
    if trial is not None and int(trial.status) != Status.RUNNING:
        name, num_evals = Status(int(trial.status)).name, int(trial.num_evals)
        message += f" The method ended with the status {name} after {num_evals} evaluations."
    return message


def _course(values: Any) -> str | None:
    """A column of the history: its first and its last number, and the least; None without any."""
    if not (is_readable(values) and values.ndim == 1 and values.size > MAX_SIZE):
        return tree(values)
    values = np.asarray(values)
    numbers = values[np.isfinite(values)]
    if not numbers.size:
        return None
    first, last, least = map(array, (numbers[0], numbers[-1], numbers.min()))
    return f"{brief(values)}, from {first} to {last}, at least {least}"


def sweep_text(result: Any) -> str:
    """A `SweepResult`."""
    columns = jax.tree.leaves_with_path(result._asdict())
    return table({_path(path): _range(column) for path, column in columns})


def _range(column: np.ndarray) -> str:
    """A column of a table: the range of its finite numbers."""
    if column.ndim != 1 or column.size <= MAX_SIZE or column.dtype.kind not in "iuf":
        return array(column)
    finite = column[np.isfinite(column)]
    text = brief(column)
    if finite.size:
        text += f", {array(finite.min())} to {array(finite.max())}"
    if finite.size < column.size:
        text += f", {column.size - finite.size} not finite"
    return text


# Parts.


def table(rows: Mapping[str, str]) -> str:
    """One row per name, the names aligned to the right; at most `MAX_ROWS`."""
    shown = list(rows) if len(rows) <= MAX_ROWS else list(rows)[: MAX_ROWS - 1]
    margin = max(map(len, shown), default=0)
    lines = [
        textwrap.fill(
            f"{name:>{margin}}: {rows[name]}",
            WIDTH,
            subsequent_indent=" " * (margin + 2),
            drop_whitespace=True,
            break_on_hyphens=False,
            break_long_words=False,
        )
        for name in shown
    ]
    if len(shown) < len(rows):
        lines.append(f"and {len(rows) - len(shown)} more rows")
    return "\n".join(lines)


def tree(tree: Any) -> str:
    """The first arrays of a tree, each with its path."""
    leaves = jax.tree.leaves_with_path(tree)
    parts = [
        f"{_path(path)}: {array(leaf)}" if path else array(leaf)
        for path, leaf in leaves[:MAX_LEAVES]
    ]
    if len(leaves) > MAX_LEAVES:
        size = sum(getattr(leaf, "size", 1) for _, leaf in leaves)
        parts.append(f"... {len(leaves)} arrays of {size:,} numbers in all")
    return ", ".join(parts) if parts else "no arrays"


def state(state: Any) -> str:
    """A state by its type and its size."""
    leaves = jax.tree.leaves(state)
    size = sum(getattr(leaf, "nbytes", 0) for leaf in leaves if is_readable(leaf))
    return f"{type(state).__name__}, {len(leaves)} arrays of {size:,} bytes"


def array(x: Any) -> str:
    """A small array by its values, any other by its dtype and shape."""
    if not is_readable(x):
        return brief(x)
    values = np.asarray(x)
    if values.size > MAX_SIZE:
        return brief(values)
    if values.ndim == 0:
        return f"{values.item():.6g}" if values.dtype.kind in "fc" else str(values)
    return " ".join(np.array2string(values, precision=5).split())


def brief(x: Any) -> str:
    """The dtype and shape of an array, or what else it is."""
    if not hasattr(x, "dtype"):
        return type(x).__name__
    return f"{x.dtype}[{','.join(map(str, x.shape))}]"


def is_readable(x: Any) -> bool:
    """Whether an array has values here: it is not traced, deleted, or on other hosts."""
    if isinstance(x, jax.Array):
        readable = not isinstance(x, Tracer) and x.is_fully_addressable
        return readable and not x.is_deleted() and not jnp.issubdtype(x.dtype, jax.dtypes.extended)
    return isinstance(x, np.ndarray | np.generic | int | float | complex)


def _path(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
