"""BFGS (lecture 7-1-9): a dense approximation of the inverse Hessian, updated at every step.

With s the step and y the change of the gradient (Nocedal and Wright, 2006, eq. 6.17):

    H ← (I - s yᵀ / s·y) H (I - y sᵀ / s·y) + s sᵀ / s·y
      = H + (1 + y·Hy / s·y) s sᵀ / s·y - (Hy sᵀ + s (Hy)ᵀ) / s·y
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cs231n_optax import _checks, _tree
from cs231n_optax._batching import compute_if, fused_if
from cs231n_optax._precision import in_float32, widen_all
from cs231n_optax.globalization.line_search import with_line_search
from cs231n_optax.globalization.search import Search
from cs231n_optax.globalization.wolfe import wolfe
from cs231n_optax.second_order.curvature_pair import CurvaturePair, curvature_pair
from cs231n_optax.second_order.hessian import check_fits

NUM_SCALED_UPDATES = 10  # updates before which H may be scaled


class ScaleByBfgsState(NamedTuple):
    """State of `scale_by_bfgs`, for parameters of N real numbers, ravelled in the tree's order.

    Attributes:
      num_points: int32, the number of points seen.
      num_updates: int32, the number of updates of H since it was last reset.
      params, grads: (N,), the last point and its gradient.
      inverse_hessian: (N, N), H, positive definite, and symmetric up to rounding.
      decrement: g · H g at the last point.
    """

    handles_accept = True  # takes accept= and restart=, see `_tree.select`

    num_points: jax.Array
    num_updates: jax.Array
    params: jax.Array
    grads: jax.Array
    inverse_hessian: jax.Array
    decrement: jax.Array


class Coefficients(NamedTuple):
    """The next update of H from a pair: H ← scale H + outer s sᵀ - cross (Hy sᵀ + s (Hy)ᵀ).

    Attributes:
      keep: bool, whether the pair is used. If not, the other fields mean nothing.
      theta: s is damped to θ s + (1 - θ) scale Hy; 1 for no damping.
      scale, outer, cross: as above.
    """

    keep: jax.Array
    theta: jax.Array
    scale: jax.Array
    outer: jax.Array
    cross: jax.Array


def scale_by_bfgs(*, damping: jax.typing.ArrayLike = 0.0) -> optax.GradientTransformationExtraArgs:
    """The BFGS direction H g, with H a dense N × N matrix over the ravelled parameters.

    A pair with s · y <= ε ‖s‖ ‖y‖ is skipped or damped. Before the first pair, H = I. The first
    pair sets H₀ = (s·y / y·y) I. Before each of the next nine, H is multiplied by
    max(1, (s·g)² / (g·Hg s·y)), with g the gradient before the step: H grows where it has
    underestimated the step.

    Args:
      damping: μ in [0, 1), a number or a scalar array (may be traced). If s·y < μ y·Hy, s is
        replaced by the mean θ s + (1 - θ) Hy for which s·y = μ y·Hy. Then every pair is used, and
        H stays positive definite without a line search too. Powell's μ is 0.2.

    Returns:
      A transformation of gradients to a direction, with their tree, shapes and dtypes, for
      `with_line_search`: `bfgs` is the two together. ``update`` needs ``params``, and takes
      ``accept`` and ``restart`` as `scale_by_lbfgs` does.

    Raises:
      ValueError: if a Python ``damping`` is outside [0, 1); from ``init``, if H would take more
        than 4 GiB; from ``update``, if ``params`` are missing, or trees, shapes or dtypes differ.
      TypeError: if ``damping`` is not a number, or a leaf is not floating or complex.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp, numpy as np
      >>> tx = cs231n_optax.scale_by_bfgs()
      >>> curvatures = jnp.array([1.0, 4.0])
      >>> state = tx.init(jnp.zeros(2))
      >>> for x in (jnp.array([3.0, 5.0]), jnp.array([4.0, 5.0]), jnp.array([4.0, 6.0])):
      ...     direction, state = tx.update(curvatures * x, state, x)
      >>> print(np.asarray(direction).round(3))  # after a step along each axis: to the minimum
      [4. 6.]

    Source:
      Lecture 7-1-9 (whose "rank 1" is a rank of 2); J. Nocedal and S. Wright, "Numerical
      Optimization", 2nd ed., 2006, eq. 6.17 and 6.20. Scaling: S. S. Oren and D. G. Luenberger,
      Management Science 20, 1974. Damping: M. J. D. Powell, 1978, in the form for H of D.
      Goldfarb, Y. Ren and A. Bahamou, NeurIPS 2020.
    """
    damping = _checks.decay_rate("damping", damping)

    def init(params: optax.Params) -> ScaleByBfgsState:
        check_fits("BFGS", params, "lbfgs")
        dtype = _tree.scalar_dtype(params)
        flat = jnp.zeros_like(_tree.ravel(params))
        return ScaleByBfgsState(
            num_points=jnp.zeros((), jnp.int32),
            num_updates=jnp.zeros((), jnp.int32),
            params=flat,
            grads=jnp.copy(flat),
            inverse_hessian=jnp.eye(flat.size, dtype=dtype),
            decrement=jnp.zeros((), dtype),
        )

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        accept: jax.typing.ArrayLike = True,
        restart: jax.typing.ArrayLike = False,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleByBfgsState]:
        del extra_args
        _checks.own_state("scale_by_bfgs", state, ScaleByBfgsState)
        _checks.params_given("scale_by_bfgs", params)
        params = widen_all("parameter", params)
        _checks.like("gradients", updates, params, of="the parameters")
        x, g = _tree.ravel(params), _tree.ravel(updates)
        _checks.like("ravelled parameters", x, state.params)
        accept, restart = jnp.asarray(accept), jnp.asarray(restart)
        needs_direction = accept | restart
        h = state.inverse_hessian

        # H y and H g with the old H, where a direction is needed.
        pair = curvature_pair(x, g, state.params, state.grads)
        hy, hg = compute_if(
            needs_direction,
            lambda: (_tree.matvec(h, pair.y), _tree.matvec(h, g)),
            otherwise=(pair.y, g),
        )

        # The coefficients of the update.
        yhy, s_old_grad = _tree.one_pass(vdots=((pair.y, hy), (pair.s, state.grads)))
        (num_points, num_updates), new = fused_if(
            needs_direction,
            lambda counts: _coefficients(
                counts,
                pair,
                state.decrement,
                yhy=yhy,
                s_old_grad=s_old_grad,
                damping=damping,
                accept=accept,
            ),
            (state.num_points, state.num_updates),
        )

        # Eq. 6.17, with the damped s and the scaled H.
        s = new.theta * pair.s + (1 - new.theta) * new.scale * hy
        cross = jnp.outer(hy, s) + jnp.outer(s, hy)
        updated = new.scale * h + new.outer * jnp.outer(s, s) - new.cross * cross
        updated = jnp.where(new.keep, updated, h)
        identity = jnp.eye(len(g), dtype=h.dtype)

        # The direction, the new H times g: from H g and H y without another product.
        sg, hyg = _tree.one_pass(vdots=((s, g), (hy, g)))
        along = new.outer * sg - new.cross * hyg
        updated_hg = new.scale * hg + along * s - new.cross * sg * hy
        direction = jnp.where(restart, g, jnp.where(new.keep, updated_hg, hg))
        decrement = _tree.vdot(g, direction)
        return _tree.unravel(direction, updates), ScaleByBfgsState(
            num_points=num_points,
            num_updates=jnp.where(restart, 0, num_updates),
            params=jnp.where(accept, x, state.params),
            grads=jnp.where(accept, g, state.grads),
            inverse_hessian=jnp.where(restart, identity, updated),
            decrement=jnp.where(needs_direction, decrement, state.decrement),
        )

    return in_float32(optax.GradientTransformationExtraArgs(init, update))


def _coefficients(
    counts: tuple[jax.Array, jax.Array],
    pair: CurvaturePair,
    decrement: jax.Array,
    *,
    yhy: jax.Array,
    s_old_grad: jax.Array,
    damping: Any,
    accept: jax.Array,
) -> tuple[tuple[jax.Array, jax.Array], Coefficients]:
    """The two counts of the state after a pair, and the coefficients of the update of H.

    Args:
      counts: ``num_points`` and ``num_updates``.
      pair: the pair.
      decrement: g · H g, with g the gradient before the step.
      yhy: y · H y.
      s_old_grad: s · g, with g the gradient before the step.
      damping: μ.
      accept: whether the point is accepted.
    """
    num_points, num_updates = counts
    sy = pair.sy

    # Scale H: by eq. 6.20 before the first update, and by Oren and Luenberger's factor, if it is
    # above 1, before the next few.
    underestimate = (s_old_grad / sy) * (s_old_grad / decrement)
    factor = jnp.where(num_updates < NUM_SCALED_UPDATES, underestimate, 1)
    scale = jnp.where(num_updates == 0, sy / pair.yy, jnp.maximum(factor, 1))
    scale = jnp.where(pair.is_curved & jnp.isfinite(scale), scale, 1)
    yhy = scale * yhy

    # Damp s where s·y < μ y·Hy, so that s·y = μ y·Hy: Powell's rule, with the roles of the Hessian
    # and its inverse exchanged (Goldfarb, Ren and Bahamou).
    least = jnp.asarray(damping, sy.dtype) * yhy
    damped = sy < least
    theta = jnp.where(damped, (yhy - least) / (yhy - sy), 1)
    sy = jnp.maximum(sy, least)

    keep = accept & (num_points > 0) & (pair.is_curved | (damped & (sy > 0)))
    counts = (
        jnp.where(accept, optax.safe_increment(num_points), num_points),
        jnp.where(keep, optax.safe_increment(num_updates), num_updates),
    )
    return counts, Coefficients(
        keep=keep,
        theta=jnp.where(keep, theta, 1),
        scale=jnp.where(keep, scale, 1),
        outer=jnp.where(keep, (1 + yhy / sy) / sy, 0),
        cross=jnp.where(keep, scale / sy, 0),
    )


def bfgs(
    *,
    damping: jax.typing.ArrayLike = 0.0,
    search: Search = wolfe(),  # noqa: B008
    tol: jax.typing.ArrayLike = 0.0,
    atol: jax.typing.ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """BFGS with a line search: `with_line_search` of `scale_by_bfgs`.

    Args:
      damping: see `scale_by_bfgs`.
      search: see `with_line_search`.
      tol: see `with_line_search`.
      atol: see `with_line_search`.

    Returns:
      A transformation from gradients to steps, whose ``update`` needs ``value=``. Its state has
      N² + 5 N numbers.

    Raises:
      ValueError, TypeError: as `scale_by_bfgs` and `with_line_search` do.

    Example:
      >>> import cs231n_optax, jax, jax.numpy as jnp
      >>> def loss(x): return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
      >>> result = cs231n_optax.minimize(loss, jnp.array([-1.2, 1.0]), cs231n_optax.bfgs())
      >>> print(result.params.round(3), cs231n_optax.Status(int(result.status)).name)
      [1. 1.] CONVERGED

    Source:
      Lecture 7-1-9.

    Differs from:
      ``jax.scipy.optimize.minimize(method="BFGS")``, which gives up on this function: its search
      runs to its limit.
    """
    return with_line_search(
        scale_by_bfgs(damping=damping), search, unit_step=True, tol=tol, atol=atol
    )
