"""Newton's method (lecture 7-1-9): to the minimum of the quadratic that touches f at x.

    x ← x - H⁻¹ g,        g = ∇f(x),  H = ∇²f(x)

H is an N × N matrix, N Hessian-vector products to make and about N³ operations to solve with: this
is what is wrong with the formula, at the size of a network. There is no learning rate.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cs231n_optax import _checks, _tree
from cs231n_optax._lanes import any_lane
from cs231n_optax._precision import in_float32, widen_all
from cs231n_optax.second_order.hessian import check_fits, find_hessian
from cs231n_optax.second_order.subproblem import minimize_in_ball
from cs231n_optax.second_order.trust_region import Model, ModelStep, Sight, with_trust_region

FAR = 1e6  # how many times the distance from the origin a first step may go


class ScaleByNewtonState(NamedTuple):
    """State of `scale_by_newton`.

    Attributes:
      num_hessians: int32, Hessians so far.
    """

    selects_itself = True  # told accept=, see `_tree.select`

    num_hessians: jax.Array


def scale_by_newton(
    damping: jax.typing.ArrayLike = 0.0, *, saddle_free: bool = False
) -> optax.GradientTransformationExtraArgs:
    """Newton's direction, the lecture's formula as it stands.

        (H + δ I)⁻¹ g,        or with ``saddle_free``  (abs(H) + δ I)⁻¹ g

    Of a quadratic it gives the step to the stationary point, in one update; so it is attracted by
    saddles and maxima where H has negative eigenvalues. abs(H) has their absolute values, and
    its direction always ascends. `newton` is the method that needs neither luck nor damping.

    Args:
      damping: δ >= 0, a number or a scalar array (may be traced). With 0 and a singular H the
        direction is not finite.
      saddle_free: whether to take abs(H), by an eigen-decomposition; else H, by an LU
        decomposition, which does not mind negative eigenvalues.

    Returns:
      A transformation of gradients to a direction, with their tree, shapes and dtypes, to be
      subtracted: ``optax.chain(scale_by_newton(), optax.scale(-1.0))``, or with
      `with_line_search`. ``update(grads, state, params, value_fn=loss)`` takes the objective, or
      ``hessian=``, H at ``params``: an (N, N) matrix in the order of `hessian_matrix`, or what
      `jax.hessian` gives. Memory: 2 N² numbers during the update, none between.

    Raises:
      ValueError: if a Python ``damping`` is negative or not finite; from ``init``, if H would take
        more than 4 GiB, with the bytes; from ``update``, if ``params`` are missing, or
        the gradients or ``hessian`` do not fit them.
      TypeError: if ``damping`` is not a number, or ``saddle_free`` no Python bool; from
        ``update``, if both ``value_fn`` and ``hessian`` are missing, or ``value_fn`` does not
        return a real scalar; from both, if a leaf is not floating or complex.

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
        if params is None and jax.tree.leaves(updates):
            raise ValueError("scale_by_newton needs the parameters: update(grads, state, params)")
        if params is not None:
            wide = widen_all("parameter", params)
            _tree.check_like("gradients", updates, wide, of="the parameters")
        g, accept = _tree.ravel(updates), jnp.asarray(accept)
        direction = jax.lax.cond(
            any_lane(accept),
            lambda: solve(find_hessian("scale_by_newton", params, hessian, value_fn), g),
            lambda: g,
        )
        return _tree.unravel(direction, updates), ScaleByNewtonState(
            jnp.where(accept, optax.safe_increment(state.num_hessians), state.num_hessians)
        )

    return in_float32(optax.GradientTransformationExtraArgs(init, update))


class NewtonState(NamedTuple):
    """The model of `newton` at the anchor, of N real numbers, ravelled as in `hessian_matrix`.

    Attributes:
      num_hessians: int32, Hessians so far.
      eigenvalues: (N,), of the Hessian, but for those that are rounding.
      eigenvectors: (N, N), in columns.
      coordinates: (N,), the gradient in their basis.
    """

    num_hessians: jax.Array
    eigenvalues: jax.Array
    eigenvectors: jax.Array
    coordinates: jax.Array


def newton(*, leave_saddles: bool = True) -> optax.GradientTransformationExtraArgs:
    """Newton's method with a trust region: to a minimum from anywhere, for small N.

        p = argmin g·p + ½ p·H p,   ‖p‖ <= Δ,        x ← x + p if f falls enough

    Where H is positive definite and Δ does not matter, this is the lecture's step, and the
    convergence quadratic. Elsewhere the exact solution (Moré and Sorensen's) follows negative
    curvature, and so leaves saddles and maxima, also one that it is started on. The first step is
    the whole of Newton's, if H is positive definite there and the step not longer than 10⁶
    max(1, ‖x‖): a quadratic takes one.

    One value and one gradient an update, one Hessian and its eigen-decomposition for each accepted
    point: a rejected trial only makes Δ smaller. ``num_hessians``, in the state, counts them
    (``optax.tree.get(state, "num_hessians")``). A trial with a Hessian that is not finite is
    rejected. In a batch of `jax.vmap` the updates in which no lane accepts its trial skip both.

    Curvature ``|λ| < N ε max |λ|`` is rounding. It counts as zero, and where the slope along it is
    rounding, too, there is no step that way. A small gradient ends a run only where no λ is below
    ``-√ε max |λ|``; `minimize` then says CONVERGED, and at a saddle SADDLE if that was asked for.

    Args:
      leave_saddles: whether to go on from a saddle, to a minimum. If not, a small gradient ends
        the run there, with the status SADDLE.

    Returns:
      A transformation from gradients to steps, with the `Status` of `with_line_search`.
      ``update(grads, state, params, value=..., value_fn=loss)`` takes the value at ``params`` and
      the objective, or in its place ``hessian=``, as `scale_by_newton` does. Nothing may change the
      updates after it, and a mini-batch has to stay the same until `accepted` is True. Memory: N²
      numbers, and 2 N² more during an update that accepts its trial.

    Raises:
      TypeError: if ``leave_saddles`` is no Python bool; from ``init``, if a parameter is narrower
        than float32 or not floating; from ``update``, if ``value`` is missing, or both
        ``value_fn`` and ``hessian``.
      ValueError: from ``init``, if H would take more than 4 GiB, with the bytes: use `newton_cg`;
        from ``update``, if ``params`` are missing, the trees or shapes are not those given to
        ``init``, or ``hessian`` does not fit them.

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
      ``trust-exact``, whose first radius is 1, which takes a new decomposition for every trial, and
      which ends on any small gradient.
    """
    leave_saddles = _checks.static_bool("leave_saddles", leave_saddles)
    model = Model(_init_model, _update_model, _step_of_model)
    return with_trust_region(model, _parabola_minimum, leave_saddles=leave_saddles)


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
    grads: optax.Updates,
    state: NewtonState,
    params: optax.Params,
    wanted: jax.Array,
    radius: jax.Array,
    *,
    value_fn: Any = None,
    hessian: Any = None,
    **extra_args: Any,
) -> tuple[NewtonState, Sight]:
    del radius, extra_args
    g = _tree.ravel(grads)
    old = state.eigenvalues, state.eigenvectors, state.coordinates

    def decompose() -> tuple[Any, Sight]:
        matrix = find_hessian("newton", params, hessian, value_fn)
        fine = jnp.all(jnp.isfinite(matrix))
        eigenvalues, vectors = jnp.linalg.eigh(jnp.where(fine, matrix, 0), symmetrize_input=False)
        fine &= jnp.all(jnp.isfinite(eigenvalues))
        c = _tree.matvec(vectors.T, g)
        info = np.finfo(c.dtype)
        size = jnp.max(jnp.abs(eigenvalues), initial=np.sqrt(info.tiny))
        saddle = jnp.any(eigenvalues < -np.sqrt(info.eps) * size)
        rounding = len(c) * info.eps
        flat = jnp.abs(eigenvalues) < rounding * size
        level = flat & (jnp.abs(c) <= rounding * jnp.linalg.norm(c))
        c = jnp.where(level, 0, c)
        eigenvalues = jnp.where(flat, jnp.maximum(eigenvalues, 0), eigenvalues)
        eigenvalues = jnp.where(level, size, eigenvalues)
        definite = jnp.all(eigenvalues > 0)
        newton_step = jnp.linalg.norm(c / jnp.where(definite, eigenvalues, 1))
        distance = jnp.maximum(1, jnp.linalg.norm(_tree.ravel(params)))
        reach = jnp.where(definite, jnp.minimum(newton_step, FAR * distance), distance)
        new = _tree.select(wanted & fine, (eigenvalues, vectors, c), old)
        return new, Sight(fine, reach, saddle)

    def keep() -> tuple[Any, Sight]:
        return old, Sight(jnp.ones((), bool), jnp.zeros((), g.dtype), jnp.zeros((), bool))

    new, sight = jax.lax.cond(any_lane(wanted), decompose, keep)
    count = jnp.where(wanted, optax.safe_increment(state.num_hessians), state.num_hessians)
    return NewtonState(count, *new), sight


def _step_of_model(state: NewtonState, radius: jax.Array, like: optax.Params) -> ModelStep:
    least = minimize_in_ball(state.eigenvalues, state.coordinates, radius)
    return ModelStep(
        step=_tree.unravel(_tree.matvec(state.eigenvectors, least.u), like),
        decrease=least.decrease,
        slope=_tree.vdot(state.coordinates, least.u),
        length=least.length,
    )


def _parabola_minimum(
    a: jax.Array, fa: jax.Array, ga: jax.Array, b: jax.Array, fb: jax.Array, gb: jax.Array
) -> jax.Array:
    """Where the parabola through two values and the first slope is least; b if it is not convex.

    The next step is not on the line of the last one, which makes the second slope no help.
    """
    del gb
    width = b - a
    rise = fb - fa - ga * width
    return jnp.where(rise > 0, a - ga * width**2 / (2 * jnp.where(rise > 0, rise, 1)), b)
