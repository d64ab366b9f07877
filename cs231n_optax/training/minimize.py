"""Minimisation of a function: any Optax transformation, one compiled loop."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jax.experimental import io_callback

from cs231n_optax import _checks, _tree
from cs231n_optax._batching import any_in_batch, fused_if, vary, varying_axes
from cs231n_optax._eager import compiled_when_eager
from cs231n_optax.averaging.accepted_points import on_accepted_points, refuse_rejected_points
from cs231n_optax.globalization.acceptance import gradient_tolerance, has_converged
from cs231n_optax.globalization.trial import (
    BUDGET,
    CONVERGED,
    RUNNING,
    SADDLE,
    STOPPED,
    Trial,
    always_accepting,
    find_trial,
    reset_run,
    with_status,
)
from cs231n_optax.second_order.hessian import hvp
from cs231n_optax.training import _display
from cs231n_optax.training.method import choose_method

POLL_SECONDS = 0.01


class MinimizeResult(NamedTuple):
    """What `minimize` returns.

    Attributes:
      params: the last accepted point; with the status CONVERGED, the solution.
      value: scalar, the function there.
      grad: the gradient there, the tree of the parameters; zero for leaves that ``tx`` freezes.
      status: int32 scalar, a `Status`: CONVERGED, or the reason why the run ended.
      num_evals: int32 scalar, evaluations of the value and the gradient, always together.
        Evaluations of ``value_fn`` by ``tx``, as in Optax's line searches, are not counted.
      num_steps: int32 scalar, accepted points after the first.
      aux: the auxiliary output of the function there; None without ``has_aux``.
      state: the state of the transformation, for ``minimize(..., state=...)``.
      grad_norm: scalar, the largest modulus of the gradient's elements.
      tolerance: scalar, the largest ``grad_norm`` at which the run converges.
    """

    params: Any
    value: jax.Array
    grad: Any
    status: jax.Array
    num_evals: jax.Array
    num_steps: jax.Array
    aux: Any
    state: optax.OptState
    grad_norm: jax.Array
    tolerance: jax.Array

    @property
    def success(self) -> Any:
        """Whether the run CONVERGED, a bool; an array of them for a batch. Not under `jax.jit`."""
        success = _display.read_status(self, "success") == CONVERGED
        return success if success.ndim else bool(success)

    @property
    def message(self) -> str:
        """Why the run ended, a sentence; for a batch, a summary. Not under `jax.jit`."""
        return _display.minimize_message(self)

    @property
    def method(self) -> str:
        """The second-order method of the run: "newton", "lbfgs", ...; "" for any other."""
        return _display.method(self.state)

    def __repr__(self) -> str:
        return _display.minimize_text(self)


class MinimizeProgress(NamedTuple):
    """The argument of the callback of `minimize`, after each evaluation.

    Attributes:
      num_evals: int, evaluations so far.
      params: the last accepted point.
      value: the value there.
      grad_norm: the largest modulus of its gradient's elements.
      accepted: bool, whether this evaluation's point was accepted.
      trial_params: that point.
      trial_value: the value there.
      max_evals: the largest number of evaluations, that of `minimize`.
      status: int, the `Status` after this evaluation: RUNNING, or why the run ends here.
    """

    num_evals: Any
    params: Any
    value: Any
    grad_norm: Any
    accepted: Any
    trial_params: Any
    trial_value: Any
    max_evals: Any
    status: Any


class Problem(NamedTuple):
    """The function, the method and the limits of one solve.

    Attributes:
      fun: ``fun(x, *inputs)``.
      inputs: its arguments after x; whatever else it closed over is among them.
      has_aux: whether ``fun`` returns ``(value, aux)``.
      tx: the transformation, with a trial record in its state.
      tol, atol, max_evals: those of `minimize`.
      callback: that of `minimize`, if there is one.
    """

    fun: Callable[..., Any]
    inputs: tuple[Any, ...]
    has_aux: bool
    tx: optax.GradientTransformationExtraArgs
    tol: Any
    atol: Any
    max_evals: Any
    callback: "HostCallback | None"


class LoopState(NamedTuple):
    """The scalars that the loop keeps beside the state of the transformation.

    Attributes:
      tolerance: the largest ‖∇f(x)‖∞ at which the run converges.
      num_steps: int32, accepted points after the first.
      status: int32, a `Status`.
    """

    tolerance: jax.Array
    num_steps: jax.Array
    status: jax.Array


class Carry(NamedTuple):
    """What one evaluation hands to the next.

    Attributes:
      params: the next point to evaluate.
      opt_state: the state of the transformation.
      loop: the loop's own scalars.
      aux: the auxiliary output at the last accepted point.
    """

    params: Any
    opt_state: optax.OptState
    loop: LoopState
    aux: Any


def minimize(
    fun: Callable[..., Any],
    x0: Any,
    tx: optax.GradientTransformation | None = None,
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

    One `jax.lax.while_loop` evaluates the value and the gradient, calls ``tx.update`` and applies
    the updates. It converges at an accepted point x with

        ‖∇f(x)‖∞ <= atol + tol · max(1, ‖∇f(x₀)‖∞)

    ``result.message`` tells both sides. A huge gradient at x₀ makes this condition weak. So a
    method with a quadratic model (`lbfgs`, `bfgs`, `newton`) must also predict that the value
    decreases by at most ``10 (tol + atol / max(1, ‖∇f(x₀)‖∞)) (1 + |f(x)|)`` from there. For a
    given gradient pass ``tol=0`` and ``atol``. `newton` does not stop at a saddle point that it
    can leave.

    Pure; it works under `jax.jit` and `jax.vmap`. In a batch each element takes one evaluation per
    round, and an element that has ended stays as it is until the last one ends.

    The solution and the value are differentiable with respect to ``args`` and to arrays that
    ``fun`` closes over, in forward and in reverse mode, by the implicit function theorem. The
    derivative is valid for a CONVERGED solve, at a minimum with a positive definite Hessian.
    ``x0``, the gradient, ``aux`` and the state have the derivative 0.

    The first call compiles. A call with the same ``fun``, ``tx`` and ``averaging``, the very same
    objects, and the same shapes does not compile again. So ``fun`` must be pure, as for `jax.jit`:
    pass what changes as ``args``. The last 32 functions are kept. With a callback each call
    compiles.

    Args:
      fun: ``fun(x, *args) -> scalar``, differentiable.
      x0: the starting point, a tree of floating or complex arrays. Leaves that ``tx`` freezes, by
        ``optax.partition`` and ``optax.set_to_zero``, may be integers.
      tx: an Optax transformation: `lbfgs`, `bfgs`, `adam`, ... None stands for `newton` if the
        Hessian is cheap, else `lbfgs`: it is if there are at most 200 parameters, and as many
        products of the Hessian and a vector take at most 10⁷ operations. ``result.method`` tells
        which. Its ``update`` receives ``value``,
        ``grad`` and ``value_fn``. If it rejects trial points, it also receives ``tolerance``, the
        largest ‖∇f‖∞ that would end the run.
      args: tuple of further arguments of ``fun``, arrays or trees of them.
      tol: relative tolerance, >= 0.
      atol: absolute tolerance, >= 0.
      max_evals: the largest number of evaluations, > 0; then the status is BUDGET.
      has_aux: whether ``fun`` returns ``(value, aux)``.
      state: ``state`` of an earlier result with the same ``tx``, ``averaging`` and tree of
        parameters. The run starts at ``x0`` and keeps the curvature information and the average,
        for example for a tighter tolerance, a larger budget, or other ``args``.
      averaging: `polyak_average`, `snapshots` or a chain of them, of the accepted points after
        the first. Read it with `averaged_params` or `snapshot_params` of ``result.state``.
      callback: called with `MinimizeProgress` after each evaluation; without it the loop never
        leaves the device. If it returns True, the run ends there, with the status STOPPED. What it
        raises `minimize` raises, but under `jax.jit` JAX raises an error of its own. Under vmap it
        is called for each element in each round, also for those that have ended, and ends that
        element.

    Returns:
      `MinimizeResult`.

    Raises:
      ValueError: if ``tol``, ``atol`` or ``max_evals`` is out of its range, ``state`` is not one
        of ``tx`` and ``averaging``, or an average is chained to a ``tx`` that rejects points.
      TypeError: if an argument is not of its type, or ``fun`` does not return a real scalar (with
        ``has_aux``, a pair of one and arrays).

    Example:
      >>> import cs231n_optax, jax, jax.numpy as jnp, numpy as np
      >>> def fun(x): return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2
      >>> x0 = jnp.array([-1.2, 1.0])
      >>> result = cs231n_optax.minimize(fun, x0, cs231n_optax.lbfgs(), tol=0, atol=1e-3)
      >>> print(result.success, result.params.round(2))
      True [1. 1.]
      >>> print(result.message)  # doctest: +ELLIPSIS
      Converged: max|grad| = ... <= 0.001 = atol + tol * max(1, max|grad at x0|).

      The derivative of a solution:

      >>> def fun(x, a): return jnp.sum((x - a) ** 2 + 0.1 * x**4)
      >>> def solve(a):
      ...     result = cs231n_optax.minimize(fun, 0 * a, cs231n_optax.bfgs(), args=(a,))
      ...     return result.params.sum(), result
      >>> slopes, result = jax.jit(jax.grad(solve, has_aux=True))(jnp.array([1.0, 2.0]))
      >>> print(np.asarray(result.params).round(3), cs231n_optax.Status(int(result.status)).name)
      [0.869 1.423] CONVERGED
      >>> print(np.asarray(slopes).round(3))
      [0.688 0.451]

    Source:
      The derivative: S. G. Krantz and H. R. Parks, "The Implicit Function Theorem", 2002; M.
      Blondel et al., "Efficient and modular implicit differentiation", NeurIPS 2022.

    Differs from:
      SciPy's ``minimize``, whose default tolerances also end a run whose value no longer changes:
      here that is STALLED, not CONVERGED.
    """
    _checks.function("fun", fun)
    if tx is not None:
        _checks.transformation("tx", tx)
    if callback is not None:
        _checks.function("callback", callback)
    tol = _checks.nonnegative("tol", tol)
    atol = _checks.nonnegative("atol", atol)
    max_evals = _checks.evaluations("max_evals", max_evals)
    has_aux = _checks.static_bool("has_aux", has_aux)
    args = _checks.further_arguments("args", args)
    x0, args = _checks.arrays("x0", x0), _checks.arrays("args", args)

    inputs = (fun, x0, tx, args, tol, atol, max_evals, state, averaging)
    if callback is None:
        return _run_compiled(*inputs, has_aux=has_aux)
    host = HostCallback(callback)
    return host.run(lambda: _run(*inputs, has_aux=has_aux, callback=host))


def _run(
    fun: Callable[..., Any],
    x0: Any,
    tx: optax.GradientTransformation | None,
    args: tuple[Any, ...],
    tol: Any,
    atol: Any,
    max_evals: Any,
    state: optax.OptState | None,
    averaging: optax.GradientTransformation | None,
    *,
    has_aux: bool,
    callback: "HostCallback | None" = None,
) -> MinimizeResult:
    """`minimize`, of arguments that have been checked."""

    def checked(*xs: Any) -> Any:
        return _checks.objective_output("fun", fun(*xs), has_aux=has_aux)

    # Inside jax.shard_map, a function that differs between the devices has a solution on each.
    if jax.sharding.get_abstract_mesh().manual_axes:
        value, *_ = jax.tree.leaves(jax.eval_shape(checked, x0, *args))
        x0 = vary(x0, varying_axes(value))

    # What fun closes over becomes an input, so that the solution has derivatives in it, too.
    closed, consts = jax.closure_convert(checked, x0, *args)
    inputs = (*args, *consts)

    # The derivatives do not pass through the loop: `_with_derivatives` attaches them to its end.
    start, fixed = jax.tree.map(jax.lax.stop_gradient, (x0, inputs))
    if tx is None:
        tx = choose_method(lambda x: closed(x, *fixed)[0] if has_aux else closed(x, *fixed), start)
    problem = Problem(
        fun=closed,
        inputs=fixed,
        has_aux=has_aux,
        tx=_with_trial_record(tx, averaging, start),
        tol=tol,
        atol=atol,
        max_evals=max_evals,
        callback=callback,
    )
    result = _solve(problem, start, state)

    # Leaves that the method does not move, frozen ones and integers, are inputs, too.
    trial: Any = find_trial(result.state)
    moved = _tree.inexact(trial.anchor_params)
    fixed = _tree.rest(moved, result.params)

    def value_of(moved: Any, inputs: tuple[Any, ...]) -> jax.Array:
        x = _tree.fill(moved, inputs[0])
        return _value_and_aux(problem._replace(inputs=inputs[1:]), x)[0]

    moved, value = _with_derivatives(value_of)(moved, result.value, (fixed, *inputs))
    return result._replace(params=_tree.fill(moved, fixed), value=value)


_run_compiled = compiled_when_eager(_run)


def _with_trial_record(
    tx: optax.GradientTransformation, averaging: optax.GradientTransformation | None, x0: Any
) -> optax.GradientTransformationExtraArgs:
    """The transformation with exactly one trial record in its state, and the averaging added."""
    tx = optax.with_extra_args_support(tx)
    state = jax.eval_shape(tx.init, x0)
    refuse_rejected_points(state)
    if find_trial(state) is None:
        tx = always_accepting(tx)
    return tx if averaging is None else on_accepted_points(tx, averaging)


def _value_and_aux(problem: Problem, x: Any) -> tuple[jax.Array, Any]:
    out = problem.fun(x, *problem.inputs)
    return out if problem.has_aux else (out, None)


# The loop.


def _solve(problem: Problem, x0: Any, state: optax.OptState | None) -> MinimizeResult:
    end = jax.lax.while_loop(
        lambda carry: any_in_batch(carry.loop.status == RUNNING),
        lambda carry: _evaluate_and_update(problem, carry),
        _first_carry(problem, x0, state),
    )
    return _result(end)


def _result(end: Carry) -> MinimizeResult:
    trial: Any = find_trial(end.opt_state)
    return MinimizeResult(
        params=_tree.fill(trial.anchor_params, end.params),
        value=trial.anchor_value,
        grad=_tree.fill(trial.grad, _tree.zeros_like(end.params)),
        status=trial.status,
        num_evals=trial.num_evals,
        num_steps=end.loop.num_steps,
        aux=end.aux,
        state=end.opt_state,
        grad_norm=trial.grad_norm,
        tolerance=end.loop.tolerance,
    )


def _first_carry(problem: Problem, x0: Any, state: optax.OptState | None) -> Carry:
    opt_state = problem.tx.init(x0)
    if state is not None:
        _checks.state(state, opt_state)
        opt_state = reset_run(state)
    aux = None
    if problem.has_aux:
        shapes = jax.eval_shape(lambda x: _value_and_aux(problem, x)[1], x0)
        aux = jax.tree.map(lambda x: vary(_tree.zeros_like(x), varying_axes((x, x0))), shapes)
    zero, none = jnp.zeros((), _tree.scalar_dtype(x0)), jnp.zeros((), jnp.int32)
    loop = LoopState(tolerance=zero, num_steps=none, status=none)
    carry = vary(Carry(x0, opt_state, loop, None), varying_axes(x0))
    return carry._replace(aux=aux)


def _evaluate_and_update(problem: Problem, old: Carry) -> Carry:
    """One round: evaluate a point, let the transformation accept or reject it, and test the end."""

    def value_and_aux(x: Any) -> tuple[jax.Array, Any]:
        return _value_and_aux(problem, x)

    def value_fn(x: Any) -> jax.Array:
        # In the dtypes of the parameters: under x64 Optax's L-BFGS passes float64.
        x = _tree.fill(x, old.params)
        return value_and_aux(jax.tree.map(lambda x, p: x.astype(p.dtype), x, old.params))[0]

    # Evaluate.
    evaluate = jax.value_and_grad(value_and_aux, has_aux=True, allow_int=True)
    (value, aux), grads = evaluate(old.params)
    grads = _tree.ascent_direction(grads, old.params)

    # Accept or reject the point, and propose the next one.
    updates, opt_state = problem.tx.update(
        grads,
        old.opt_state,
        old.params,
        value=value,
        grad=grads,
        tolerance=old.loop.tolerance,
        value_fn=value_fn,
    )
    trial: Any = find_trial(opt_state)
    _checks.applicable_updates(updates, grads, old.params, anchor=trial.anchor_params)

    # Test whether the run ends, at the last accepted point.
    running = old.loop.status == RUNNING
    loop, _ = fused_if(
        running, lambda loop: (_next_loop_state(problem, loop, trial), None), old.loop
    )

    if problem.callback is not None:
        progress = _progress(problem, trial, old.params, value, loop.status)
        loop = loop._replace(status=_call(problem.callback, progress))
    return Carry(
        params=optax.apply_updates(old.params, updates),
        opt_state=with_status(opt_state, loop.status),
        loop=loop,
        aux=_tree.select(running & trial.accepted, aux, old.aux),
    )


def _next_loop_state(problem: Problem, old: LoopState, trial: Trial) -> LoopState:
    """The stopping rule. It reads only scalars of the trial, for `fused_if`."""
    done = has_converged(trial, problem.tol, problem.atol)

    # A status that the transformation has set itself stays. The budget counts last.
    running = trial.status == RUNNING
    status = jnp.where(trial.saddle, SADDLE, CONVERGED)
    status = jnp.where(done & running, status, trial.status)
    spent = (status == RUNNING) & (trial.num_evals >= problem.max_evals)
    return LoopState(
        tolerance=gradient_tolerance(trial.progress.start_grad_norm, problem.tol, problem.atol),
        num_steps=old.num_steps + (trial.accepted & (trial.num_evals > 1)).astype(jnp.int32),
        status=jnp.where(spent, BUDGET, status),
    )


# The callback.


def _progress(
    problem: Problem, trial: Trial, params: Any, value: jax.Array, status: jax.Array
) -> MinimizeProgress:
    return MinimizeProgress(
        num_evals=trial.num_evals,
        params=_tree.fill(trial.anchor_params, params),
        value=trial.anchor_value,
        grad_norm=trial.grad_norm,
        accepted=trial.accepted,
        trial_params=params,
        trial_value=value,
        max_evals=problem.max_evals,
        status=status,
    )


def _call(callback: Callable[[MinimizeProgress], Any], progress: MinimizeProgress) -> jax.Array:
    """The status after the callback: STOPPED if it ends a run that would go on."""
    status = progress.status
    stop = io_callback(callback, jax.ShapeDtypeStruct((), bool), progress)
    return jnp.where(stop & (status == RUNNING), STOPPED, status)


class HostCallback:
    """The callback as the loop calls it, which no exception leaves.

    An exception would come out of a compiled loop as an error of JAX. So it is kept, the loop asked
    to end, and the exception raised after it. Under `jax.jit` the loop runs later than `run`, and
    the exception leaves the callback.
    """

    def __init__(self, callback: Callable[[MinimizeProgress], Any]) -> None:
        self.callback = callback
        self.exception: BaseException | None = None
        self.runs_later = False

    def __call__(self, progress: MinimizeProgress) -> np.bool_:
        """Whether the loop is to end."""
        if self.exception is not None:
            return np.True_
        try:
            return np.bool_(self.callback(progress))
        except BaseException as exception:
            if self.runs_later:
                raise
            self.exception = exception
            return np.True_

    def run(self, solve: Callable[[], MinimizeResult]) -> MinimizeResult:
        """Run the loop to its end, and raise what the callback has raised."""
        try:
            result = solve()
            self.runs_later = isinstance(result.status, Tracer)
            if not self.runs_later:
                self._wait(result.status)
        except jax.errors.JaxRuntimeError as error:
            # Ctrl-C arrived in JAX's own code around the callback.
            if "KeyboardInterrupt" not in str(error):
                raise
            self.exception = KeyboardInterrupt()
        if self.exception is not None:
            raise self.exception
        return result

    def _wait(self, status: Any) -> None:
        """Wait for the end of the loop. Ctrl-C ends it at the next evaluation."""
        try:
            while not status.is_ready():
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt as interrupt:
            self.exception = interrupt
        jax.block_until_ready(status)


# Implicit differentiation (Blondel et al., section 2.1). The Hessian with respect to a complex
# number is taken in its real and imaginary part, since f is not holomorphic.


def _with_derivatives(fun: Callable[[Any, tuple[Any, ...]], jax.Array]) -> Callable[..., Any]:
    """(x*, f(x*), θ) -> (x*, f(x*)), with the derivatives of a minimum in the inputs θ.

    From ∇f(x*(θ), θ) = 0: dx* = -(∂²f/∂x²)⁻¹ (∂²f/∂x∂θ) dθ, and df = (∂f/∂θ) dθ.
    """

    @jax.custom_jvp
    def solution(params: Any, value: jax.Array, inputs: tuple[Any, ...]) -> tuple[Any, jax.Array]:
        del inputs
        return params, value

    @solution.defjvp
    def solution_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
        # Called again, so that x* in what follows depends on θ: for higher derivatives.
        params, value = solution(*primals)
        inputs, d_inputs = primals[2], tangents[2]
        x = _real_parts(params)

        def real_fun(x: Any, inputs: tuple[Any, ...]) -> jax.Array:
            return fun(_from_real_parts(x, params), inputs)

        # df = (∂f/∂θ) dθ: the part through x* vanishes with the gradient.
        _, d_value = jax.jvp(lambda inputs: real_fun(x, inputs), (inputs,), (d_inputs,))

        # (∂²f/∂x∂θ) dθ: the change of the gradient at a fixed x.
        gradient = jax.grad(real_fun)
        _, d_gradient = jax.jvp(lambda inputs: gradient(x, inputs), (inputs,), (d_inputs,))

        # dx* = -(∂²f/∂x²)⁻¹ d∇f.
        step = _solve_hessian(lambda x: real_fun(x, inputs), x, d_gradient)
        d_params = jax.tree.map(jnp.negative, _from_real_parts(step, params))
        return (params, value), (d_params, d_value)

    return solution


def _solve_hessian(fun: Callable[[Any], jax.Array], x: Any, b: Any) -> Any:
    """(∂²f/∂x²)⁻¹ b by conjugate gradients, itself differentiable in both modes."""

    def conjugate_gradients(matvec: Callable[[Any], Any], b: Any) -> Any:
        eps = float(np.finfo(_tree.scalar_dtype(b)).eps)
        return jax.scipy.sparse.linalg.cg(matvec, b, tol=10 * eps)[0]

    return jax.lax.custom_linear_solve(
        lambda v: hvp(fun, x, v), b, conjugate_gradients, symmetric=True
    )


def _real_parts(tree: Any) -> Any:
    return jax.tree.map(lambda x: (x.real, x.imag) if jnp.iscomplexobj(x) else x, tree)


def _from_real_parts(parts: Any, like: Any) -> Any:
    return jax.tree.map(lambda x, p: jax.lax.complex(*p) if jnp.iscomplexobj(x) else p, like, parts)
