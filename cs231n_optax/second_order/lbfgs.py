"""L-BFGS (lecture 7-1-10): the inverse Hessian from the last m steps, never formed.

Let the rows of S and Y be the steps s and the changes of the gradient y of the last m pairs, the
oldest first, R the upper triangle of S Yᵀ, D its diagonal, and H₀ = γ I. Then

    a = R⁻¹ S g,    q = γ (g - Yᵀ a),    H g = q + Sᵀ R⁻ᵀ (D a - Y q)

This is the compact form of Byrd, Nocedal and Schnabel (1994, theorem 2.2). Its parts are the two
loops of the two-loop recursion (Nocedal and Wright, 2006, algorithm 7.4), each as one operation.
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
from cs231n_optax.second_order.curvature_pair import (
    CurvaturePair,
    curvature_pair,
    r_inverse_with_pair,
)

EARLY_STEPS = 20  # steps with γ = s·s / s·y
TINY = 8  # number of parameters up to which the two loops are faster, see benchmarks/README.md


class ScaleByLbfgsState(NamedTuple):
    """State of `scale_by_lbfgs`, for parameters of N numbers.

    Attributes:
      num_points: int32, the number of points seen.
      params, grads: the last point and its gradient, trees of the parameters.
      s, y: the pairs, trees of arrays (m, *shape of the leaf): a ring buffer with one pair a row.
      slot: int32, the row to be written next.
      scale: γ.
      sy: (m,), s·y of each pair, the diagonal D; 0 in empty rows.
      r_inverse: (m, m), R⁻¹, with rows and columns in the order of the ring buffer, and 0 for empty
        rows. Not used for at most 8 parameters, then (1, 1).
      s_grad: (m,), S g at the last point. Not used for at most 8 parameters, then (1,).
    """

    handles_accept = True  # takes accept= and restart=, see `_tree.select`

    num_points: jax.Array
    params: optax.Params
    grads: optax.Updates
    s: optax.Params
    y: optax.Updates
    slot: jax.Array
    scale: jax.Array
    sy: jax.Array
    r_inverse: jax.Array
    s_grad: jax.Array


class LbfgsPairs(NamedTuple):
    """What `lbfgs_pairs` returns.

    Attributes:
      s, y: trees of the parameters, with a leading axis of ``memory_size``: the steps between
        accepted points and the changes of the gradient, the oldest first. Rows from ``num`` on are
        zero.
      num: int32 scalar, the number of pairs.
    """

    s: optax.Params
    y: optax.Updates
    num: jax.Array


class Scalars(NamedTuple):
    """The scalars of the state."""

    num_points: jax.Array
    slot: jax.Array
    scale: jax.Array


def scale_by_lbfgs(memory_size: int = 15) -> optax.GradientTransformationExtraArgs:
    """The L-BFGS direction H g, from the last ``memory_size`` pairs of points and gradients.

    Every update gives a pair s = x - x_last, y = g - g_last. It is skipped unless
    s·y > ε ‖s‖ ‖y‖, since otherwise H would not stay positive definite. H₀ = γ I, where
    γ = s·s / s·y of the newest pair in the first 20 steps, and s·y / y·y after that. The first
    one is the larger of the two, and keeps H large in flat directions that no step has explored.
    Before the first pair, H = I.

    Args:
      memory_size: m >= 1, a Python integer. Memory: (2 m + 2) N numbers for N parameters.

    Returns:
      A transformation of gradients to a direction, with their tree, shapes and dtypes, for
      `with_line_search`: `lbfgs` is the two together. ``update`` needs ``params``. With
      ``accept=False`` the state does not change, and the direction is undefined. With
      ``restart=True`` the pairs are discarded.

    Raises:
      ValueError: if ``memory_size`` < 1, or if an m × m matrix would take more than 4 GiB; from
        ``update``, if ``params`` are missing, or trees, shapes or dtypes differ from those given
        to ``init``.
      TypeError: if ``memory_size`` is not a Python integer, or a leaf is not floating or complex.

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
      ``optax.scale_by_lbfgs``, where γ is always s·y / y·y, m = 10, a pair with s·y <= 0 empties a
      slot, and the first direction is g / max(1, ‖g‖).
    """
    m = _checks.static_int("memory_size", memory_size, at_least=1)
    _checks.fits_in_memory(
        f"memory_size={m} takes a {m} x {m} matrix", 4 * m * m, "keep fewer pairs"
    )

    def init(params: optax.Params) -> ScaleByLbfgsState:
        dtype = _tree.scalar_dtype(params)
        k = 1 if _is_tiny(params) else m  # 1, since Orbax can't save an array of size zero

        return ScaleByLbfgsState(
            num_points=jnp.zeros((), jnp.int32),
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
        _checks.own_state("scale_by_lbfgs", state, ScaleByLbfgsState)
        _checks.own_rows("scale_by_lbfgs", "memory_size", m, len(state.sy))
        _checks.params_given("scale_by_lbfgs", params)
        grads, params = updates, widen_all("parameter", params)
        _checks.like("gradients", grads, state.params)
        _checks.like("parameters", params, state.params)
        accept, restart = jnp.asarray(accept), jnp.asarray(restart)
        needs_direction = accept | restart

        # Store the new pair, if it is curved.
        pair = curvature_pair(params, grads, state.params, state.grads)
        scalars, keep = fused_if(
            needs_direction,
            lambda scalars: _next_scalars(scalars, pair, m=m, accept=accept, restart=restart),
            Scalars(state.num_points, state.slot, state.scale),
        )
        slot = state.slot
        sy = jnp.where(keep & _tree.is_row(slot, m), pair.sy, state.sy)
        new = state._replace(
            **scalars._asdict(),
            params=_tree.select(accept, params, state.params),
            grads=_tree.select(accept, grads, state.grads),
            s=_tree.write_row(state.s, slot, pair.s, keep=keep),
            y=_tree.write_row(state.y, slot, pair.y, keep=keep),
            sy=jnp.where(restart, 0, sy),
        )

        # The direction H g, where it is needed. The two forms agree up to rounding.
        if _is_tiny(params):
            direction = jax.lax.platform_dependent(
                cpu=lambda: _two_loops(grads, new, unroll=False),
                default=lambda: _two_loops(grads, new, unroll=True),
            )
            return direction, new
        old = Compact(state.r_inverse, state.s_grad)
        direction, compact = compute_if(
            needs_direction,
            lambda: _compact_form(grads, new, old, slot=slot, keep=keep, restart=restart),
            otherwise=(grads, old),
        )
        return direction, new._replace(r_inverse=compact.r_inverse, s_grad=compact.s_grad)

    return in_float32(optax.GradientTransformationExtraArgs(init, update))


def _next_scalars(
    old: Scalars, pair: CurvaturePair, *, m: int, accept: jax.Array, restart: jax.Array
) -> tuple[Scalars, jax.Array]:
    """The scalars of the state after a pair, and whether the pair is kept."""
    keep = accept & (old.num_points > 0) & pair.is_curved
    # The two scales of Barzilai and Borwein; the second one is eq. 7.20.
    early = old.num_points <= EARLY_STEPS
    scale = jnp.where(early, pair.ss / pair.sy, pair.sy / pair.yy)
    scale = jnp.where(jnp.isfinite(scale), scale, old.scale)
    next_slot = jnp.where(old.slot == m - 1, 0, old.slot + 1)
    scalars = Scalars(
        num_points=jnp.where(accept, optax.safe_increment(old.num_points), old.num_points),
        slot=jnp.where(keep, next_slot, old.slot),
        scale=jnp.where(restart, 1, jnp.where(keep, scale, old.scale)),
    )
    return scalars, keep


def lbfgs(
    memory_size: int = 15,
    *,
    search: Search = wolfe(),  # noqa: B008
    tol: jax.typing.ArrayLike = 0.0,
    atol: jax.typing.ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """L-BFGS with a line search: `with_line_search` of `scale_by_lbfgs`.

    Each update takes one value and one gradient, in the ordinary Optax loop.

    Args:
      memory_size: see `scale_by_lbfgs`.
      search: see `with_line_search`.
      tol: see `with_line_search`.
      atol: see `with_line_search`.

    Returns:
      A transformation from gradients to steps, whose ``update`` needs ``value=``. Its state has
      (2 m + 5) N numbers.

    Raises:
      ValueError, TypeError: as `scale_by_lbfgs` and `with_line_search` do.

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
    return with_line_search(scale_by_lbfgs(memory_size), search, unit_step=True, tol=tol, atol=atol)


def lbfgs_pairs(state: Any) -> LbfgsPairs:
    """The pairs s = x - x_last, y = g - g_last from which L-BFGS computes its direction.

    They are an approximation of the inverse Hessian at the solution, for error bars or for a
    preconditioner. Works under `jax.jit`; of a state made by `jax.vmap`, use
    ``jax.vmap(lbfgs_pairs)``.

    Args:
      state: the state of `lbfgs` or `scale_by_lbfgs`, or any state that holds one.

    Raises:
      ValueError: if the state does not hold exactly one state of `scale_by_lbfgs`.

    Example:
      >>> import cs231n_optax, jax.numpy as jnp
      >>> curvatures = jnp.array([1.0, 4.0])
      >>> def fun(x): return jnp.sum(curvatures * x**2) / 2
      >>> result = cs231n_optax.minimize(fun, jnp.ones(2), cs231n_optax.lbfgs(memory_size=5))
      >>> pairs = cs231n_optax.lbfgs_pairs(result.state)
      >>> print(pairs.s.shape, bool(jnp.allclose(pairs.y, curvatures * pairs.s, atol=1e-5)))
      (5, 2) True

    Source:
      Nocedal and Wright, section 7.2.
    """
    found = _tree.find(state, ScaleByLbfgsState)
    if len(found) != 1:
        raise ValueError(f"the state holds {len(found)} states of scale_by_lbfgs, expected 1")
    state = found[0]
    m = len(state.sy)
    num = jnp.sum(state.sy > 0, dtype=jnp.int32)

    # The rows before the one to be written next are the newest pairs.
    i = jnp.arange(m, dtype=jnp.int32)
    order, is_pair = (state.slot - num + i) % m, i < num

    def sort(rows: jax.Array) -> jax.Array:
        return jax.vmap(lambda keep, row: jnp.where(keep, row, 0))(is_pair, rows[order])

    return LbfgsPairs(jax.tree.map(sort, state.s), jax.tree.map(sort, state.y), num)


def _is_tiny(params: Any) -> bool:
    return sum(jnp.size(x) for x in jax.tree.leaves(params)) <= TINY


def _two_loops(grads: Any, state: ScaleByLbfgsState, *, unroll: bool) -> Any:
    """H g by algorithm 7.4. XLA for CPU compiles each loop over a few numbers into one kernel."""
    m = len(state.sy)
    rho = jnp.where(state.sy > 0, 1 / state.sy, 0)  # 0 skips an empty row

    # From the newest pair to the oldest: aᵢ = ρᵢ sᵢ·q, q ← q - aᵢ yᵢ.
    def backward(k: jax.Array, carry: Any) -> Any:
        q, a = carry
        i = (state.slot + (m - 1) - k) % m
        a_i = _tree.row(rho, i) * _tree.vdot(_row_of_each(state.s, i), q)
        return _tree.axpy(-a_i, _row_of_each(state.y, i), q), _tree.set_row(a, i, a_i)

    # From the oldest to the newest: q ← q + (aᵢ - ρᵢ yᵢ·q) sᵢ.
    def forward(k: jax.Array, q: Any) -> Any:
        i = (state.slot + k) % m
        b_i = _tree.row(rho, i) * _tree.vdot(_row_of_each(state.y, i), q)
        return _tree.axpy(_tree.row(a, i) - b_i, _row_of_each(state.s, i), q)

    q, a = grads, jnp.zeros_like(rho)
    q, a = jax.lax.fori_loop(0, m, backward, (q, a), unroll=unroll)
    q = _tree.scale(state.scale, q)
    return jax.lax.fori_loop(0, m, forward, q, unroll=unroll)


class Compact(NamedTuple):
    """The small arrays of the compact form, see `ScaleByLbfgsState`."""

    r_inverse: jax.Array
    s_grad: jax.Array


def _compact_form(
    grads: Any,
    state: ScaleByLbfgsState,
    old: Compact,
    *,
    slot: jax.Array,
    keep: jax.Array,
    restart: jax.Array,
) -> tuple[Any, Compact]:
    """H g by the compact form. ``state`` already has the new pair, in row ``slot``."""
    # S g, and S y of the new y: S g - S g_last, without another pass over S.
    s_grad = _tree.rows_dot(state.s, grads)
    s_y = s_grad - old.s_grad

    # R⁻¹ with the new pair.
    r_inverse = jnp.where(restart, 0, old.r_inverse)
    sy = jnp.where(keep, _tree.row(state.sy, slot), 1)
    r_inverse = jnp.where(keep, r_inverse_with_pair(r_inverse, slot, s_y, sy), r_inverse)

    # a = R⁻¹ S g,   q = γ (g - Yᵀ a),   H g = q + Sᵀ R⁻ᵀ (D a - Y q)
    a = _tree.matvec(r_inverse, s_grad)
    q = jax.tree.map(jnp.subtract, grads, _tree.combine(a, state.y))
    q = _tree.scale(state.scale, q)
    b = _tree.matvec(r_inverse.T, state.sy * a - _tree.rows_dot(state.y, q))
    direction = jax.tree.map(jnp.add, q, _tree.combine(b, state.s))
    return direction, Compact(r_inverse, s_grad)


def _row_of_each(rows: Any, i: jax.Array) -> Any:
    return jax.tree.map(lambda r: _tree.row(r, i), rows)
