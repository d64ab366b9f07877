"""Minimisation of a function: any Optax transformation, one compiled loop."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cs231n_optax import _checks, _tree
from cs231n_optax._batching import any_in_batch, fused_if
from cs231n_optax.averaging.accepted_points import on_accepted_points, refuse_rejected_points
from cs231n_optax.globalization.trial import (
    Status,
    Trial,
    always_accepting,
    find_trial,
    reset_run,
    with_status,
)
from cs231n_optax.second_order.hessian import hvp

RUNNING, CONVERGED, BUDGET, SADDLE = (
    np.int32(status) for status in (Status.RUNNING, Status.CONVERGED, Status.BUDGET, Status.SADDLE)
)
GAIN = 100  # times the relative tolerance of the gradient: that of the value, see `minimize`


class MinimizeResult(NamedTuple):
    """What `minimize` returns.

    Attributes:
      params: the last accepted point: after CONVERGED, the solution.
      value: scalar, the function there.
      grad: the gradient there, the tree of the parameters.
      status: int32 scalar, a `Status`: CONVERGED, or why it ended.
      num_evals: int32 scalar, evaluations of the value and the gradient, always together (those
        that ``tx`` does by itself, as Optax's line searches do, are not counted).
      num_steps: int32 scalar, accepted points after the first.
      aux: what the function returned beside its value there; None without ``has_aux``.
      state: the transformation's, for ``minimize(..., state=...)``.
    """

    params: Any
    value: jax.Array
    grad: Any
    status: jax.Array
    num_evals: jax.Array
    num_steps: jax.Array
    aux: Any
    state: optax.OptState


class MinimizeProgress(NamedTuple):
    """What a callback of `minimize` hears after each evaluation.

    Attributes:
      num_evals: int, so far.
      params: the last accepted point.
      value: the value there.
      grad_norm: the largest modulus of its gradient's elements.
      accepted: bool, whether this evaluation's point was accepted.
      trial_params: that point.
      trial_value: the value there.
    """

    num_evals: Any
    params: Any
    value: Any
    grad_norm: Any
    accepted: Any
    trial_params: Any
    trial_value: Any


class Account(NamedTuple):
    """The loop's own scalars."""

    tolerance: jax.Array
    value_tolerance: jax.Array
    num_steps: jax.Array
    status: jax.Array


def minimize(
    fun: Callable[..., Any],
    x0: Any,
    tx: optax.GradientTransformation,
    *,
    args: tuple[Any, ...] = (),
    tol: jax.typing.ArrayLike = 1e-5,
    atol: jax.typing.ArrayLike = 0.0,
    max_evals: jax.typing.ArrayLike = 1000,
    has_aux: bool = False,
    state: optax.OptState | None = None,
    averaging: optax.GradientTransformation | None = None,
    callback: Callable[[MinimizeProgress], Any] | None = None,
) -> MinimizeResult:
    """Minimise a function by any Optax transformation, until its gradient is small.

    The ordinary loop of an evaluation, ``tx.update`` and ``optax.apply_updates`` in one
    `jax.lax.while_loop`, ended at an accepted point with

        ‖∇f(x)‖∞ <= atol + tol · max(1, ‖∇f(x₀)‖∞)

    where `newton`, which can say what is left to gain, also asks that this be at most 100 times
    the tolerance, relative to ``1 + |f(x)|``, with the gradient's tolerance relative to
    max(1, ‖∇f(x₀)‖∞), and leaves a saddle. A first gradient that is huge says little by itself.

    Pure: under `jax.jit` and `jax.vmap` a lane that has ended stays as it is, and the batch goes on
    until the last one ends, an evaluation a round. The solution and the value may be
    differentiated with respect to ``args`` (and to arrays that ``fun`` closes over), forward and
    reverse, by the implicit function theorem; only of CONVERGED solves, at a minimum with a
    positive definite Hessian, does the derivative mean anything. ``x0``, the gradient, ``aux``
    and the state have the derivative 0.

    Each call by itself compiles anew. To call it often, put it under one `jax.jit`, with ``fun``
    and ``tx`` as closures:

        solve = jax.jit(lambda x0, args: minimize(fun, x0, tx, args=args))

    Args:
      fun: ``fun(x, *args) -> scalar``, differentiable.
      x0: tree of floating or complex arrays, where to start.
      tx: a transformation, of this library or another: `lbfgs`, `bfgs`, `adam`, ... One with a
        line search may evaluate trial points that it rejects. Its ``update`` is given ``value``,
        ``grad``, ``value_fn`` and, if it keeps a record of its trials, ``tolerance``: the largest
        element of a gradient that would end the run.
      args: further arguments of ``fun``, arrays or trees of them.
      tol: the relative tolerance, >= 0, a number or a scalar array (may be traced).
      atol: the absolute tolerance, >= 0, a number or a scalar array (may be traced).
      max_evals: evaluations at most, >= 1, a number or a scalar array (may be traced); then the
        status is BUDGET.
      has_aux: whether ``fun`` returns ``(value, aux)``.
      state: of an earlier result of the same ``tx`` and parameters' tree. The run begins again
        at ``x0`` with what the transformation has learnt, for a tighter tolerance, a larger
        budget, or other ``args``; so does the average of ``averaging``, which goes on.
      averaging: `polyak_average`, `snapshots` or a chain of them, shown every accepted point after
        the first. Read it with `averaged_params` or `snapshot_params` of ``result.state``.
      callback: called with `MinimizeProgress` after each evaluation; without it the loop never
        leaves the device. Under vmap it is called for each lane in each round, also for those
        that have ended.

    Returns:
      `MinimizeResult`.

    Raises:
      ValueError: if a Python ``tol``, ``atol`` or ``max_evals`` is out of its range, ``state`` is
        not one of ``tx`` and ``averaging``, or an average is chained to a ``tx`` that rejects
        points.
      TypeError: if ``fun`` does not return a real scalar, or with ``has_aux`` a pair of one and
        arrays; a parameter is not floating or complex, or one of ``args`` no array; ``tx`` or
        ``averaging`` is no transformation, or ``callback`` no function.

    Example:
      >>> import cs231n_optax, jax, jax.numpy as jnp, numpy as np
      >>> def fun(x, a): return jnp.sum((x - a) ** 2 + 0.1 * x**4)
      >>> def solve(a): return cs231n_optax.minimize(fun, 0 * a, cs231n_optax.lbfgs(), args=(a,))
      >>> result = jax.jit(solve)(jnp.array([1.0, 2.0]))
      >>> print(np.asarray(result.params).round(3), cs231n_optax.Status(int(result.status)).name)
      [0.869 1.423] CONVERGED
      >>> slopes = jax.grad(lambda a: solve(a).params.sum())(jnp.array([1.0, 2.0]))
      >>> print(np.asarray(slopes).round(3))
      [0.688 0.451]

    Source:
      The derivative: S. G. Krantz and H. R. Parks, "The Implicit Function Theorem", 2002; M.
      Blondel et al., "Efficient and modular implicit differentiation", NeurIPS 2022.

    Differs from:
      SciPy's ``minimize``, whose default tolerances end also where the value stops changing: that
      is STALLED here.
    """
    _checks.function("fun", fun)
    tx = _checks.transformation("tx", tx)
    if callback is not None:
        _checks.function("callback", callback)
    tol = _checks.nonnegative("tol", tol)
    atol = _checks.nonnegative("atol", atol)
    budget: Any = _checks.positive("max_evals", max_evals)
    has_aux = _checks.static_bool("has_aux", has_aux)
    if not isinstance(args, tuple | list):
        raise TypeError(f"args must be a tuple, got {type(args).__name__}: args=(a,) for one")
    if not isinstance(budget, jax.Array):
        budget = min(budget, _checks.MAX_INT)
    _checks.floating_tree("parameter", x0, "close over other arrays in fun")
    x0, args = _checks.arrays("x0", x0), _checks.arrays("args", tuple(args))

    def checked(*xs: Any) -> Any:
        out = fun(*xs)
        _check_output(out, has_aux)
        return out

    # What fun closes over becomes an argument, so that it can be differentiated, too.
    closed, consts = jax.closure_convert(checked, x0, *args)
    inputs = (*args, *consts)
    start, fixed = jax.tree.map(jax.lax.stop_gradient, (x0, inputs))
    result = _solve(
        closed, start, fixed, tx, averaging, tol, atol, budget, has_aux, state, callback
    )

    def scalar_fun(x: Any, inputs: tuple[Any, ...]) -> jax.Array:
        out = closed(x, *inputs)
        return out[0] if has_aux else out

    params, value = _with_derivatives(scalar_fun)(result.params, result.value, inputs)
    return result._replace(params=params, value=value)


def _solve(
    fun: Callable[..., Any],
    x0: Any,
    inputs: tuple[Any, ...],
    tx: optax.GradientTransformation,
    averaging: optax.GradientTransformation | None,
    tol: Any,
    atol: Any,
    max_evals: Any,
    has_aux: bool,
    state: optax.OptState | None,
    callback: Callable[[MinimizeProgress], Any] | None,
) -> MinimizeResult:
    tx = optax.with_extra_args_support(tx)
    kept = jax.eval_shape(tx.init, x0)
    refuse_rejected_points(kept)
    if find_trial(kept) is None:
        tx = always_accepting(tx)
    if averaging is not None:
        tx = on_accepted_points(tx, averaging)
    start = tx.init(x0)
    if state is not None:
        _checks.state(state, start)
        start = reset_run(state)

    def value_and_aux(x: Any) -> tuple[jax.Array, Any]:
        out = fun(x, *inputs)
        return out if has_aux else (out, None)

    evaluate = jax.value_and_grad(value_and_aux, has_aux=True)

    def account(old: Account, trial: Trial) -> Account:
        first, grad_norm = trial.num_evals == 1, trial.grad_norm
        absolute, relative = (jnp.asarray(x, grad_norm.dtype) for x in (atol, tol))
        unit = jnp.maximum(grad_norm, 1)
        limit = absolute + relative * unit
        tolerance = jnp.where(first, limit, old.tolerance)
        value_tolerance = jnp.where(first, GAIN * limit / unit, old.value_tolerance)
        level = trial.predicted_decrease <= value_tolerance * (1 + jnp.abs(trial.anchor_value))
        done = trial.accepted & trial.may_stop & (grad_norm <= tolerance) & level
        running = trial.status == RUNNING
        status = jnp.where(trial.saddle, SADDLE, CONVERGED)
        status = jnp.where(done & running, status, trial.status)
        spent = (status == RUNNING) & (trial.num_evals >= max_evals)
        return Account(
            tolerance=tolerance,
            value_tolerance=value_tolerance,
            num_steps=old.num_steps + (trial.accepted & ~first).astype(jnp.int32),
            status=jnp.where(spent, BUDGET, status),
        )

    def body(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        params, opt_state, old, old_aux = carry
        running = old.status == RUNNING
        (value, aux), grads = evaluate(params)
        grads = jax.tree.map(jnp.conj, grads)  # of a complex parameter: the direction of ascent
        updates, opt_state = tx.update(
            grads,
            opt_state,
            params,
            value=value,
            grad=grads,
            tolerance=old.tolerance,
            value_fn=lambda x: value_and_aux(jax.tree.map(_like, x, params))[0],
        )
        trial: Any = find_trial(opt_state)
        new, _ = fused_if(running, lambda old: (account(old, trial), None), old)
        if callback is not None:
            progress = MinimizeProgress(
                trial.num_evals,
                trial.anchor_params,
                trial.anchor_value,
                trial.grad_norm,
                trial.accepted,
                params,
                value,
            )
            jax.debug.callback(callback, progress)
        aux = _tree.select(running & trial.accepted, aux, old_aux)
        opt_state = with_status(opt_state, new.status)
        return optax.apply_updates(params, updates), opt_state, new, aux

    def running(carry: tuple[Any, ...]) -> jax.Array:
        return any_in_batch(carry[2].status == RUNNING)

    no_aux = _tree.zeros_like(jax.eval_shape(value_and_aux, x0)[1]) if has_aux else None
    zero = jnp.zeros((), _tree.scalar_dtype(x0))
    none = jnp.zeros((), jnp.int32)
    _, end, account_, aux = jax.lax.while_loop(
        running, body, (x0, start, Account(zero, zero, none, none), no_aux)
    )
    trial: Any = find_trial(end)
    return MinimizeResult(
        params=trial.anchor_params,
        value=trial.anchor_value,
        grad=trial.anchor_grad,
        status=trial.status,
        num_evals=trial.num_evals,
        num_steps=account_.num_steps,
        aux=aux,
        state=end,
    )


def _check_output(out: Any, has_aux: bool) -> None:
    if has_aux:
        if not isinstance(out, tuple | list) or len(out) != 2:
            raise TypeError(
                f"with has_aux=True fun must return (value, aux), got {_checks.brief(out)}"
            )
        out, aux = out
        _checks.arrays("aux", aux)
    _checks.real_scalar("fun", out)


def _like(x: jax.Array, param: jax.Array) -> jax.Array:
    return x.astype(param.dtype)  # optax.lbfgs evaluates in float64 under x64


def _with_derivatives(fun: Callable[[Any, tuple[Any, ...]], jax.Array]) -> Callable[..., Any]:
    """(x*, f(x*), inputs) -> (x*, f(x*)), with the derivatives of a minimum in the inputs.

    From ∇f(x*(θ), θ) = 0: dx* = -(∂²f/∂x²)⁻¹ (∂²f/∂x∂θ) dθ, and df = (∂f/∂θ) dθ.
    """

    @jax.custom_jvp
    def solution(params: Any, value: jax.Array, inputs: tuple[Any, ...]) -> tuple[Any, jax.Array]:
        del inputs
        return params, value

    @solution.defjvp
    def solution_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
        params, value = solution(*primals)  # which depend on the inputs: for higher derivatives
        inputs, dt = primals[2], tangents[2]
        x = _real_parts(params)

        def real_fun(x: Any, t: tuple[Any, ...]) -> jax.Array:
            return fun(_from_real_parts(x, params), t)

        grad = jax.grad(real_fun)
        _, slope = jax.jvp(lambda t: real_fun(x, t), (inputs,), (dt,))
        _, change = jax.jvp(lambda t: grad(x, t), (inputs,), (dt,))

        def product(v: Any) -> Any:
            return hvp(lambda x: real_fun(x, inputs), x, v)

        def conjugate_gradients(matvec: Callable[[Any], Any], b: Any) -> Any:
            eps = float(np.finfo(_tree.scalar_dtype(b)).eps)
            return jax.scipy.sparse.linalg.cg(matvec, b, tol=10 * eps)[0]

        direction = jax.lax.custom_linear_solve(
            product, change, conjugate_gradients, symmetric=True
        )
        direction = jax.tree.map(jnp.negative, _from_real_parts(direction, params))
        return (params, value), (direction, slope)

    return solution


# The Hessian in a complex number is one of its real and imaginary part: f is not holomorphic.


def _real_parts(tree: Any) -> Any:
    return jax.tree.map(lambda x: (x.real, x.imag) if jnp.iscomplexobj(x) else x, tree)


def _from_real_parts(parts: Any, like: Any) -> Any:
    return jax.tree.map(lambda x, p: jax.lax.complex(*p) if jnp.iscomplexobj(x) else p, like, parts)
