"""This library's solvers: `cs231n_optax.minimize` with a method."""

from collections.abc import Callable

import jax
import optax
from interface import Build, Solve, Solver

import cs231n_optax

EVALS_PER_ITERATION = 10  # the peers are limited in iterations, which take several evaluations


def minimize_with(
    make: Callable[[], optax.GradientTransformation | None], second_order_count: str | None = None
) -> Build:
    """The builder for a method.

    `num_evals` counts value-and-gradient evaluations, including the one at the start, so it is
    reported as both counters. The harness's `gtol` is absolute: `tol=0` and `atol=gtol`.

    Args:
      make: makes the transformation, or None for the one that `minimize` chooses.
      second_order_count: the field of the state that counts Hessians or Hessian-vector products,
        reported as `n_hess`.
    """

    def build(fun: Callable[[jax.Array], jax.Array], max_iters: int) -> Solve:
        tx = make()

        @jax.jit
        def solve(y0, gtol):
            r = cs231n_optax.minimize(
                fun, y0, tx, tol=0.0, atol=gtol, max_evals=EVALS_PER_ITERATION * max_iters
            )
            converged = r.status == cs231n_optax.Status.CONVERGED
            info = {"nit": r.num_steps, "status": r.status}
            if second_order_count is not None:
                info["n_hess"] = optax.tree.get(r.state, second_order_count)
            return r.params, r.num_evals, r.num_evals, converged, info

        return solve

    return build


FAMILY = "cs231n_optax"
OURS: dict[str, Solver] = {
    "cs231n_minimize": Solver(minimize_with(lambda: None), FAMILY, order=2),
    "cs231n_lbfgs": Solver(minimize_with(cs231n_optax.lbfgs), FAMILY),
    "cs231n_lbfgs_m10": Solver(minimize_with(lambda: cs231n_optax.lbfgs(memory_size=10)), FAMILY),
    "cs231n_bfgs": Solver(minimize_with(cs231n_optax.bfgs), FAMILY, max_n=1100),
    "cs231n_gd": Solver(
        minimize_with(lambda: cs231n_optax.with_line_search(optax.identity())), FAMILY
    ),
    "cs231n_newton": Solver(minimize_with(cs231n_optax.newton, "num_hessians"), FAMILY, order=2),
    "cs231n_newton_cg": Solver(minimize_with(cs231n_optax.newton_cg, "num_hvps"), FAMILY, order=2),
}
