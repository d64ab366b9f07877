"""A progress bar for the loops, in terminals and notebooks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cs231n_optax import _checks
from cs231n_optax.globalization.trial import Status


class Reading(NamedTuple):
    """What a bar shows of a run.

    Attributes:
      unit: what it counts.
      done, total: how many of them.
      text: the latest numbers.
      ended: whether the run ends here.
      success: whether it has reached what it was to reach, even if ``done < total``.
    """

    unit: str
    done: int
    total: int
    text: str
    ended: bool
    success: bool


def progress_bar(callback: Callable[[Any], Any] | None = None) -> Callable[[Any], Any]:
    """A callback of `fit`, `minimize`, `minimize_batch` or `sweep` that draws a progress bar.

    The bar shows the loss or value and the gradient norm; of a batch, the least value. The package
    tqdm draws it, in a terminal as text, in a notebook as a widget.

    The bar is closed at the end of the run: after its last step or row, at a final status (of all
    runs of a batch), and where ``callback`` returns True or raises. An end that no callback sees
    (an iterator without further batches, an exception in the loss) leaves the bar open until the
    next run begins or the callback is deleted. One callback serves several runs, one after the
    other; each gets a new bar.
    It can't tell the runs of a batch under `jax.vmap` apart.

    Args:
      callback: another callback of the loop, called after the bar has been drawn. What it returns
        is returned, so that it may stop the run.

    Returns:
      The callback.

    Raises:
      ImportError: if tqdm is not installed.
      TypeError: if ``callback`` is not a function.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp
      >>> def close_enough(progress): return progress.value < 0.01
      >>> result = cs231n_optax.minimize(
      ...     lambda x: jnp.sum(x**4), jnp.ones(3), cs231n_optax.lbfgs(),
      ...     callback=cs231n_optax.progress_bar(close_enough))
      >>> cs231n_optax.Status(int(result.status)).name
      'STOPPED'
    """
    if callback is not None:
        _checks.function("callback", callback)
    tqdm = _import_tqdm()
    bar, first_step = None, 0

    def close(*, full: bool = False) -> None:
        nonlocal bar
        if bar is not None:
            if full:
                bar.total = bar.n
            bar.close()
            bar = None

    def draw(progress: Any) -> Any:
        nonlocal bar, first_step
        if bar is None or _begins(progress, bar.n + first_step):
            close()
            first_step = int(progress.step[0]) if hasattr(progress, "step") else 0
        reading = _read(progress, first_step)
        if bar is None:
            bar = tqdm(
                total=reading.total, initial=reading.done, unit=reading.unit, dynamic_ncols=True
            )
        bar.set_postfix_str(reading.text, refresh=False)
        bar.update(reading.done - bar.n)

        try:
            stop = None if callback is None else callback(progress)
        except BaseException:
            close()
            raise
        if stop or reading.ended:
            close(full=bool(stop) or reading.success)
        return stop

    return draw


def _import_tqdm() -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        message = "progress_bar needs the package tqdm: pip install tqdm"
        raise ImportError(message) from None
    return tqdm


def _begins(progress: Any, reached: int) -> bool:
    """Whether this is the first report of a run, and not the next after ``reached``."""
    if hasattr(progress, "num_runs"):  # a round may end no run
        return progress.num_ended < reached
    if hasattr(progress, "num_evals"):
        return progress.num_evals <= reached
    if hasattr(progress, "num_rows"):
        return progress.num_finished <= reached
    return progress.step[0] != reached


def _read(progress: Any, first_step: int) -> Reading:
    """The reading of a progress record of any of the loops."""
    if hasattr(progress, "num_runs"):
        done, total = int(progress.num_ended), int(progress.num_runs)
        least = progress.value[np.isfinite(progress.value)].min(initial=np.inf)
        text = f"least value {least:.3e}, {progress.num_evals} evaluations"
        return Reading(" runs", done, total, text=text, ended=done == total, success=False)
    if hasattr(progress, "num_evals"):
        status = Status(int(progress.status))
        text = f"value {progress.value:.3e}, grad_norm {progress.grad_norm:.3e}"
        return Reading(
            unit=" evaluations",
            done=int(progress.num_evals),
            total=int(progress.max_evals),
            text=text if status == Status.RUNNING else f"{text}, {status.name}",
            ended=status != Status.RUNNING,
            success=status == Status.CONVERGED,
        )
    if hasattr(progress, "num_rows"):
        done, total = int(progress.num_finished), int(progress.num_rows)
        return Reading(" rows", done, total, text="", ended=done == total, success=False)
    done = int(progress.step[-1]) + 1 - first_step
    return Reading(
        unit=" steps",
        done=done,
        total=progress.num_steps,
        text=f"loss {progress.loss[-1]:.3e}, grad_norm {progress.grad_norm[-1]:.3e}",
        ended=done >= progress.num_steps or bool(progress.state.nonfinite_step >= 0),
        success=False,
    )
