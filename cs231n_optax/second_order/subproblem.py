"""The trust-region subproblem, solved exactly in the eigenbasis of the Hessian.

    minimise c·u + ½ Σ λᵢ uᵢ²,   ‖u‖ <= Δ,        λ₁ <= λ₂ <= ...

The solution has a shift σ >= max(0, -λ₁), which is positive only at the boundary ‖u‖ = Δ:

    u = -c / (λ + σ)        with σ from the secular equation 1/Δ - 1/‖u(σ)‖ = 0

(Nocedal and Wright, 2006, theorem 4.1 and eq. 4.43). The code solves for μ = λ₁ + σ >= 0. Then
λ + σ = (λ - λ₁) + μ is a sum of two numbers >= 0, without cancellation. In the hard case, c₁ = 0
with λ₁ < 0, the secular equation has no solution. Then c₁ is replaced by a number of the size of
rounding error, and the step goes along the lowest eigenvector.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cs231n_optax._batching import active_in_batch, any_in_batch

MAX_ROUNDS = 50  # of Newton's method on the secular equation; three or four are usual
UNROLLED_ROUNDS = 12  # on a GPU; eleven was the most for random and for geometric eigenvalues
TOLERANCE = 1e-3  # relative excess of ‖u‖ over the radius


class BallStep(NamedTuple):
    """The minimum of a quadratic in a ball around 0.

    Attributes:
      u: (N,).
      decrease: of the quadratic, from 0 to u; >= 0.
      length: ‖u‖.
    """

    u: jax.Array
    decrease: jax.Array
    length: jax.Array


def minimize_in_ball(eigenvalues: jax.Array, c: jax.Array, radius: jax.Array) -> BallStep:
    """Minimise a quadratic in a ball, so that ‖u‖ <= 1.001 Δ.

    Newton's method on the secular equation (algorithm 4.3). 1/‖u(μ)‖ is concave in μ, so from a μ
    below the root every round comes closer to the root, and none passes it.

    Args:
      eigenvalues: λ, (N,); a negative λ₁ comes first.
      c: the gradient in the eigenbasis, (N,).
      radius: Δ > 0; infinite only if all eigenvalues are positive.

    Source:
      J. J. Moré and D. C. Sorensen, "Computing a trust region step", SIAM Journal on Scientific
      and Statistical Computing 4, 1983; A. R. Conn, N. I. M. Gould and Ph. L. Toint, "Trust-Region
      Methods", 2000, section 7.3.
    """
    if not len(c):
        zero = jnp.zeros((), c.dtype)
        return BallStep(c, zero, zero)
    info = np.finfo(c.dtype)

    # Choose units in which neither λ nor c / Δ is above 1.
    unit = jnp.maximum(jnp.max(jnp.abs(eigenvalues)), jnp.max(jnp.abs(c)) / radius)
    unit = jnp.where(unit > 0, jnp.minimum(unit, info.max), 1)
    # Without the barrier XLA may divide twice, with other roundings: then no gap is exactly 0.
    eigenvalues, c = jax.lax.optimization_barrier((eigenvalues / unit, c / unit))
    lowest = jnp.min(eigenvalues)
    gap = eigenvalues - lowest

    # The hard case: make |c₁| at least as large as rounding error, if λ₁ < 0.
    least = info.eps * (jnp.max(jnp.abs(c)) + radius)
    perturbed = jnp.where(c[0] < 0, -1, 1) * jnp.maximum(jnp.abs(c[0]), least)
    c = jnp.where((jnp.arange(len(c)) == 0) & (lowest < 0), perturbed, c)
    c_over_radius = c / radius

    def relative_length(mu: jax.Array) -> jax.Array:
        return jnp.linalg.norm(c_over_radius / (gap + mu))

    def is_too_long(carry: tuple[jax.Array, ...]) -> jax.Array:
        _, length, rounds = carry
        return (length > 1 + TOLERANCE) & (rounds < MAX_ROUNDS)

    # A round of algorithm 4.3: μ ← μ + ‖u‖² / (Σ uᵢ² / (λᵢ + σ)) · (‖u‖ - Δ) / Δ, here for -u / Δ.
    def newton_round(carry: tuple[jax.Array, ...], too_long: jax.Array) -> tuple[jax.Array, ...]:
        mu, length, rounds = carry
        u = c_over_radius / (gap + mu)
        higher = mu + length**2 / jnp.sum(u * u / (gap + mu)) * (length - 1)
        mu = jnp.where(too_long, higher, mu)
        return mu, relative_length(mu), rounds + 1

    # Start below the root: at the least μ with σ >= 0 and every |cᵢ| / (gapᵢ + μ) <= Δ.
    mu = jnp.maximum(jnp.max(jnp.abs(c_over_radius) - gap), jnp.maximum(lowest, info.tiny))
    start = (mu, relative_length(mu), jnp.zeros((), jnp.int32))

    def loop() -> tuple[jax.Array, ...]:
        return jax.lax.while_loop(
            lambda carry: any_in_batch(is_too_long(carry)),
            lambda carry: newton_round(carry, active_in_batch(is_too_long(carry))),
            start,
        )

    def unrolled() -> tuple[jax.Array, ...]:
        carry = start
        for _ in range(UNROLLED_ROUNDS):
            carry = newton_round(carry, is_too_long(carry))
        return carry

    mu, _, _ = jax.lax.platform_dependent(cpu=loop, default=unrolled)

    # With H u = -c - σ u: the decrease is ½ Σ uᵢ² (λᵢ + 2 σ), where λ + 2 σ = gap + μ + (μ - λ₁).
    u = -c / (gap + mu)
    twice_decrease = jnp.sum(u * u * (gap + mu + (mu - lowest)))
    return BallStep(u, unit * twice_decrease / 2, jnp.linalg.norm(u))
