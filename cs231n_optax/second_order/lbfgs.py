"""L-BFGS (lecture 7-1-10): the inverse Hessian from the last m steps, never formed.

With the steps s and the changes of the gradient y of the last m pairs as rows of S and Y,
R = the upper triangle of S Yᵀ, D its diagonal, γ = the scale of H₀ = γ I:

    a = R⁻¹ S g,    q = γ (g - Yᵀ a),    H g = q + Sᵀ R⁻ᵀ (D a - Y q)

These are the two loops of the well-known recursion, each done at once.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cs231n_optax import _checks, _tree
from cs231n_optax._lanes import any_lane, in_one_kernel, this_lane
from cs231n_optax._precision import in_float32, widen_all
from cs231n_optax.line_search.search import Search
from cs231n_optax.line_search.with_line_search import with_line_search
from cs231n_optax.line_search.wolfe import wolfe
from cs231n_optax.second_order.curvature import is_curved

EARLY_STEPS = 20  # with the cautious scale
TINY = 8  # parameters up to which a loop over the pairs is faster, see benchmarks/README.md


class ScaleByLbfgsState(NamedTuple):
    """State of `scale_by_lbfgs`, for parameters of N numbers.

    Attributes:
      count: int32, the points seen.
      params, grads: the last point and its gradient, trees of the parameters.
      s, y: the pairs, trees of arrays (m, *shape of the leaf): a ring, a pair a row. 2 m N
        numbers.
      slot: int32, the row to be written next.
      scale: γ.
      sy: (m,), s · y of each pair, the diagonal D; 0 where there is none.
      r_inverse: (m, m), R⁻¹, its rows and columns in the order of the ring, with 0 where there is
        no pair. Empty for at most 8 parameters.
      s_grad: (m,), S g at the last point. Empty for at most 8 parameters.
    """

    selects_itself = True  # told accept= and restart=, see `_tree.select`

    count: jax.Array
    params: optax.Params
    grads: optax.Updates
    s: optax.Params
    y: optax.Updates
    slot: jax.Array
    scale: jax.Array
    sy: jax.Array
    r_inverse: jax.Array
    s_grad: jax.Array


class Push(NamedTuple):
    """What becomes of a new pair: whether it is kept, and the scalars of the state after it."""

    keep: jax.Array
    count: jax.Array
    slot: jax.Array
    scale: jax.Array


def scale_by_lbfgs(memory_size: int = 15) -> optax.GradientTransformationExtraArgs:
    """The L-BFGS direction H g, from the last ``memory_size`` pairs of points and gradients.

    Every update gives a pair s = x - x_last, y = g - g_last. It is left out unless
    s · y > ε ‖s‖ ‖y‖: then H would not stay positive definite. H₀ = γ I, with γ = s·s / s·y of
    the newest pair in the first 20 steps, and s·y / y·y from then on: of the two the first is the
    larger, and guards the flat directions that no step has been along. With no pair, H = I.

    Args:
      memory_size: m >= 1, a Python integer. Memory: (2 m + 2) N numbers for N parameters.

    Returns:
      A transformation of gradients to a direction, with their tree, shapes and dtypes, for
      `with_line_search`: `lbfgs` is the two together. ``update`` needs ``params``. By itself it
      takes every point; ``accept=False`` leaves the state as it is (the direction then means
      nothing), and ``restart=True`` forgets the pairs.

    Raises:
      ValueError: if ``memory_size`` < 1, or so large that an m × m matrix would take more than 4
        GiB, with the bytes; from ``update``, if ``params`` are missing, or the trees, shapes or
        dtypes are not those given to ``init``.
      TypeError: if ``memory_size`` is not a Python integer; from ``init`` and ``update``, if a
        leaf is not floating or complex.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp, numpy as np
      >>> tx = cs231n_optax.scale_by_lbfgs()
      >>> curvatures = jnp.array([1.0, 4.0])
      >>> state = tx.init(jnp.zeros(2))
      >>> for x in (jnp.array([3.0, 5.0]), jnp.array([4.0, 5.0]), jnp.array([4.0, 6.0])):
      ...     direction, state = tx.update(curvatures * x, state, x)
      >>> print(np.asarray(direction).round(3))  # after a step along each axis: to the minimum
      [4. 6.]

    Source:
      Lecture 7-1-10; J. Nocedal, Mathematics of Computation 35, 1980; the compact form: R. H.
      Byrd, J. Nocedal and R. B. Schnabel, Mathematical Programming 63, 1994; the two scales:
      J. Barzilai and J. M. Borwein, IMA Journal of Numerical Analysis 8, 1988.

    Differs from:
      ``optax.scale_by_lbfgs``, where γ is s·y / y·y throughout, m = 10, and a pair with
      s · y <= 0 empties a slot; its first direction is g / ‖g‖.
    """
    m = _checks.static_int("memory_size", memory_size, at_least=1)
    _checks.fits(f"memory_size={m} takes a {m} x {m} matrix", 4 * m * m, "keep fewer pairs")

    def init(params: optax.Params) -> ScaleByLbfgsState:
        dtype = _tree.scalar_dtype(params)
        k = 0 if _is_tiny(params) else m

        return ScaleByLbfgsState(
            count=jnp.zeros((), jnp.int32),
            params=_tree.zeros_like(params),
            grads=_tree.zeros_like(params),
            s=_tree.zero_rows(params, m),
            y=_tree.zero_rows(params, m),
            slot=jnp.zeros((), jnp.int32),
            scale=jnp.ones((), dtype),
            sy=jnp.zeros(m, dtype),
            r_inverse=jnp.zeros((k, k), dtype),
            s_grad=jnp.zeros(k, dtype),
        )

    def push(
        old: Push,
        accept: jax.Array,
        restart: jax.Array,
        sy: jax.Array,
        ss: jax.Array,
        yy: jax.Array,
    ) -> Push:
        keep = accept & (old.count > 0) & is_curved(sy, ss, yy)
        scale = jnp.where(old.count <= EARLY_STEPS, ss / sy, sy / yy)
        scale = jnp.where(jnp.isfinite(scale), scale, old.scale)
        count = jnp.where(accept, optax.safe_increment(old.count), old.count)
        next_slot = jnp.where(old.slot == m - 1, 0, old.slot + 1)
        return Push(
            keep=keep,
            count=count,
            slot=jnp.where(keep, next_slot, old.slot),
            scale=jnp.where(restart, 1, jnp.where(keep, scale, old.scale)),
        )

    def update(
        updates: optax.Updates,
        state: Any,
        params: optax.Params | None = None,
        *,
        accept: jax.typing.ArrayLike = True,
        restart: jax.typing.ArrayLike = False,
        **extra_args: Any,
    ) -> tuple[optax.Updates, ScaleByLbfgsState]:
        del extra_args
        if params is None:
            raise ValueError("scale_by_lbfgs needs the parameters: update(grads, state, params)")
        grads, params = updates, widen_all("parameter", params)
        _tree.check_like("gradients", grads, state.params)
        _tree.check_like("parameters", params, state.params)
        accept, restart = jnp.asarray(accept), jnp.asarray(restart)
        turn, slot = accept | restart, state.slot

        # The new pair.
        s = jax.tree.map(jnp.subtract, params, state.params)
        y = jax.tree.map(jnp.subtract, grads, state.grads)
        sy = _tree.vdot(s, y)
        before = Push(jnp.zeros((), bool), state.count, slot, state.scale)
        after = in_one_kernel(
            turn, push, before, accept, restart, sy, _tree.vdot(s, s), _tree.vdot(y, y)
        )
        keep = after.keep

        def write(rows: jax.Array, row: jax.Array) -> jax.Array:
            return _set_row(rows, slot, jnp.where(keep, row, _row(rows, slot)))

        here = keep & (jnp.arange(m, dtype=jnp.int32) == slot)
        new = state._replace(
            count=after.count,
            params=_tree.select(accept, params, state.params),
            grads=_tree.select(accept, grads, state.grads),
            s=jax.tree.map(write, state.s, s),
            y=jax.tree.map(write, state.y, y),
            slot=after.slot,
            scale=after.scale,
            sy=jnp.where(restart, 0, jnp.where(here, sy, state.sy)),
        )

        # The direction: for one lane only when it is wanted, in a batch when any lane wants it.
        if _is_tiny(params):
            return _two_loops(grads, new), new
        old = (state.r_inverse, state.s_grad)
        direction, small = jax.lax.cond(
            any_lane(turn),
            lambda: _compact(grads, new, slot, keep, restart),
            lambda: (grads, old),
        )
        r_inverse, s_grad = _tree.select(this_lane(turn), small, old)
        return direction, new._replace(r_inverse=r_inverse, s_grad=s_grad)

    return in_float32(optax.GradientTransformationExtraArgs(init, update))


def lbfgs(
    memory_size: int = 15,
    *,
    search: Search = wolfe(),  # noqa: B008
) -> optax.GradientTransformationExtraArgs:
    """L-BFGS with a line search: `with_line_search` of `scale_by_lbfgs`.

    One value and one gradient an update, in the ordinary Optax loop:

    Args:
      memory_size: see `scale_by_lbfgs`.
      search: see `with_line_search`.

    Returns:
      A transformation from gradients to steps; its ``update`` needs ``value=``. Memory:
      (2 m + 5) N numbers.

    Raises:
      As `scale_by_lbfgs` and `with_line_search` do.

    Example:
      >>> import cs231n_optax, jax, jax.numpy as jnp, optax
      >>> def loss(x): return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
      >>> tx = cs231n_optax.lbfgs()
      >>> @jax.jit
      ... def step(params, state):
      ...     value, grads = jax.value_and_grad(loss)(params)
      ...     updates, state = tx.update(grads, state, params, value=value)
      ...     return optax.apply_updates(params, updates), state
      >>> params = jnp.array([-1.2, 1.0])
      >>> state = tx.init(params)
      >>> for _ in range(60):
      ...     params, state = step(params, state)
      >>> print(cs231n_optax.accepted_params(state).round(3))
      [1. 1.]

    Source:
      Lecture 7-1-10.

    Differs from:
      ``optax.lbfgs``, whose ``update`` needs the objective and evaluates it; see
      `with_line_search`.
    """
    return with_line_search(scale_by_lbfgs(memory_size), search, unit_step=True)


def _is_tiny(params: Any) -> bool:
    return sum(jnp.size(x) for x in jax.tree.leaves(params)) <= TINY


def _two_loops(grads: Any, state: ScaleByLbfgsState) -> Any:
    """H g by two loops over the pairs, which a CPU runs as one kernel each."""
    m = len(state.sy)
    rho = jnp.where(state.sy > 0, 1 / state.sy, 0)

    def backward(k: jax.Array, carry: Any) -> Any:
        q, a = carry
        i = (state.slot + (m - 1) - k) % m
        a_i = _row(rho, i) * _tree.vdot(_rows(state.s, i), q)
        return _tree.axpy(-a_i, _rows(state.y, i), q), _set_row(a, i, a_i)

    def forward(k: jax.Array, q: Any) -> Any:
        i = (state.slot + k) % m
        b_i = _row(rho, i) * _tree.vdot(_rows(state.y, i), q)
        return _tree.axpy(_row(a, i) - b_i, _rows(state.s, i), q)

    first, last = jnp.int32(0), jnp.int32(m)
    q, a = jax.lax.fori_loop(first, last, backward, (grads, jnp.zeros_like(rho)))
    return jax.lax.fori_loop(first, last, forward, _tree.scale(state.scale, q))


def _compact(
    grads: Any, state: ScaleByLbfgsState, slot: jax.Array, keep: jax.Array, restart: jax.Array
) -> tuple[Any, tuple[jax.Array, jax.Array]]:
    """H g by the compact form, R⁻¹ with the new pair, and S g.

    A pair adds the row s·yⱼ = 0 (it is newer than all j) and the column S y to R, and so the
    column -R⁻¹ S y / s·y to R⁻¹; leaving out the oldest pair, the first in R's order, leaves out
    its row and column of R⁻¹. S y = S g - S g_last costs no further reading of S.
    """
    here = jnp.arange(len(state.sy), dtype=jnp.int32) == slot
    s_grad = _tree.rows_dot(state.s, grads)
    s_y = jnp.where(here, 0, s_grad - state.s_grad)
    old = jnp.where(restart, 0, state.r_inverse)
    divisor = jnp.where(keep, _row(state.sy, slot), 1)
    column = jnp.where(here, 1, -(old @ s_y)) / divisor
    new = jnp.where(here[None, :], column[:, None], jnp.where(here[:, None], 0, old))
    r_inverse = jnp.where(keep, new, old)

    a = r_inverse @ s_grad
    q = _tree.scale(state.scale, jax.tree.map(jnp.subtract, grads, _tree.combine(a, state.y)))
    b = (state.sy * a - _tree.rows_dot(state.y, q)) @ r_inverse
    return jax.tree.map(jnp.add, q, _tree.combine(b, state.s)), (r_inverse, s_grad)


def _rows(rows: Any, i: jax.Array) -> Any:
    return jax.tree.map(lambda r: _row(r, i), rows)


def _row(rows: jax.Array, i: jax.Array) -> jax.Array:
    return jax.lax.dynamic_index_in_dim(rows, i, 0, keepdims=False)


def _set_row(rows: jax.Array, i: jax.Array, row: jax.Array) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(rows, row, i, 0)
