"""The trust-region subproblem, exactly, in the eigenbasis of the Hessian.

    minimise c·u + ½ Σ λᵢ uᵢ²,   ‖u‖ <= Δ,        λ₁ <= λ₂ <= ...

The solution has a shift σ >= max(0, -λ₁), positive only where the ball is what stops it, with

    u = -c / (λ + σ),   ‖u‖ = Δ                    (the secular equation)

With the height μ = λ₁ + σ of the shift above its bound, λ + σ = (λ - λ₁) + μ is a sum of two
numbers >= 0: nothing cancels. In the hard case (no c where λ = λ₁ < 0) the secular equation has no
solution; a c₁ of the size of rounding makes one, which leaves along the lowest eigenvector.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cs231n_optax._lanes import any_lane, this_lane

MAX_ROUNDS = 50  # of Newton's method on the secular equation; three or four are usual
TOLERANCE = 1e-3  # relative, by which a step may be longer than the radius


class BallStep(NamedTuple):
    """Where a quadratic is least in a ball around 0.

    Attributes:
      u: (N,).
      decrease: by how much it is less there than at 0, >= 0.
      length: ‖u‖.
    """

    u: jax.Array
    decrease: jax.Array
    length: jax.Array


def minimize_in_ball(eigenvalues: jax.Array, c: jax.Array, radius: jax.Array) -> BallStep:
    """The minimum of a quadratic in a ball, whose radius is kept to 0.1 %.

    Newton's method on 1 / ‖u(μ)‖ = 1 / Δ: the left side is concave in μ, so from a μ that is too
    small every round comes closer to the root, and none passes it.

    Args:
      eigenvalues: λ, (N,); a negative λ₁ comes first.
      c: the gradient in the eigenbasis, (N,).
      radius: Δ > 0; infinite only if all eigenvalues are positive.

    Returns:
      The `BallStep`.

    Source:
      J. J. Moré and D. C. Sorensen, "Computing a trust region step", SIAM Journal on Scientific
      and Statistical Computing 4, 1983; A. R. Conn, N. I. M. Gould and Ph. L. Toint, "Trust-Region
      Methods", 2000, section 7.3.
    """
    if not len(c):
        zero = jnp.zeros((), c.dtype)
        return BallStep(c, zero, zero)
    # In units in which neither λ nor c / Δ is above 1.
    unit = jnp.maximum(jnp.max(jnp.abs(eigenvalues)), jnp.max(jnp.abs(c)) / radius)
    unit = jnp.where(unit > 0, jnp.minimum(unit, np.finfo(c.dtype).max), 1)
    eigenvalues, c = eigenvalues / unit, c / unit
    lowest = jnp.min(eigenvalues)
    gap = eigenvalues - lowest
    least = np.finfo(c.dtype).eps * (jnp.max(jnp.abs(c)) + radius)
    pushed = jnp.where(c[0] < 0, -1, 1) * jnp.maximum(jnp.abs(c[0]), least)
    c = jnp.where((jnp.arange(len(c)) == 0) & (lowest < 0), pushed, c)
    share = c / radius

    def length_at(height: jax.Array) -> jax.Array:
        return jnp.linalg.norm(share / (gap + height))

    def too_long(carry: tuple[jax.Array, ...]) -> jax.Array:
        _, length, rounds = carry
        return (length > 1 + TOLERANCE) & (rounds < MAX_ROUNDS)

    def raise_height(carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        height, length, rounds = carry
        w = share / (gap + height)
        higher = height + length**2 / jnp.sum(w * w / (gap + height)) * (length - 1)
        height = jnp.where(this_lane(too_long(carry)), higher, height)
        return height, length_at(height), rounds + 1

    # No |cᵢ| / (gapᵢ + μ) may exceed Δ.
    least_height = jnp.maximum(lowest, np.finfo(c.dtype).tiny)
    height = jnp.maximum(jnp.max(jnp.abs(share) - gap), least_height)
    start = (height, length_at(height), jnp.zeros((), jnp.int32))
    height, _, _ = jax.lax.while_loop(lambda carry: any_lane(too_long(carry)), raise_height, start)
    u = -c / (gap + height)
    twice_decrease = jnp.sum(u * u * (gap + height + (height - lowest)))
    return BallStep(u, unit * twice_decrease / 2, jnp.linalg.norm(u))
