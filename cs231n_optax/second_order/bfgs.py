"""BFGS (lecture 7-1-9): the inverse Hessian as a dense matrix, built up from the steps.

With s = the step, y = the change of the gradient:

    H ← (I - s yᵀ / s·y) H (I - y sᵀ / s·y) + s sᵀ / s·y
      = H + (1 + y·Hy / s·y) s sᵀ / s·y - (Hy sᵀ + s (Hy)ᵀ) / s·y
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cs231n_optax import _checks, _tree
from cs231n_optax._lanes import any_lane, in_one_kernel
from cs231n_optax._precision import in_float32, widen_all
from cs231n_optax.line_search.search import Search
from cs231n_optax.line_search.with_line_search import with_line_search
from cs231n_optax.line_search.wolfe import wolfe
from cs231n_optax.second_order.curvature import is_curved
from cs231n_optax.second_order.hessian import check_fits

EARLY_STEPS = 10  # in which H may grow as a whole


class ScaleByBfgsState(NamedTuple):
    """State of `scale_by_bfgs`, for parameters of N real numbers, ravelled in the tree's order.

    Attributes:
      count: int32, the points seen.
      pairs: int32, the updates of H so far, since it was made anew.
      params, grads: (N,), the last point and its gradient.
      inverse_hessian: (N, N), H, positive definite, and symmetric to rounding.
      decrement: g · H g at the last point.
    """

    selects_itself = True  # told accept= and restart=, see `_tree.select`

    count: jax.Array
    pairs: jax.Array
    params: jax.Array
    grads: jax.Array
    inverse_hessian: jax.Array
    decrement: jax.Array


class Change(NamedTuple):
    """The next update of H: scale H + outer s sᵀ - cross (Hy sᵀ + s (Hy)ᵀ); scalars.

    Attributes:
      keep: whether there is one, or the pair is left out.
      count, pairs: those of the state after it.
      theta: s is to be θ s + (1 - θ) scale Hy.
      scale, outer, cross: as above; 1, 0 and 0 where the pair is left out.
    """

    keep: jax.Array
    count: jax.Array
    pairs: jax.Array
    theta: jax.Array
    scale: jax.Array
    outer: jax.Array
    cross: jax.Array


def scale_by_bfgs(*, damping: jax.typing.ArrayLike = 0.0) -> optax.GradientTransformationExtraArgs:
    """The BFGS direction H g, with H a dense N × N matrix over the ravelled parameters.

    A pair with s · y <= ε ‖s‖ ‖y‖ is left out, or else damped. The first pair scales
    H₀ = (s·y / y·y) I. Before each of the next nine, H is multiplied by
    max(1, (s·g)² / (g·Hg s·y)), with g the gradient before the step, so that it grows when it has
    underrated the step. With no pair, H = I.

    Args:
      damping: μ in [0, 1), a number or a scalar array (may be traced). For μ > 0, where
        s·y < μ y·Hy, s is replaced by the mean θ s + (1 - θ) Hy with s·y = μ y·Hy, so that every
        pair counts and H stays positive definite also without a line search; Powell's μ is 0.2.

    Returns:
      A transformation of gradients to a direction, with their tree, shapes and dtypes, for
      `with_line_search`: `bfgs` is the two together. ``update`` needs ``params``, and takes
      ``accept`` and ``restart`` as `scale_by_lbfgs` does.

    Raises:
      ValueError: if a Python ``damping`` is outside [0, 1); from ``init``, if H would take more
        than 4 GiB, with the bytes; from ``update``, if ``params`` are missing, or the
        gradients' tree, shapes or dtypes are not theirs, or N is not that of ``init``.
      TypeError: if ``damping`` is not a number; from ``init`` and ``update``, if a leaf is not
        floating or complex.

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
            count=jnp.zeros((), jnp.int32),
            pairs=jnp.zeros((), jnp.int32),
            params=flat,
            grads=jnp.copy(flat),
            inverse_hessian=jnp.eye(flat.size, dtype=dtype),
            decrement=jnp.zeros((), dtype),
        )

    def change(
        old: Change,
        accept: jax.Array,
        restart: jax.Array,
        decrement: jax.Array,
        products: tuple[jax.Array, ...],
    ) -> Change:
        sy, ss, yy, yhy, sg = products
        usual = is_curved(sy, ss, yy)
        underrated = jnp.where(old.pairs < EARLY_STEPS, (sg / sy) * (sg / decrement), 1)
        scale = jnp.where(old.pairs == 0, sy / yy, jnp.maximum(underrated, 1))
        scale = jnp.where(usual & jnp.isfinite(scale), scale, 1)
        yhy = scale * yhy
        least = jnp.asarray(damping, sy.dtype) * yhy
        damped = sy < least
        theta = jnp.where(damped, (yhy - least) / (yhy - sy), 1)
        sy = jnp.maximum(sy, least)
        keep = accept & (old.count > 0) & (usual | (damped & (sy > 0)))
        pairs = jnp.where(keep, optax.safe_increment(old.pairs), old.pairs)
        return Change(
            keep=keep,
            count=jnp.where(accept, optax.safe_increment(old.count), old.count),
            pairs=jnp.where(restart, 0, pairs),
            theta=jnp.where(keep, theta, 1),
            scale=jnp.where(keep, scale, 1),
            outer=jnp.where(keep, (1 + yhy / sy) / sy, 0),
            cross=jnp.where(keep, scale / sy, 0),
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
        if params is None:
            raise ValueError("scale_by_bfgs needs the parameters: update(grads, state, params)")
        params = widen_all("parameter", params)
        _tree.check_like("gradients", updates, params, of="the parameters")
        x, g = _tree.ravel(params), _tree.ravel(updates)
        _tree.check_like("ravelled parameters", x, state.params)
        accept, restart = jnp.asarray(accept), jnp.asarray(restart)
        turn, inverse = accept | restart, state.inverse_hessian
        s, y = x - state.params, g - state.grads

        # For one lane only where a direction is wanted, in a batch where any lane wants one.
        hy, hg = jax.lax.cond(
            any_lane(turn),
            lambda: (_tree.matvec(inverse, y), _tree.matvec(inverse, g)),
            lambda: (y, g),
        )
        one, zero = jnp.ones_like(state.decrement), jnp.zeros_like(state.decrement)
        new = in_one_kernel(
            turn,
            change,
            Change(jnp.zeros((), bool), state.count, state.pairs, one, one, zero, zero),
            accept,
            restart,
            state.decrement,
            (
                _tree.vdot(s, y),
                _tree.vdot(s, s),
                _tree.vdot(y, y),
                _tree.vdot(y, hy),
                _tree.vdot(s, state.grads),
            ),
        )
        s = new.theta * s + (1 - new.theta) * new.scale * hy
        cross = jnp.outer(hy, s) + jnp.outer(s, hy)
        updated = new.scale * inverse + new.outer * jnp.outer(s, s) - new.cross * cross
        inverse = jnp.where(new.keep, updated, inverse)
        identity = jnp.eye(len(g), dtype=inverse.dtype)
        sg = _tree.vdot(s, g)
        along = new.outer * sg - new.cross * _tree.vdot(hy, g)
        updated_direction = new.scale * hg + along * s - new.cross * sg * hy
        direction = jnp.where(restart, g, jnp.where(new.keep, updated_direction, hg))
        return _tree.unravel(direction, updates), ScaleByBfgsState(
            count=new.count,
            pairs=new.pairs,
            params=jnp.where(accept, x, state.params),
            grads=jnp.where(accept, g, state.grads),
            inverse_hessian=jnp.where(restart, identity, inverse),
            decrement=jnp.where(turn, _tree.vdot(g, direction), state.decrement),
        )

    return in_float32(optax.GradientTransformationExtraArgs(init, update))


def bfgs(
    *,
    damping: jax.typing.ArrayLike = 0.0,
    search: Search = wolfe(),  # noqa: B008
) -> optax.GradientTransformationExtraArgs:
    """BFGS with a line search: `with_line_search` of `scale_by_bfgs`.

    Args:
      damping: see `scale_by_bfgs`.
      search: see `with_line_search`.

    Returns:
      A transformation from gradients to steps; its ``update`` needs ``value=``. Memory:
      N² + 5 N numbers.

    Raises:
      As `scale_by_bfgs` and `with_line_search` do.

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
    return with_line_search(scale_by_bfgs(damping=damping), search, unit_step=True)
