"""Problem B (lecture 7-1-2): is a point where the gradient vanishes a minimum or a saddle?

The second-order test: where the gradient is zero, the signs of the extreme eigenvalues of the
Hessian decide. If the smallest one is negative, the value falls along its eigenvector v, to both
sides, by about -λ t² / 2 for a step t v.
"""

import enum
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cs231n_optax import _checks, _tree
from cs231n_optax.diagnostics.conditioning import extreme_eigenvalues
from cs231n_optax.diagnostics.full_batch import over_blocks

MAX_HALVINGS = 60


class PointKind(enum.IntEnum):
    """What a point is, by its gradient and the extreme eigenvalues of its Hessian.

    MINIMUM: all eigenvalues are positive.
    SADDLE: some eigenvalue is negative, and not all are.
    MAXIMUM: all eigenvalues are negative.
    FLAT: some eigenvalue is zero to tolerance, and none is negative: this test can't tell.
    UNRESOLVED: the Lanczos iteration has not converged. More products decide.
    NOT_STATIONARY: the gradient is larger than its tolerance.
    NOT_FINITE: the value, the gradient or the Hessian is not finite.
    """

    MINIMUM = 0
    SADDLE = 1
    MAXIMUM = 2
    FLAT = 3
    UNRESOLVED = 4
    NOT_STATIONARY = 5
    NOT_FINITE = 6


class StationaryPoint(NamedTuple):
    """What `classify_point` returns.

    Attributes:
      kind: int32 scalar, a `PointKind`.
      value: scalar, the loss.
      grad_norm: scalar, the largest modulus of the gradient's elements.
      smallest, largest: scalars, the extreme eigenvalues of the Hessian.
      direction: the unit eigenvector of the smallest one, a tree like the parameters, along which
        the loss does not rise to first order.
      escape: a step, a tree like the parameters, after which the loss is lower; zero if none was
        found, and wherever ``smallest`` is not negative.
      escape_value: scalar, the loss after that step.
    """

    kind: jax.Array
    value: jax.Array
    grad_norm: jax.Array
    smallest: jax.Array
    largest: jax.Array
    direction: Any
    escape: Any
    escape_value: jax.Array


def classify_point(
    loss: Callable[..., Any],
    params: Any,
    data: Any = None,
    *,
    key: jax.Array,
    grad_tol: jax.typing.ArrayLike = 1e-4,
    curvature_tol: jax.typing.ArrayLike = 1e-3,
    num_products: int = 100,
    block_size: int | None = None,
) -> StationaryPoint:
    """Tell a minimum from a saddle point, and give a step that leaves the saddle.

        stationary:  ‖∇f‖∞ <= grad_tol
        zero:        -z <= λ <= z,  z = curvature_tol · max(-λ_min, λ_max)

    The eigenvalues are those of `extreme_eigenvalues`. A negative one is proof that the point is
    no minimum, since a Ritz value is never below the smallest eigenvalue. For a MINIMUM, the error
    of the smallest one must be less than the eigenvalue itself. It is proof only with as many
    products as parameters.

    The escape step goes along ± ``direction``, downhill to first order. It begins with the length
    max(1, ‖x‖₂) and is halved, at most 60 times, until the loss falls by at least -λ_min t² / 4.

    Pure: `jax.jit` and `jax.vmap` apply.

    Args:
      loss: as in `extreme_eigenvalues`.
      params: as there.
      data: as there.
      key: `jax.random.key` of the Lanczos iteration's start.
      grad_tol: >= 0, in units of the gradient.
      curvature_tol: >= 0, relative to the largest modulus of the eigenvalues.
      num_products: the most Hessian-vector products, >= 1.
      block_size: examples per evaluation of the loss; None: all at once.

    Returns:
      `StationaryPoint`.

    Raises:
      ValueError, TypeError: as `extreme_eigenvalues`, and if a tolerance is negative.

    Example:
      >>> import cs231n_optax, jax, jax.numpy as jnp
      >>> def loss(x): return x[0] ** 2 - x[1] ** 2 + x[1] ** 4
      >>> point = cs231n_optax.classify_point(loss, jnp.zeros(2), key=jax.random.key(0))
      >>> print(cs231n_optax.PointKind(int(point.kind)).name, abs(point.direction.round(3)))
      SADDLE [0. 1.]
      >>> print(point.escape_value < point.value)
      True

    Source:
      Lecture 7-1-2 B. Y. Dauphin et al., "Identifying and attacking the saddle point problem in
      high-dimensional non-convex optimization", NeurIPS 2014.
    """
    grad_tol = _checks.nonnegative("grad_tol", grad_tol)
    curvature_tol = _checks.nonnegative("curvature_tol", curvature_tol)
    apply = over_blocks(loss, data, block_size)
    params = _checks.arrays("params", params)
    found = extreme_eigenvalues(
        loss, params, data, key=key, num_products=num_products, block_size=block_size
    )
    value, grads = apply(lambda objective: jax.value_and_grad(objective)(params))
    grads = jax.tree.map(jnp.conj, grads)
    grad_norm = _tree.max_abs(grads)

    smallest, largest = found.smallest, found.largest
    zero = jnp.asarray(curvature_tol, smallest.dtype) * jnp.maximum(-smallest, largest)
    is_finite = jnp.isfinite(value) & jnp.isfinite(grad_norm) & jnp.isfinite(smallest + largest)
    unresolved = (smallest - found.smallest_error <= zero) & (smallest > zero)
    kind = jnp.select(
        [
            ~is_finite,
            grad_norm > jnp.asarray(grad_tol, grad_norm.dtype),
            largest < -zero,
            smallest < -zero,
            unresolved,
            smallest > zero,
        ],
        [
            PointKind.NOT_FINITE,
            PointKind.NOT_STATIONARY,
            PointKind.MAXIMUM,
            PointKind.SADDLE,
            PointKind.UNRESOLVED,
            PointKind.MINIMUM,
        ],
        PointKind.FLAT,
    )

    slope = _tree.vdot(grads, found.smallest_direction)
    direction = _tree.scale(
        jnp.where(slope > 0, -1, 1).astype(slope.dtype), found.smallest_direction
    )

    def value_at(t: jax.Array) -> jax.Array:
        moved = _tree.axpy(t, direction, params)
        return apply(lambda objective: objective(moved))

    first = jnp.maximum(1, _tree.norm(params)).astype(smallest.dtype)
    can_escape = is_finite & (smallest < -zero)
    t, escape_value = _halve_until_lower(value_at, value, -smallest, first, can_escape)
    return StationaryPoint(
        kind=kind.astype(jnp.int32),
        value=value,
        grad_norm=grad_norm,
        smallest=smallest,
        largest=largest,
        direction=direction,
        escape=_tree.scale(t, direction),
        escape_value=escape_value,
    )


def _halve_until_lower(
    value_at: Callable[[jax.Array], jax.Array],
    value: jax.Array,
    curvature: jax.Array,
    first: jax.Array,
    can_escape: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The first of t, t/2, t/4, … with f(t) <= f(0) - curvature t² / 4, and f there; or 0."""

    def is_lower(t: jax.Array, new: jax.Array) -> jax.Array:
        return (new < value) & (new <= value - curvature * t**2 / 4)

    def go_on(carry: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        i, t, new = carry
        return can_escape & ~is_lower(t, new) & (i < MAX_HALVINGS)

    def halve(carry: tuple[jax.Array, jax.Array, jax.Array]) -> Any:
        i, t, _ = carry
        return i + 1, t / 2, value_at(t / 2)

    start = (jnp.zeros((), jnp.int32), 2 * first, jnp.full_like(value, np.inf))
    _, t, new = jax.lax.while_loop(go_on, halve, start)
    found = can_escape & is_lower(t, new)
    return jnp.where(found, t, 0), jnp.where(found, new, value)
