"""How to register a solver: gradient descent with a fixed step.

python bench.py run --plugin example_plugin.py --solvers gd_toy --problems ROSENBR --out toy.jsonl
"""

import jax
import jax.numpy as jnp
from bench import register


@register("gd_toy", family="toy")
def gd_toy(fun, max_iters):
    """Take steps of -0.001 g until max|g| <= gtol."""
    grad = jax.grad(fun)

    @jax.jit
    def solve(y0, gtol):
        def go_on(carry):
            return (carry[2] < max_iters) & (jnp.max(jnp.abs(carry[1])) > gtol)

        def step(carry):
            y, g, n = carry
            y = y - 1e-3 * g
            return y, grad(y), n + 1

        y, g, n = jax.lax.while_loop(go_on, step, (y0, grad(y0), 1))
        return y, n, n, jnp.max(jnp.abs(g)) <= gtol

    return solve
