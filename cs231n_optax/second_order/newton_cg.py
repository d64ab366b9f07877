"""Newton's method without the Hessian (lecture 7-1-9, "what's the problem?"): O(N) memory.

H p = -g is solved by conjugate gradients. They need only products H v, each of the cost of about
two gradients, and stop as soon as the outer iteration gains nothing from a more exact solution.
With r = g + H p, and d the direction of the inner iteration:

    α = r·r / d·Hd,   p ← p + α d,   r ← r + α H d,   d ← -r + (r·r / old r·r) d

until ‖r‖ <= η ‖g‖, or at the boundary ‖p‖ = Δ of the trust region, if a step would leave it or
d·Hd <= 0.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cs231n_optax import _checks, _tree
from cs231n_optax._batching import active_in_batch, any_in_batch, compute_if, vary, varying_axes
from cs231n_optax.globalization.acceptance import Evaluation
from cs231n_optax.globalization.search import cubic_minimum
from cs231n_optax.globalization.trust_region import (
    Model,
    ModelInfo,
    ModelStep,
    largest_radius,
    with_trust_region,
)
from cs231n_optax.second_order.hessian import ascent_direction

MAX_FORCING = 0.1  # the largest η
ORDER = (1 + 5**0.5) / 2  # of the decrease of η, and of the convergence

Product = Callable[[Any], Any]


class InnerState(NamedTuple):
    """The inner iteration, for a gradient with the largest |element| 1.

    Attributes:
      step, residual, direction: p, r = g + H p and d, trees of the parameters.
      squared: r·r.
      radius: Δ.
      count: int32, number of products.
      running: bool, whether it goes on.
      negative: bool, whether a direction had d·Hd <= 0.
      is_finite: bool, whether all products were finite.
    """

    step: Any
    residual: Any
    direction: Any
    squared: jax.Array
    radius: jax.Array
    count: jax.Array
    running: jax.Array
    negative: jax.Array
    is_finite: jax.Array


def truncated_cg(
    product: Product,
    g: Any,
    radius: jax.Array,
    *,
    choose_radius: jax.Array,
    forcing: jax.Array,
    max_products: jax.Array,
) -> InnerState:
    """Minimise g·p + ½ p·H p in a ball by conjugate gradients, as far as needed.

    Args:
      product: v -> H v.
      g: a tree.
      radius: Δ.
      choose_radius: bool scalar, whether Δ is instead the length of the first inner step,
        ‖g‖³ / |g·Hg|.
      forcing: η, the relative residual at which to stop.
      max_products: int32, the largest number of products.

    Returns:
      The last `InnerState`, in the scale of ``g``.

    Source:
      T. Steihaug, "The conjugate gradient method and trust regions in large scale optimization",
      SIAM Journal on Numerical Analysis 20, 1983; Nocedal and Wright, algorithm 7.2.
    """
    unit, scale = _to_unit(g)
    squared = _tree.vdot(unit, unit)
    bound = largest_radius(squared.dtype) / scale
    goal = forcing**2 * squared

    def iterate(old: InnerState) -> InnerState:
        hd = product(old.direction)
        curvature = _tree.vdot(old.direction, hd)
        is_finite = jnp.isfinite(curvature)
        alpha = old.squared / jnp.where(curvature == 0, 1, curvature)

        # The first step of all sets the radius, if there is none yet.
        first_length = jnp.sqrt(old.squared) * jnp.abs(alpha)
        usable = jnp.isfinite(first_length) & (first_length > 0)
        first_radius = jnp.minimum(jnp.where(usable, first_length, 1 / scale), bound)
        radius = jnp.where(choose_radius & (old.count == 0), first_radius, old.radius)

        # Go to the boundary along negative curvature, or if the step would leave the ball.
        negative = ~(curvature > 0)
        to_boundary = _to_boundary(old.step, old.direction, radius)
        hits = negative | (alpha >= to_boundary)
        length = jnp.where(is_finite, jnp.where(hits, to_boundary, alpha), 0)

        # The conjugate-gradient step.
        residual = _tree.axpy(length, hd, old.residual)
        squared = _tree.vdot(residual, residual)
        count = old.count + 1
        new = InnerState(
            step=_tree.axpy(length, old.direction, old.step),
            residual=residual,
            direction=jax.tree.map(
                lambda r, d: _tree.cast(squared / old.squared, d.dtype) * d - r,
                residual,
                old.direction,
            ),
            squared=squared,
            radius=radius,
            count=count,
            running=is_finite & ~hits & (squared > goal) & (count < max_products),
            negative=negative & is_finite,
            is_finite=is_finite,
        )
        return _tree.select(active_in_batch(old.running), new, old)

    start = InnerState(
        step=_tree.zeros_like(g),
        residual=unit,
        direction=jax.tree.map(jnp.negative, unit),
        squared=squared,
        radius=radius / scale,
        count=jnp.zeros((), jnp.int32),
        running=(squared > 0) & jnp.isfinite(squared) & (max_products > 0),
        negative=jnp.zeros((), bool),
        is_finite=jnp.ones((), bool),
    )
    start = vary(start, varying_axes(start))
    end = jax.lax.while_loop(lambda inner: any_in_batch(inner.running), iterate, start)
    return end._replace(
        step=_tree.scale(scale, end.step),
        residual=_tree.scale(scale, end.residual),
        radius=end.radius * scale,
    )


def _to_boundary(p: Any, d: Any, radius: jax.Array) -> jax.Array:
    """τ >= 0 with ‖p + τ d‖ = Δ, from p and d scaled to length one at most."""
    length = jnp.sqrt(_tree.vdot(d, d))
    size, bound = jnp.where(length > 0, length, 1), jnp.where(radius > 0, radius, 1)
    q = _tree.scale(1 / bound, p)
    along = _tree.vdot(_tree.scale(1 / size, d), q)
    short = jnp.maximum(1 - _tree.vdot(q, q), 0)
    # τ² + 2 τ (d·q) = 1 - q·q, by the form of the root that does not cancel.
    root = jnp.sqrt(along**2 + short)
    return bound / size * jnp.where(along > 0, short / (along + root), root - along)


class NewtonCgState(NamedTuple):
    """The model of `newton_cg` at the anchor: the result of the inner iteration.

    Attributes:
      num_hvps: int32, number of Hessian-vector products.
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
    tol: jax.typing.ArrayLike = 0.0,
    atol: jax.typing.ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Newton's method for many parameters, by Hessian-vector products, with O(N) memory.

        H p ≈ -g by conjugate gradients,   ‖p‖ <= Δ,        x ← x + p if f decreases enough

    The conjugate gradients stop at the relative residual
    η = min(0.1, 0.9 (‖g‖ / ‖last g‖)^1.618), after 2 N + 10 products, or at the boundary of the
    trust region, reached by a long step or along negative curvature. Near a minimum the order of
    convergence is 1.6.

    A rejected trial needs no product: the next trial is a shorter part of the same step. The
    initial radius is the length of the first inner step. ``num_hvps`` in the state counts the
    products (``optax.tree.get(state, "num_hvps")``).

    The inner iteration sees only the curvature along its directions, and none where the gradient
    is small enough to end the run. So `minimize` may return CONVERGED at a saddle that the run
    approached or started on. `newton` sees all of the curvature.

    Args:
      gauss_newton: ``(model, loss)`` of an objective ``loss(model(params))``. Then v -> Jᵀ L J v
        replaces H v, with J the derivative of the model, and L the Hessian of the loss with respect
        to the model's output. It is cheaper, and positive semidefinite if the loss is convex.
      tol: relative tolerance: the run ends CONVERGED at an accepted point x with
        ‖∇f(x)‖∞ <= atol + tol · max(1, ‖∇f(x₀)‖∞). Both >= 0, numbers or scalar arrays (may be
        traced). With both 0, only a zero gradient ends it.
      atol: absolute tolerance, see ``tol``.

    Returns:
      A transformation from gradients to steps. ``update(grads, state, params, value=...,
      value_fn=loss)`` takes the value at ``params`` and, unless ``gauss_newton`` is given, the
      objective, which is differentiated when a trial is accepted. The objective must stay the same
      between two accepted points. Under `jax.jit` with sharded parameters or data the products are
      computed on the devices that hold these. Memory: 4 N numbers, 4 N more during the inner
      iteration, and the memory of one linearisation of the gradient.

    Raises:
      TypeError: if ``gauss_newton`` is not a pair of functions; from ``init``, if a parameter is
        narrower than float32 or not floating; from ``update``, if ``value`` or ``value_fn`` is
        missing.
      ValueError: if ``tol`` or ``atol`` is negative; from ``update``, if ``params`` are missing, or
        trees or shapes differ from those given to ``init``.

    Example:
      >>> import cs231n_optax, jax, jax.numpy as jnp
      >>> def loss(x): return jnp.sum((x**2 - 1) ** 2) + jnp.sum((x[1:] - x[:-1]) ** 2)
      >>> result = cs231n_optax.minimize(loss, jnp.full(10_000, 3.0), cs231n_optax.newton_cg())
      >>> print(cs231n_optax.Status(int(result.status)).name, result.params.round(3).mean())
      CONVERGED 1.0

    Source:
      Lecture 7-1-9. T. Steihaug, 1983 (`truncated_cg`); S. C. Eisenstat and H. F.
      Walker, "Choosing the forcing terms in an inexact Newton method", SIAM Journal on Scientific
      Computing 17, 1996, choice 2; J. Nocedal and Y.-X. Yuan, "Combining trust region and line
      search techniques", in Advances in Nonlinear Programming, 1998, for the rejected trials. N. N.
      Schraudolph, "Fast curvature matrix-vector products for second-order gradient descent", Neural
      Computation 14, 2002, for Gauss-Newton.

    Differs from:
      SciPy's ``trust-ncg`` and ``Newton-CG``, whose forcing term √‖g‖ depends on the units of f.
      ``trust-ncg`` also computes new products after a rejected trial.
    """
    if gauss_newton is not None:
        _checks.pair_of_functions("gauss_newton", gauss_newton, "(model, loss)")
    update = functools.partial(_update_model, gauss_newton)
    model = Model(_init_model, update, _model_step)
    return with_trust_region(model, cubic_minimum, leave_saddles=True, tol=tol, atol=atol)


def _init_model(params: optax.Params) -> NewtonCgState:
    zero = jnp.zeros((), _tree.scalar_dtype(params))
    none = jnp.zeros((), jnp.int32)
    return NewtonCgState(none, _tree.zeros_like(params), zero, zero, zero, zero)


def _update_model(
    gauss_newton: Any,
    state: NewtonCgState,
    evaluation: Evaluation,
    *,
    wanted: jax.Array,
    radius: jax.Array,
    choose_radius: jax.Array,
    value_fn: Any = None,
    tolerance: jax.Array,
    **extra_args: Any,
) -> tuple[NewtonCgState, ModelInfo]:
    del extra_args
    _checks.own_state("newton_cg", state, NewtonCgState)
    params, grads = evaluation.params, evaluation.grads
    # A gradient within the tolerance ends the run, so that no product is needed.
    ends = evaluation.grad_norm <= tolerance
    max_products = min(2 * _tree.num_reals(params) + 10, _checks.MAX_INT)
    axes = varying_axes((state, params, grads))  # the branches below return the same types

    def solve() -> tuple[NewtonCgState, ModelInfo]:
        # Eisenstat and Walker's choice 2 of the forcing term; 0 stands for no earlier gradient.
        grad_norm = _norm(grads)
        relative = grad_norm / jnp.where(state.grad_norm > 0, state.grad_norm, grad_norm)
        end = truncated_cg(
            _products(params, value_fn, gauss_newton),
            grads,
            radius,
            choose_radius=choose_radius,
            forcing=jnp.minimum(MAX_FORCING, 0.9 * relative**ORDER),
            max_products=jnp.where(wanted & ~ends, max_products, 0),
        )
        slope = _tree.vdot(grads, end.step)
        new = NewtonCgState(
            num_hvps=state.num_hvps + end.count,
            step=end.step,
            length=_norm(end.step),
            slope=slope,
            curvature=_tree.vdot(end.residual, end.step) - slope,  # p·H p = (r - g)·p
            grad_norm=grad_norm,
        )
        return vary((new, ModelInfo(end.is_finite, end.radius, end.negative)), axes)

    none = ModelInfo(jnp.ones((), bool), radius, jnp.zeros((), bool))
    new, info = compute_if(wanted & ~ends, solve, otherwise=vary((state, none), axes))
    new = _tree.select(~ends, new, _init_model(params)._replace(num_hvps=new.num_hvps))
    num_hvps = jnp.where(wanted, new.num_hvps, state.num_hvps)
    return _tree.select(wanted & info.is_finite, new, state)._replace(num_hvps=num_hvps), info


def _model_step(state: NewtonCgState, radius: jax.Array, like: optax.Params) -> ModelStep:
    """The part of the step that lies within the radius."""
    del like
    part = jnp.minimum(radius / jnp.where(state.length > 0, state.length, radius), 1)
    return ModelStep(
        step=_tree.scale(part, state.step),
        predicted_decrease=-part * (state.slope + part / 2 * state.curvature),
        slope=part * state.slope,
        length=part * state.length,
    )


def _products(params: Any, value_fn: Any, gauss_newton: Any) -> Product:
    """The product v -> H v at a point, or v -> Jᵀ L J v (Gauss-Newton), linearised once."""
    if gauss_newton is None:
        _checks.objective_given("newton_cg", value_fn)
        return jax.linearize(ascent_direction(_checks.objective("value_fn", value_fn)), params)[1]
    model, loss = gauss_newton
    loss = _checks.objective("the loss of gauss_newton", loss)
    outputs, push = jax.linearize(model, params)
    pull = jax.vjp(model, params)[1]
    curvature = jax.linearize(jax.grad(loss), outputs)[1]
    return lambda v: jax.tree.map(jnp.conj, pull(curvature(push(v)))[0])


def _norm(tree: Any) -> jax.Array:
    """‖tree‖, also where its square overflows."""
    unit, scale = _to_unit(tree)
    return scale * jnp.sqrt(_tree.vdot(unit, unit))


def _to_unit(tree: Any) -> tuple[Any, jax.Array]:
    """The tree divided by its largest |element|, and that element."""
    largest = _tree.max_abs(tree)
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    # Without the barrier XLA moves the scale of a constant tree out of an inner product: 0 · ∞.
    return jax.lax.optimization_barrier(_tree.scale(1 / scale, tree)), scale
