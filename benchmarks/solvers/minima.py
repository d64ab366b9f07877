"""Check whether `newton` ends at a minimum: the gradient and the Hessian's extreme eigenvalues.

    python minima.py ELATVIDU LUKSAN12LS RAT43LS MGH10LS [--tol 1e-14]

In float64; the tolerance is relative to the first gradient. The point is a strict local minimum if
the gradient is as small as rounding allows and the least eigenvalue is well above zero relative to
the largest. With --max-evals it tells how far a run has come.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import problems
import worker

import cs231n_optax


def main() -> None:
    """Print a line for each problem."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="+", metavar="PROBLEM")
    parser.add_argument("--tol", type=float, default=1e-14, help="relative (default: 1e-14)")
    parser.add_argument("--max-evals", type=int, default=4000, help="default: 4000")
    options = parser.parse_args()
    worker.set_up_jax("f64")
    modules = {row["name"]: row["module"] for row in problems.read_catalog()}
    if unknown := set(options.names) - modules.keys():
        parser.error(f"unknown: {sorted(unknown)}")
    tx = cs231n_optax.newton()
    for name in options.names:
        fun, start = problems.load(name, modules[name])

        @jax.jit
        def solve(x0, fun=fun):
            return cs231n_optax.minimize(fun, x0, tx, tol=options.tol, max_evals=options.max_evals)

        result = solve(jnp.asarray(start))
        eigenvalues = np.linalg.eigvalsh(cs231n_optax.hessian_matrix(fun, result.params))
        print(
            f"{name}: {cs231n_optax.Status(int(result.status)).name} after {result.num_evals} "
            f"evaluations, value {result.value:.10g}, max|g| {jnp.max(jnp.abs(result.grad)):.1e}, "
            f"eigenvalues {eigenvalues[0]:.2e} to {eigenvalues[-1]:.2e}"
        )


if __name__ == "__main__":
    main()
