"""Newton's method without the Hessian (lecture 7-1-9, "what's the problem?"): O(N) memory.

H p = -g is solved by conjugate gradients, which need only products H v, each about as dear as two
gradients, and only as exactly as the outer iteration can use (Steihaug-Toint, Eisenstat-Walker).
With r = g + H p, d the direction of the inner step:

    α = r·r / d·Hd,   p ← p + α d,   r ← r + α H d,   d ← -r + (r·r / old r·r) d

until ‖r‖ <= η ‖g‖, or at the boundary ‖p‖ = Δ of the trust region, where a step would leave it or
d·Hd <= 0.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cs231n_optax import _checks, _tree
from cs231n_optax._lanes import any_lane, this_lane
from cs231n_optax.line_search.search import cubic_minimum
from cs231n_optax.second_order.hessian import ascent_direction
from cs231n_optax.second_order.trust_region import (
    Model,
    ModelStep,
    Sight,
    farthest,
    with_trust_region,
)

FORCING = 0.1  # the largest η
ORDER = (1 + 5**0.5) / 2  # of the decrease of η, and of the convergence

Product = Callable[[Any], Any]


class Inner(NamedTuple):
    """The inner iteration, for a gradient with the largest element 1.

    Attributes:
      step, residual, direction: p, r = g + H p and d, trees of the parameters.
      squared: r·r.
      radius: Δ.
      count: int32, products so far.
      going: bool, whether it goes on.
      negative: bool, whether d·Hd <= 0 was met.
      fine: bool, whether all products were finite.
    """

    step: Any
    residual: Any
    direction: Any
    squared: jax.Array
    radius: jax.Array
    count: jax.Array
    going: jax.Array
    negative: jax.Array
    fine: jax.Array


def truncated_cg(
    product: Product, g: Any, radius: jax.Array, forcing: jax.Array, max_products: jax.Array
) -> Inner:
    """The minimum of g·p + ½ p·H p in a ball, by conjugate gradients until one of them ends it.

    Args:
      product: v -> H v.
      g: a tree.
      radius: Δ; 0 for the length of the first inner step, ‖g‖³ / |g·Hg|.
      forcing: η, the residual to be reached relative to ‖g‖.
      max_products: at most.

    Returns:
      The last `Inner`, in the scale of ``g``.

    Source:
      T. Steihaug, "The conjugate gradient method and trust regions in large scale optimization",
      SIAM Journal on Numerical Analysis 20, 1983.
    """
    unit, scale = _to_unit(g)
    squared = _tree.vdot(unit, unit)
    largest_radius = farthest(squared.dtype)
    goal = forcing**2 * squared

    def iterate(old: Inner) -> Inner:
        hd = product(old.direction)
        curvature = _tree.vdot(old.direction, hd)
        fine = jnp.isfinite(curvature)
        newton = old.squared / jnp.where(curvature == 0, 1, curvature)
        cauchy = jnp.sqrt(old.squared) * jnp.abs(newton)
        usable = jnp.isfinite(cauchy) & (cauchy > 0)
        first = jnp.where(usable, cauchy, 1 / scale)
        radius = jnp.where(old.radius > 0, old.radius, jnp.minimum(first, largest_radius / scale))
        negative = ~(curvature > 0)
        to_boundary = _to_boundary(old.step, old.direction, radius)
        hits = negative | (newton >= to_boundary)
        length = jnp.where(fine, jnp.where(hits, to_boundary, newton), 0)
        residual = _tree.axpy(length, hd, old.residual)
        now = _tree.vdot(residual, residual)
        count = old.count + 1
        new = Inner(
            step=_tree.axpy(length, old.direction, old.step),
            residual=residual,
            direction=jax.tree.map(
                lambda r, d: _tree.cast(now / old.squared, d.dtype) * d - r, residual, old.direction
            ),
            squared=now,
            radius=radius,
            count=count,
            going=fine & ~hits & (now > goal) & (count < max_products),
            negative=negative & fine,
            fine=fine,
        )
        return _tree.select(this_lane(old.going), new, old)

    yes, no = jnp.ones((), bool), jnp.zeros((), bool)
    start = Inner(
        step=_tree.zeros_like(g),
        residual=unit,
        direction=jax.tree.map(jnp.negative, unit),
        squared=squared,
        radius=radius / scale,
        count=jnp.zeros((), jnp.int32),
        going=(squared > 0) & jnp.isfinite(squared) & (max_products > 0),
        negative=no,
        fine=yes,
    )
    end = jax.lax.while_loop(lambda inner: any_lane(inner.going), iterate, start)
    return end._replace(
        step=_tree.scale(scale, end.step),
        residual=_tree.scale(scale, end.residual),
        radius=end.radius * scale,
    )


def _to_boundary(p: Any, d: Any, radius: jax.Array) -> jax.Array:
    """τ >= 0 with ‖p + τ d‖ = Δ; every square is of numbers of the size of one."""
    length = jnp.sqrt(_tree.vdot(d, d))
    size, bound = jnp.where(length > 0, length, 1), jnp.where(radius > 0, radius, 1)
    q = _tree.scale(1 / bound, p)
    along = _tree.vdot(_tree.scale(1 / size, d), q)
    short = jnp.maximum(1 - _tree.vdot(q, q), 0)
    root = jnp.sqrt(along**2 + short)
    return bound / size * jnp.where(along > 0, short / (along + root), root - along)


class NewtonCgState(NamedTuple):
    """The model of `newton_cg` at the anchor: what the inner iteration came to.

    Attributes:
      num_hvps: int32, Hessian-vector products so far.
      step: p, the tree of the parameters.
      length: ‖p‖.
      slope: g·p.
      curvature: p·H p.
      grad_norm: ‖g‖, Euclidean.
    """

    num_hvps: jax.Array
    step: optax.Updates
    length: jax.Array
    slope: jax.Array
    curvature: jax.Array
    grad_norm: jax.Array


def newton_cg(
    *,
    gauss_newton: tuple[Callable[[Any], Any], Callable[[Any], Any]] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Newton's method for many parameters: Hessian-vector products, and memory of O(N).

    Truncated conjugate gradients within a trust region: they stop at the residual
    η = min(0.1, 0.9 (‖g‖ / ‖last g‖)^1.618), after 2 N + 10 products, or at the boundary, to which
    a direction of negative curvature is followed. Near a minimum the order of convergence is 1.6.

    A rejected trial needs no product: the next one lies nearer along the same step. The first
    radius is the length of the first inner step. ``num_hvps``, in the state, counts the products
    (``optax.tree.get(state, "num_hvps")``).

    Only on its way does the inner iteration meet negative curvature, and where the gradient is
    small enough to end the run no product is spent on it: `minimize` may say CONVERGED at a saddle
    that the run was heading for, or started on. `newton` sees all of the curvature.

    Args:
      gauss_newton: ``(model, loss)`` of an objective ``loss(model(params))``: then v -> Jᵀ L J v,
        with J the derivative of the model and L the Hessian of the loss in the model's output,
        takes the place of H v. It is positive semidefinite if the loss is convex, and cheaper.

    Returns:
      A transformation from gradients to steps. ``update(grads, state, params, value=...,
      value_fn=loss)`` takes the value at ``params`` and, unless ``gauss_newton`` is given, the
      objective, which is differentiated when a trial is accepted. The same objective belongs to
      every update between two accepted points. Under `jax.jit` with sharded parameters or data the
      products are computed where these lie. Memory: 4 N numbers, 4 N more during the inner
      iteration, and what one linearisation of the gradient keeps.

    Raises:
      TypeError: if ``gauss_newton`` is no pair of functions; from ``init``, if a parameter is
        narrower than float32 or not floating; from ``update``, if ``value`` or ``value_fn`` is
        missing.
      ValueError: from ``update``, if ``params`` are missing, or the trees or shapes are not those
        given to ``init``.

    Example:
      >>> import cs231n_optax, jax, jax.numpy as jnp
      >>> def loss(x): return jnp.sum((x**2 - 1) ** 2) + jnp.sum((x[1:] - x[:-1]) ** 2)
      >>> result = cs231n_optax.minimize(loss, jnp.full(10_000, 3.0), cs231n_optax.newton_cg())
      >>> print(cs231n_optax.Status(int(result.status)).name, result.params.round(3).mean())
      CONVERGED 1.0

    Source:
      Lecture 7-1-9 asks for it. T. Steihaug, 1983 (`truncated_cg`); S. C. Eisenstat and H. F.
      Walker, "Choosing the forcing terms in an inexact Newton method", SIAM Journal on Scientific
      Computing 17, 1996, choice 2; J. Nocedal and Y.-X. Yuan, "Combining trust region and line
      search techniques", in Advances in Nonlinear Programming, 1998, for the rejected trials. N. N.
      Schraudolph, "Fast curvature matrix-vector products for second-order gradient descent", Neural
      Computation 14, 2002, for Gauss-Newton.

    Differs from:
      SciPy's ``trust-ncg`` and ``Newton-CG``, whose forcing √‖g‖ changes with the units of f, and
      which spend new products on a rejected trial (``trust-ncg``).
    """
    if gauss_newton is not None and not (
        isinstance(gauss_newton, tuple | list)
        and len(gauss_newton) == 2
        and all(callable(function) for function in gauss_newton)
    ):
        raise TypeError(f"gauss_newton must be a pair (model, loss), got {gauss_newton!r}")
    update = functools.partial(_update_model, gauss_newton)
    model = Model(_init_model, update, _step_of_model)
    return with_trust_region(model, cubic_minimum, leave_saddles=True)


def _init_model(params: optax.Params) -> NewtonCgState:
    zero = jnp.zeros((), _tree.scalar_dtype(params))
    none = jnp.zeros((), jnp.int32)
    return NewtonCgState(none, _tree.zeros_like(params), zero, zero, zero, zero)


def _update_model(
    gauss_newton: Any,
    grads: optax.Updates,
    state: NewtonCgState,
    params: optax.Params,
    wanted: jax.Array,
    radius: jax.Array,
    *,
    value_fn: Any = None,
    tolerance: jax.typing.ArrayLike = 0.0,
    **extra_args: Any,
) -> tuple[NewtonCgState, Sight]:
    del extra_args
    largest = _tree.max_abs(grads)
    ends = largest <= jnp.asarray(tolerance, largest.dtype)  # so that no product is needed
    max_products = min(2 * _tree.num_reals(params) + 10, _checks.MAX_INT)

    def solve() -> tuple[NewtonCgState, Sight]:
        grad_norm = _norm(grads)
        relative = grad_norm / jnp.where(state.grad_norm > 0, state.grad_norm, grad_norm)
        forcing = jnp.minimum(FORCING, 0.9 * relative**ORDER)
        product = _products(params, value_fn, gauss_newton)
        end = truncated_cg(product, grads, radius, forcing, jnp.where(ends, 0, max_products))
        slope = _tree.vdot(grads, end.step)
        new = NewtonCgState(
            num_hvps=state.num_hvps + end.count,
            step=end.step,
            length=_norm(end.step),
            slope=slope,
            curvature=_tree.vdot(end.residual, end.step) - slope,
            grad_norm=grad_norm,
        )
        return new, Sight(end.fine, end.radius, end.negative)

    def keep() -> tuple[NewtonCgState, Sight]:
        return state, Sight(jnp.ones((), bool), radius, jnp.zeros((), bool))

    new, sight = jax.lax.cond(any_lane(wanted & ~ends), solve, keep)
    new = _tree.select(~ends, new, _init_model(params)._replace(num_hvps=new.num_hvps))
    num_hvps = jnp.where(wanted, new.num_hvps, state.num_hvps)
    return _tree.select(wanted & sight.fine, new, state)._replace(num_hvps=num_hvps), sight


def _step_of_model(state: NewtonCgState, radius: jax.Array, like: optax.Params) -> ModelStep:
    del like
    part = jnp.minimum(radius / jnp.where(state.length > 0, state.length, radius), 1)
    return ModelStep(
        step=_tree.scale(part, state.step),
        decrease=-part * (state.slope + part / 2 * state.curvature),
        slope=part * state.slope,
        length=part * state.length,
    )


def _products(params: Any, value_fn: Any, gauss_newton: Any) -> Product:
    """The products with H at a point, or with Gauss and Newton's Jᵀ L J: what they share, once."""
    if gauss_newton is None:
        if value_fn is None:
            raise TypeError(
                "newton_cg needs the objective: update(grads, state, params, value=..., "
                "value_fn=loss)"
            )
        return jax.linearize(ascent_direction(_checks.objective("value_fn", value_fn)), params)[1]
    model, loss = gauss_newton
    loss = _checks.objective("the loss of gauss_newton", loss)
    outputs, push = jax.linearize(model, params)
    pull = jax.vjp(model, params)[1]
    curvature = jax.linearize(jax.grad(loss), outputs)[1]
    return lambda v: jax.tree.map(jnp.conj, pull(curvature(push(v)))[0])


def _norm(tree: Any) -> jax.Array:
    """‖tree‖, whose square may overflow."""
    unit, scale = _to_unit(tree)
    return scale * jnp.sqrt(_tree.vdot(unit, unit))


def _to_unit(tree: Any) -> tuple[Any, jax.Array]:
    """The tree with its largest element scaled to 1, and the scale."""
    largest = _tree.max_abs(tree)
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    # Of a constant tree XLA would draw the scale out of an inner product: 0 · ∞.
    return jax.lax.optimization_barrier(_tree.scale(1 / scale, tree)), scale
