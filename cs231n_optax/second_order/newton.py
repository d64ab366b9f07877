"""Newton's method (lecture 7-1-9): step to the stationary point of the quadratic model of f at x.

    x ← x - H⁻¹ g,        g = ∇f(x),  H = ∇²f(x)

There is no learning rate. H is an N × N matrix that takes N Hessian-vector products to compute and
about N³ operations to solve with: too many for a network.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cs231n_optax import _checks, _tree
from cs231n_optax._batching import any_in_batch, vary, varying_axes
from cs231n_optax._precision import in_float32, widen_all
from cs231n_optax.globalization.acceptance import Evaluation
from cs231n_optax.globalization.search import LinePoint
from cs231n_optax.globalization.trust_region import (
    Model,
    ModelInfo,
    ModelStep,
    with_trust_region,
)
from cs231n_optax.second_order.hessian import check_fits, find_hessian
from cs231n_optax.second_order.subproblem import minimize_in_ball

MAX_FIRST_STEP = 1e6  # largest length of a first Newton step, relative to max(1, ‖x‖)


class ScaleByNewtonState(NamedTuple):
    """State of `scale_by_newton`.

    Attributes:
      num_hessians: int32, number of Hessians evaluated.
    """

    handles_accept = True  # see `_tree.select`

    num_hessians: jax.Array


def scale_by_newton(
    damping: jax.typing.ArrayLike = 0.0, *, saddle_free: bool = False
) -> optax.GradientTransformationExtraArgs:
    """Newton's direction, the lecture's formula as it stands.

        (H + δ I)⁻¹ g,        or with ``saddle_free``  (abs(H) + δ I)⁻¹ g

    On a quadratic it reaches the stationary point in one update. Where H has negative eigenvalues,
    it moves towards saddles and maxima. abs(H) has the absolute values of the eigenvalues, and its
    direction is always a direction of ascent. `newton` needs no start near the minimum.

    Args:
      damping: δ >= 0, a number or a scalar array (may be traced). With 0 and a singular H the
        direction is not finite.
      saddle_free: whether to use abs(H), by an eigendecomposition, instead of H, by an LU
        decomposition.

    Returns:
      A transformation of gradients to a direction, with their tree, shapes and dtypes, to be
      subtracted: ``optax.chain(scale_by_newton(), optax.scale(-1.0))``, or with
      `with_line_search`. ``update(grads, state, params, value_fn=loss)`` takes the objective, or
      ``hessian=``, H at ``params``: an (N, N) matrix in the order of `hessian_matrix`, or what
      `jax.hessian` gives. Memory: 2 N² numbers during the update, none between.

    Raises:
      ValueError: if a Python ``damping`` is negative or not finite; from ``init``, if H would take
        more than 4 GiB; from ``update``, if ``params`` are missing, or the gradients or
        ``hessian`` do not fit them.
      TypeError: for an argument of another type, or a leaf that is not floating or complex; from
        ``update``, if both ``value_fn`` and ``hessian`` are missing, or ``value_fn`` does not
        return a real scalar.

    Example:
      >>> import cs231n_optax, jax, jax.numpy as jnp, optax
      >>> def loss(x): return (x[0] - 1) ** 2 + 50 * (x[1] - x[0]) ** 2
      >>> tx = optax.chain(cs231n_optax.scale_by_newton(), optax.scale(-1.0))
      >>> x = jnp.array([7.0, -3.0])
      >>> step, _ = tx.update(jax.grad(loss)(x), tx.init(x), x, value_fn=loss)
      >>> print((x + step).round(3))
      [1. 1.]

    Source:
      Lecture 7-1-9. abs(H): Y. N. Dauphin et al., "Identifying and attacking the saddle point
      problem in high-dimensional non-convex optimization", NeurIPS 2014.
    """
    damping = _checks.nonnegative("damping", damping)
    saddle_free = _checks.static_bool("saddle_free", saddle_free)

    def init(params: optax.Params) -> ScaleByNewtonState:
        check_fits("scale_by_newton", params, "newton_cg")
        return ScaleByNewtonState(jnp.zeros((), jnp.int32))

    def solve(hessian: jax.Array, g: jax.Array) -> jax.Array:
        delta = jnp.asarray(damping, g.dtype)
        if saddle_free:
            eigenvalues, vectors = jnp.linalg.eigh(hessian)
            return _tree.matvec(
                vectors, _tree.matvec(vectors.T, g) / (jnp.abs(eigenvalues) + delta)
            )
        return jnp.linalg.solve(hessian + delta * jnp.eye(len(g), dtype=g.dtype), g)

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        value_fn: Any = None,
        hessian: Any = None,
        accept: jax.typing.ArrayLike = True,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleByNewtonState]:
        del extra_args
        _checks.own_state("scale_by_newton", state, ScaleByNewtonState)
        if jax.tree.leaves(updates):
            _checks.params_given("scale_by_newton", params)
        if params is not None:
            wide = widen_all("parameter", params)
            _checks.like("gradients", updates, wide, of="the parameters")
        g, accept = _tree.ravel(updates), jnp.asarray(accept)
        direction = jax.lax.cond(
            any_in_batch(accept),
            lambda: solve(find_hessian("scale_by_newton", params, hessian, value_fn), g),
            lambda: g,
        )
        return _tree.unravel(direction, updates), ScaleByNewtonState(
            jnp.where(accept, optax.safe_increment(state.num_hessians), state.num_hessians)
        )

    return in_float32(optax.GradientTransformationExtraArgs(init, update))


class NewtonState(NamedTuple):
    """The model of `newton` at the anchor, for N real numbers, ravelled as in `hessian_matrix`.

    Attributes:
      num_hessians: int32, number of Hessians evaluated.
      eigenvalues: (N,), of the Hessian, with rounding errors removed.
      eigenvectors: (N, N), in columns.
      coordinates: (N,), the gradient in their basis.
    """

    num_hessians: jax.Array
    eigenvalues: jax.Array
    eigenvectors: jax.Array
    coordinates: jax.Array


def newton(
    *,
    leave_saddles: bool = True,
    tol: jax.typing.ArrayLike = 0.0,
    atol: jax.typing.ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Newton's method in a trust region: to a minimum from a start far away, for small N.

        p = argmin g·p + ½ p·H p,   ‖p‖ <= Δ,        x ← x + p if f decreases enough

    If H is positive definite and p is shorter than Δ, this is the lecture's step, and convergence
    is quadratic. Elsewhere the exact solution of Moré and Sorensen follows negative curvature, and
    so leaves saddles and maxima, even if the run starts on one. The first step is the whole Newton
    step if H is positive definite there and the step not longer than 10⁶ max(1, ‖x‖), so that a
    quadratic takes one step.

    Each update takes one value and one gradient. Each accepted point takes one Hessian and its
    eigendecomposition; a rejected trial only shrinks Δ. ``num_hessians`` in the state counts them
    (``optax.tree.get(state, "num_hessians")``). A trial whose Hessian is not finite is rejected.
    In a batch of `jax.vmap`, updates in which no element accepts its trial skip both.

    Negative curvature within ``N ε max |λ|`` counts as zero, and if the slope along such a
    direction is rounding error too, the step has no component there. A small gradient ends a run
    only if no λ is below ``-√ε max |λ|``. `minimize` then returns CONVERGED, or SADDLE without
    ``leave_saddles``.

    Args:
      leave_saddles: whether to continue from a saddle to a minimum. If not, a small gradient ends
        the run there, with the status SADDLE.
      tol: relative tolerance: the run ends at an accepted point x with
        ‖∇f(x)‖∞ <= atol + tol · max(1, ‖∇f(x₀)‖∞) and a predicted decrease of at most
        ``10 (tol + atol / max(1, ‖∇f(x₀)‖∞)) (1 + |f(x)|)``, as `minimize` does. Both >= 0,
        numbers or scalar arrays (may be traced). With both 0, only a zero gradient ends it.
      atol: absolute tolerance, see ``tol``.

    Returns:
      A transformation from gradients to steps, with the `Status` of `with_line_search`.
      ``update(grads, state, params, value=..., value_fn=loss)`` takes the value at ``params`` and
      the objective, or in its place ``hessian=``, as `scale_by_newton` does. Nothing may change the
      updates after it, and a mini-batch has to stay the same until `accepted` is True. Memory: N²
      numbers, and 2 N² more during an update that accepts its trial.

    Raises:
      TypeError: if ``leave_saddles`` is not a Python bool; from ``init``, if a parameter is
        narrower than float32 or not floating; from ``update``, if ``value`` is missing, or both
        ``value_fn`` and ``hessian``.
      ValueError: if ``tol`` or ``atol`` is negative; from ``init``, if H would take more than
        4 GiB; from ``update``, if ``params`` are missing, trees or shapes differ from those given
        to ``init``, or ``hessian`` does not fit.

    Example:
      >>> import cs231n_optax, jax, jax.numpy as jnp
      >>> def loss(x): return x[0] ** 2 - x[1] ** 2 + x[1] ** 4 / 4
      >>> result = cs231n_optax.minimize(loss, jnp.zeros(2), cs231n_optax.newton())  # a saddle
      >>> print(abs(result.params).round(3), cs231n_optax.Status(int(result.status)).name)
      [0.    1.414] CONVERGED
      >>> tx = cs231n_optax.newton(leave_saddles=False)
      >>> print(cs231n_optax.Status(int(cs231n_optax.minimize(loss, jnp.zeros(2), tx).status)).name)
      SADDLE

    Source:
      Lecture 7-1-9. J. J. Moré and D. C. Sorensen, 1983 (`minimize_in_ball`); J. Nocedal and S.
      Wright, "Numerical Optimization", 2nd ed., 2006, algorithm 4.1.

    Differs from:
      The lecture's θ - H⁻¹ ∇J(θ), `scale_by_newton`, which needs a start near the minimum. SciPy's
      ``trust-exact``, which starts with the radius 1, decomposes the Hessian anew for every trial,
      and ends at any small gradient.
    """
    leave_saddles = _checks.static_bool("leave_saddles", leave_saddles)
    model = Model(_init_model, _update_model, _model_step)
    return with_trust_region(
        model, _parabola_minimum, leave_saddles=leave_saddles, tol=tol, atol=atol
    )


def _init_model(params: optax.Params) -> NewtonState:
    check_fits("newton", params, "newton_cg")
    flat = jnp.zeros_like(_tree.ravel(params))
    return NewtonState(
        num_hessians=jnp.zeros((), jnp.int32),
        eigenvalues=jnp.ones_like(flat),
        eigenvectors=jnp.eye(len(flat), dtype=flat.dtype),
        coordinates=jnp.copy(flat),
    )


def _update_model(
    state: NewtonState,
    evaluation: Evaluation,
    *,
    wanted: jax.Array,
    value_fn: Any = None,
    hessian: Any = None,
    **extra_args: Any,
) -> tuple[NewtonState, ModelInfo]:
    del extra_args
    _checks.own_state("newton", state, NewtonState)
    params, g = evaluation.params, _tree.ravel(evaluation.grads)
    old = state.eigenvalues, state.eigenvectors, state.coordinates
    axes = varying_axes((old, params, g))  # the branches below return the same types

    def decompose() -> tuple[Any, ModelInfo]:
        # H = V Λ Vᵀ, and the gradient c = Vᵀ g in the eigenbasis.
        matrix = find_hessian("newton", params, hessian, value_fn)
        is_finite = jnp.all(jnp.isfinite(matrix))
        matrix = jnp.where(is_finite, matrix, 0)
        eigenvalues, vectors = jnp.linalg.eigh(matrix, symmetrize_input=False)
        is_finite &= jnp.all(jnp.isfinite(eigenvalues))
        c = _tree.matvec(vectors.T, g)

        # Curvature within N ε max |λ| is rounding error: if negative, it is set to 0. Where the
        # slope is rounding error too, c = 0 and λ = max |λ| give a step without that component.
        info = np.finfo(c.dtype)
        largest = jnp.max(jnp.abs(eigenvalues), initial=info.tiny)
        saddle = jnp.any(eigenvalues < -np.sqrt(info.eps) * largest)
        rounding = len(c) * info.eps
        flat = jnp.abs(eigenvalues) < rounding * largest
        level = flat & (jnp.abs(c) <= rounding * jnp.linalg.norm(c))
        c = jnp.where(level, 0, c)
        eigenvalues = jnp.where(flat, jnp.maximum(eigenvalues, 0), eigenvalues)
        eigenvalues = jnp.where(level, largest, eigenvalues)

        # The initial radius admits the whole Newton step, if H is positive definite.
        definite = jnp.all(eigenvalues > 0)
        newton_length = jnp.linalg.norm(c / jnp.where(definite, eigenvalues, 1))
        distance = jnp.maximum(1, jnp.linalg.norm(_tree.ravel(params)))
        newton_radius = jnp.minimum(newton_length, MAX_FIRST_STEP * distance)
        initial_radius = jnp.where(definite, newton_radius, distance)
        new = _tree.select(wanted & is_finite, (eigenvalues, vectors, c), old)
        return vary((new, ModelInfo(is_finite, initial_radius, saddle)), axes)

    def keep() -> tuple[Any, ModelInfo]:
        info = ModelInfo(jnp.ones((), bool), jnp.zeros((), g.dtype), jnp.zeros((), bool))
        return vary((old, info), axes)

    new, info = jax.lax.cond(any_in_batch(wanted), decompose, keep)
    count = jnp.where(wanted, optax.safe_increment(state.num_hessians), state.num_hessians)
    return NewtonState(count, *new), info


def _model_step(state: NewtonState, radius: jax.Array, like: optax.Params) -> ModelStep:
    minimum = minimize_in_ball(state.eigenvalues, state.coordinates, radius)
    return ModelStep(
        step=_tree.unravel(_tree.matvec(state.eigenvectors, minimum.u), like),
        predicted_decrease=minimum.decrease,
        slope=_tree.vdot(state.coordinates, minimum.u),
        length=minimum.length,
    )


def _parabola_minimum(a: LinePoint, b: LinePoint) -> jax.Array:
    """The minimum of the parabola through both values and the first slope; b if it is not convex.

    The second slope is not used: the next step is not on the line of the last one.
    """
    width = b.step - a.step
    rise = b.phi - a.phi - a.slope * width
    convex = rise > 0
    minimum = a.step - a.slope * width**2 / (2 * jnp.where(convex, rise, 1))
    return jnp.where(convex, minimum, b.step)
