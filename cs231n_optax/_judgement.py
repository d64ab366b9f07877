"""What a trial came to, however the method chooses its trials.

A line search or a trust region says whether a trial was good enough. Here that becomes the next
anchor, the status and the record of progress. The checks of what comes to ``update`` stand here,
too.
"""

import enum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cs231n_optax import _checks, _tree
from cs231n_optax._precision import is_inexact, kind
from cs231n_optax._trial import Status, Trial

MAX_REISSUES = 4  # of a trial to which the parameters were not brought
PLACED = 8  # ulp by which they may miss it
PATIENCE = 20  # accepted steps without a better value or gradient than ever before
NOISE = 10  # ε |f(x₀)|: how far values may rise by rounding, see `noise`

RUNNING, CONVERGED, STALLED, FAILED, SADDLE, MISPLACED = (
    np.int32(status)
    for status in (
        Status.RUNNING,
        Status.CONVERGED,
        Status.STALLED,
        Status.FAILED,
        Status.SADDLE,
        Status.MISPLACED,
    )
)


class Answer(enum.IntEnum):
    """What a method says about its last trial; all but TRY end a search."""

    TRY = 0
    ACCEPT = 1
    FAIL = 2


class Progress(NamedTuple):
    """What a method with trials remembers from step to step: scalars.

    Attributes:
      start_value: |f| at the first point.
      credit: how far the value may rise by noise: the last decrease, halved at every step since.
      best_value, best_grad_norm: the least so far, of accepted points.
      idle_steps: int32, accepted steps since one of them was last improved.
      reissues: int32, times that the current trial has been issued again.
      last_resort: bool, whether the next failure is final.
    """

    start_value: jax.Array
    credit: jax.Array
    best_value: jax.Array
    best_grad_norm: jax.Array
    idle_steps: jax.Array
    reissues: jax.Array
    last_resort: jax.Array


class Verdict(NamedTuple):
    """What a trial came to: scalars, as far as not explained in `Trial`.

    Attributes:
      accept: the trial was good enough.
      restart: the method has failed, and shall begin again from the old anchor.
      turn: either of them, so there is a new direction.
      move: the trial is the new anchor; the first point is, whatever it is.
      value, grad_norm: at the anchor.
      decrease: of the value, by this step.
    """

    accept: jax.Array
    restart: jax.Array
    turn: jax.Array
    move: jax.Array
    value: jax.Array
    grad_norm: jax.Array
    decrease: jax.Array
    status: jax.Array
    num_evals: jax.Array
    progress: Progress


def first_progress(dtype: Any) -> Progress:
    """The progress before the first update."""
    zero, none = jnp.zeros((), dtype), jnp.zeros((), jnp.int32)
    return Progress(zero, zero, zero, zero, none, none, jnp.zeros((), bool))


def no_verdict(trial: Trial, progress: Progress) -> Verdict:
    """That of a run which has ended: nothing changes."""
    no = jnp.zeros((), bool)
    return Verdict(
        accept=no,
        restart=no,
        turn=no,
        move=no,
        value=trial.anchor_value,
        grad_norm=trial.grad_norm,
        decrease=jnp.zeros_like(trial.anchor_value),
        status=trial.status,
        num_evals=trial.num_evals,
        progress=progress,
    )


def judge(
    old: Verdict,
    value: jax.Array,
    grad_norm: jax.Array,
    near: jax.Array,
    answer: jax.Array,
    fine: jax.Array,
    may_stop: jax.Array,
    saddle: jax.Array,
    *,
    may_restart: bool,
) -> Verdict:
    """What a trial comes to, a function of scalars for `in_one_kernel`.

    Args:
      old: `no_verdict`.
      value: at the trial.
      grad_norm: at the trial.
      near: whether the parameters are the trial that was issued.
      answer: the method's `Answer`; at the first point it does not count.
      fine: whether the method can go on from the trial.
      may_stop: see `Trial`, at the trial.
      saddle: see `Trial`, at the trial.
      may_restart: whether the first failure at an anchor is not yet final.
    """
    first, before = old.num_evals == 0, old.progress
    near |= first
    finite = fine & jnp.isfinite(value) & jnp.isfinite(grad_norm)
    accept = near & jnp.where(first, finite, answer == Answer.ACCEPT)
    failed = near & jnp.where(first, ~finite, answer == Answer.FAIL)
    restart = failed & ~first & ~before.last_resort if may_restart else jnp.zeros_like(failed)
    improved = first | (value < before.best_value) | (grad_norm < before.best_grad_norm)
    better = accept & improved
    idle_steps = jnp.where(better, 0, before.idle_steps + accept.astype(jnp.int32))
    reissues = jnp.where(near, 0, before.reissues + 1)
    level = ~first & (jnp.abs(value - old.value) <= noise_floor(old.value, noise(before)))
    decrease = jnp.where(accept & ~first, old.value - value, 0)
    num_evals: Any = optax.safe_increment(old.num_evals)
    stops = accept & (grad_norm == 0) & may_stop
    status = jnp.where(stops, jnp.where(saddle, SADDLE, CONVERGED), old.status)
    status = jnp.where(idle_steps >= PATIENCE, STALLED, status)
    status = jnp.where(failed & ~restart, jnp.where(level, STALLED, FAILED), status)
    status = jnp.where(reissues > MAX_REISSUES, MISPLACED, status)
    return Verdict(
        accept=accept,
        restart=restart,
        turn=accept | restart,
        move=accept | first,
        value=jnp.where(accept | first, value, old.value),
        grad_norm=jnp.where(accept | first, grad_norm, old.grad_norm),
        decrease=decrease,
        status=status,
        num_evals=num_evals,
        progress=Progress(
            start_value=jnp.where(first, jnp.abs(value), before.start_value),
            credit=jnp.where(accept, jnp.maximum(decrease, before.credit / 2), before.credit),
            best_value=_least(better, first, value, before.best_value),
            best_grad_norm=_least(better, first, grad_norm, before.best_grad_norm),
            idle_steps=idle_steps,
            reissues=reissues,
            last_resort=jnp.where(accept, False, before.last_resort | restart),
        ),
    )


def _least(better: jax.Array, first: jax.Array, new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(better, jnp.where(first, new, jnp.minimum(new, old)), old)


def noise(progress: Progress) -> jax.Array:
    """How far the value may rise by rounding.

    Rounding in f is as large as in the largest terms that it sums, and they may be as large as
    |f(x₀)|: so rises of 10 ε |f(x₀)| may be noise. But all rises since the value last fell never
    add up to more than twice that fall.
    """
    eps = np.finfo(progress.credit.dtype).eps
    return jnp.minimum(NOISE * eps * progress.start_value, progress.credit)


def noise_floor(value: jax.Array, noise: Any) -> jax.Array:
    """How far two values may differ and yet be equal to rounding: at least 2 ε |value|."""
    return jnp.maximum(2 * np.finfo(value.dtype).eps * jnp.abs(value), noise)


def next_trial(
    old: Trial,
    verdict: Verdict,
    anchor_params: optax.Params,
    anchor_grad: optax.Updates,
) -> Trial:
    """The record after a verdict, but for what only the method knows."""
    return old._replace(
        anchor_params=anchor_params,
        anchor_value=verdict.value,
        anchor_grad=anchor_grad,
        grad_norm=verdict.grad_norm,
        accepted=jnp.where(old.status == RUNNING, verdict.accept, old.accepted),
        status=verdict.status,
        num_evals=verdict.num_evals,
    )


# What comes to `init` and `update`.


def check_params(method: str, params: optax.Params) -> None:
    """Refuse parameters in which a trial could not be reached by adding."""
    for path, leaf in jax.tree.leaves_with_path(params):
        if not is_inexact(leaf) or jnp.finfo(jnp.result_type(leaf)).bits < 32:
            raise TypeError(
                f"{method} needs floating parameters of 32 bits or more, but params"
                f"{jax.tree_util.keystr(path)} is {kind(leaf)}: keep them in float32, and cast "
                "them in the loss"
            )


def check_update(
    method: str, value: Any, grads: Any, params: Any, anchor: Any
) -> tuple[jax.Array, Any, Any]:
    """Refuse what does not fit what ``init`` saw; all as arrays, the value of the right dtype."""
    if value is None:
        raise TypeError(
            f"{method} needs the loss at params: update(grads, state, params, value=...)"
        )
    if params is None and jax.tree.leaves(anchor):
        raise ValueError(f"{method} needs the parameters: update(grads, state, params, ...)")
    grads, params = _checks.arrays("gradient", grads), _checks.arrays("parameter", params)
    _tree.check_like("gradients", grads, anchor)
    if params is not None:
        _tree.check_like("parameters", params, anchor)
    value = _checks.real_array("value", value)
    if value.shape:
        raise TypeError(f"value must be a real scalar, got {_tree.brief(value)}")
    return _tree.cast(value, _tree.scalar_dtype(anchor)), grads, params


def is_placed(params: Any, anchor: Any, direction: Any, step: jax.Array) -> jax.Array:
    """Whether the parameters are the trial anchor + step · direction, to rounding.

    They were brought there by adding, from wherever they were: a miss of a few ulp of the anchor,
    of the trial, or of the way between them is due to that.
    """

    def leaf(x: jax.Array, a: jax.Array, d: jax.Array) -> jax.Array:
        way = _tree.cast(step, d.dtype) * d
        tolerance = PLACED * np.finfo(x.dtype).eps * (jnp.abs(a) + jnp.abs(way))
        return jnp.all(jnp.abs(x - (a + way)) <= tolerance)

    return _tree.every(leaf, params, anchor, direction)
