"""Compare the solvers' own counters with the evaluations that are executed."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import problems
from interface import MAX_ITERS, TOL, Solver, extras
from jax.experimental import io_callback


class Counted:
    """An objective that counts its evaluations on the host, differentiated or not."""

    def __init__(self, fun: Callable[[Any], Any]) -> None:
        self.count = 0

        def tick() -> None:
            self.count += 1

        @jax.custom_jvp
        def counted(y: Any) -> Any:
            io_callback(tick, None)
            return fun(y)

        @counted.defjvp
        def _(primals: Any, tangents: Any) -> Any:
            io_callback(tick, None)
            return jax.jvp(fun, primals, tangents)

        self.fun = counted


def verify(rows: Iterable[dict[str, Any]], solvers: dict[str, Solver]) -> bool:
    """Print the reported and the executed evaluations of each problem and first-order solver.

    Args:
      rows: the problems, rows of the catalogue.
      solvers: by name; those of second order are skipped.

    Returns:
      Whether n_fun equals the executed number everywhere.
    """
    agree = True
    for row in rows:
        name = row["name"]
        fun, y0 = problems.load(name, row["module"])
        y0 = jnp.asarray(y0, jnp.float64)
        scale = max(1.0, float(jnp.max(jnp.abs(jax.grad(fun)(y0)))))
        gtol = jnp.asarray(TOL["f64"]["tight"] * scale)
        for solver_name, solver in solvers.items():
            if solver.order == 2:
                continue
            counted = Counted(fun)
            try:
                solve = solver.build(counted.fun, MAX_ITERS)
                result = jax.block_until_ready(solve(y0, gtol))
                jax.effects_barrier()
                n_fun, n_grad = int(result[1]), int(result[2])
                same = n_fun == counted.count
                says = f"n_fun={n_fun} n_grad={n_grad} nit={extras(result).get('nit')}"
                print(
                    f"{name:10} {solver_name:24} {says:40} executed={counted.count}"
                    f"{'' if same else '  DIFFERS'}",
                    flush=True,
                )
            except Exception as error:
                same = False
                print(
                    f"{name:10} {solver_name:24} {type(error).__name__}: {error}"[:200], flush=True
                )
            agree &= same
    return agree
