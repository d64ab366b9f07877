"""This library's solvers, as the benchmark sees them: `cs231n_optax.minimize` around a method.

`num_evals` counts value-and-gradient evaluations, the one at the start included, so it stands for
both counters. The harness's `gtol` is absolute: `tol=0` and `atol=gtol`.
"""

from collections.abc import Callable

import jax
import optax
from registry import Build, Solve, register

import cs231n_optax

CONVERGED = 1
EVALS_PER_ITERATION = 10  # the peers are limited by iterations, of several evaluations each


def minimize_with(
    method: Callable[[], optax.GradientTransformationExtraArgs], second_order: str | None = None
) -> Build:
    """The builder of a method of this library.

    ``second_order`` names the field of the state that counts what peers report as `n_hess`.
    """

    def build(fun: Callable[[jax.Array], jax.Array], max_iters: int) -> Solve:
        tx = method()

        @jax.jit
        def solve(y0, gtol):
            r = cs231n_optax.minimize(
                fun, y0, tx, tol=0.0, atol=gtol, max_evals=EVALS_PER_ITERATION * max_iters
            )
            info = {"nit": r.num_steps, "status": r.status}
            if second_order is not None:
                info["n_hess"] = optax.tree.get(r.state, second_order)
            return r.params, r.num_evals, r.num_evals, r.status == CONVERGED, info

        return solve

    return build


register("cs231n_lbfgs", "cs231n_optax")(minimize_with(lambda: cs231n_optax.lbfgs()))
register("cs231n_lbfgs_m10", "cs231n_optax")(
    minimize_with(lambda: cs231n_optax.lbfgs(memory_size=10))
)
register("cs231n_bfgs", "cs231n_optax", max_n=1100)(minimize_with(lambda: cs231n_optax.bfgs()))
register("cs231n_gd", "cs231n_optax")(
    minimize_with(lambda: cs231n_optax.with_line_search(optax.identity()))
)
register("cs231n_newton", "cs231n_optax", order=2)(
    minimize_with(lambda: cs231n_optax.newton(), "num_hessians")
)
register("cs231n_newton_cg", "cs231n_optax", order=2)(
    minimize_with(lambda: cs231n_optax.newton_cg(), "num_hvps")
)
