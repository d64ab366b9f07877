"""The peers, each configured as its documentation says and stopped by max|g| <= gtol.

How each of them counts evaluations is said at its place; `bench.py verify` compares that with
evaluations counted while they are executed.
"""

import functools
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from registry import Build, Solve, register

Fun = Callable[[jax.Array], jax.Array]


def define() -> list[str]:
    """Register the peers that are installed, and return the names of the others."""
    families = {
        "scipy": define_scipy,
        "optax": define_optax,
        "jaxopt": define_jaxopt,
        "optimistix": define_optimistix,
        "jax": define_jax_scipy,
    }
    missing = [package for package in families if find_spec(package) is None]
    for package, define_family in families.items():
        if package not in missing:
            define_family()
    return missing


# ---------------------------------------------------------------------------------------- SciPy


@functools.lru_cache(maxsize=64)
def derivative(fun: Fun, what: str) -> Callable[..., Any]:
    """A compiled derivative: `vg` value and gradient, `hess` Hessian, `hvp` H times a vector."""
    if what == "vg":
        return jax.jit(jax.value_and_grad(fun))
    if what == "hess":
        return jax.jit(jax.hessian(fun))
    return jax.jit(lambda x, v: jax.jvp(jax.grad(fun), (x,), (v,))[1])


def scipy_solver(
    method: str,
    options: Callable[[float], dict[str, Any]],
    second: str = "",
    stop_by_callback: bool = False,
) -> Build:
    """The builder of a method of `scipy.optimize.minimize`.

    The derivatives are JAX's, compiled, in the dtype of `y0`; SciPy's own arithmetic is in float64.
    Counted are calls of value-and-gradient and, as `n_hess`, those of the Hessian or of the
    Hessian-vector product.

    Args:
      method: SciPy's name of the method.
      options: SciPy's options as a function of gtol; `maxiter` is added.
      second: the second derivative that the method wants, `hess`, `hvp` or "".
      stop_by_callback: stop by max|g| <= gtol after an iteration, for methods without such a test.
    """
    import scipy.optimize

    def build(fun: Fun, max_iters: int) -> Solve:
        value_and_grad = derivative(fun, "vg")

        def solve(y0: Any, gtol: Any) -> tuple[Any, ...]:
            dtype, counts = y0.dtype, {"vg": 0, "h": 0}
            recent: dict[bytes, Any] = {}  # max|g| at the last points

            def evaluate(x: Any) -> Any:
                counts["vg"] += 1
                value, grad = value_and_grad(x.astype(dtype))
                value, grad = float(value), np.asarray(grad, dtype=np.float64)
                recent[x.tobytes()] = np.max(np.abs(grad))
                if len(recent) > 64:
                    recent.pop(next(iter(recent)))
                return value, grad

            def second_derivative(*point: Any) -> Any:
                counts["h"] += 1
                arguments = [argument.astype(dtype) for argument in point]
                return np.asarray(derivative(fun, second)(*arguments), dtype=np.float64)

            def stop(intermediate_result: Any) -> None:
                if recent.get(intermediate_result.x.tobytes(), np.inf) <= gtol:
                    raise StopIteration

            keywords: dict[str, Any] = {}
            if second:
                keywords["hess" if second == "hess" else "hessp"] = second_derivative
            if stop_by_callback:
                keywords["callback"] = stop
            r = scipy.optimize.minimize(
                evaluate,
                np.asarray(y0, dtype=np.float64),
                jac=True,
                method=method,
                options={**options(float(gtol)), "maxiter": max_iters},
                **keywords,
            )
            info = {"n_hess": counts["h"], "nit": int(r.nit), "msg": str(r.message)[:60]}
            return r.x.astype(dtype), counts["vg"], counts["vg"], bool(r.success), info

        return solve

    return build


def define_scipy() -> None:
    """SciPy: L-BFGS-B without its test on f, BFGS, and three second-order methods."""

    def lbfgsb(gtol: float) -> dict[str, Any]:
        return {"maxcor": 10, "gtol": gtol, "ftol": 0.0, "maxfun": 100000, "maxls": 20}

    register("scipy_lbfgsb", "scipy")(scipy_solver("L-BFGS-B", lbfgsb))
    register("scipy_bfgs", "scipy", max_n=1100)(
        scipy_solver("BFGS", lambda gtol: {"gtol": gtol, "norm": np.inf})
    )
    register("scipy_trust_exact", "scipy2", order=2, max_n=600)(
        scipy_solver("trust-exact", lambda gtol: {"gtol": gtol}, "hess", stop_by_callback=True)
    )
    register("scipy_trust_ncg", "scipy2", order=2)(
        scipy_solver("trust-ncg", lambda gtol: {"gtol": gtol}, "hvp", stop_by_callback=True)
    )
    register("scipy_newton_cg", "scipy2", order=2)(
        scipy_solver("Newton-CG", lambda _: {"xtol": 1e-300}, "hvp", stop_by_callback=True)
    )


# ---------------------------------------------------------------------------------------- Optax


def define_optax() -> None:
    """Optax: the loop of its documentation.

    Counted are the zoom line search's steps (`num_linesearch_steps`), and one for the start.
    """
    import optax

    @register("optax_lbfgs", "optax")
    def optax_lbfgs(fun: Fun, max_iters: int) -> Solve:
        tx = optax.lbfgs(memory_size=10)
        value_and_grad = optax.value_and_grad_from_state(fun)

        @jax.jit
        def solve(y0, gtol):
            def body(carry):
                y, state, n, _ = carry
                value, grad = value_and_grad(y, state=state)
                updates, state = tx.update(grad, state, y, value=value, grad=grad, value_fn=fun)
                y = optax.apply_updates(y, updates)
                info = optax.tree.get(state, "info")
                return y, state, n + info.num_linesearch_steps, optax.tree.get(state, "grad")

            def go_on(carry):
                _, state, _, grad = carry
                it = optax.tree.get(state, "count")
                return (it == 0) | ((it < max_iters) & (jnp.max(jnp.abs(grad)) > gtol))

            start = (y0, tx.init(y0), jnp.asarray(1), jnp.zeros_like(y0))
            y, state, n, grad = jax.lax.while_loop(go_on, body, start)
            info = {"nit": optax.tree.get(state, "count")}
            return y, n, n, jnp.max(jnp.abs(grad)) <= gtol, info

        return solve


# --------------------------------------------------------------------------------------- jaxopt


def jaxopt_solver(method: Callable[..., Any], **settings: Any) -> Build:
    """The builder of a solver of jaxopt: its `init_state` and `update` in a loop.

    Its own counters: `num_fun_eval` and `num_grad_eval`.
    """

    def build(fun: Fun, max_iters: int) -> Solve:
        solver = method(fun, maxiter=max_iters, tol=0.0, **settings)

        @jax.jit
        def solve(y0, gtol):
            def grad_norm(state):
                return jnp.max(jnp.abs(state.grad))

            def go_on(carry):
                return (carry[1].iter_num < max_iters) & (grad_norm(carry[1]) > gtol)

            def body(carry):
                return tuple(solver.update(*carry))

            y, s = jax.lax.while_loop(go_on, body, (y0, solver.init_state(y0)))
            return y, s.num_fun_eval, s.num_grad_eval, grad_norm(s) <= gtol, {"nit": s.iter_num}

        return solve

    return build


def define_jaxopt() -> None:
    """L-BFGS and BFGS of jaxopt."""
    import jaxopt

    register("jaxopt_lbfgs", "jaxopt")(jaxopt_solver(jaxopt.LBFGS, history_size=10))
    register("jaxopt_bfgs", "jaxopt", max_n=600)(jaxopt_solver(jaxopt.BFGS))


# ----------------------------------------------------------------------------------- Optimistix


def optimistix_solver(method: type, cauchy: bool = False, **settings: Any) -> Build:
    """The builder of a solver of Optimistix.

    It has no test on the gradient's norm, so `terminate` is overridden; with `cauchy` it is as
    shipped. A step evaluates the function once (`num_steps`), an accepted one also the gradient
    (`num_accepted_steps`).
    """
    import optimistix as optx

    def build(fun: Fun, max_iters: int) -> Solve:
        @jax.jit
        def solve(y0, gtol):
            class Solver(method):
                def terminate(self, fn, y, args, options, state, tags):
                    if cauchy:
                        return state.terminate, state.result
                    stop = jnp.max(jnp.abs(state.f_info.grad)) <= gtol
                    accepted = getattr(state, "num_accepted_steps", jnp.asarray(0))
                    return ~state.first_step & (stop | (accepted >= max_iters)), state.result

            solution = optx.minimise(
                lambda y, _: fun(y),
                Solver(rtol=1e-8, atol=1e-8, **settings),
                y0,
                throw=False,
                max_steps=3 * max_iters,
                adjoint=optx.ImplicitAdjoint(),
            )
            n_fun = solution.stats["num_steps"]
            n_grad = getattr(solution.state, "num_accepted_steps", n_fun)
            converged = solution.result == optx.RESULTS.successful
            if not cauchy:  # the test above also stops after max_iters accepted steps
                converged &= jnp.max(jnp.abs(solution.state.f_info.grad)) <= gtol
            return solution.value, n_fun, n_grad, converged, {"nit": n_grad}

        return solve

    return build


def define_optimistix() -> None:
    """L-BFGS, BFGS and nonlinear conjugate gradients of Optimistix."""
    import optimistix as optx

    register("optimistix_lbfgs", "optimistix")(optimistix_solver(optx.LBFGS, history_length=10))
    register("optimistix_bfgs", "optimistix", max_n=1100)(optimistix_solver(optx.BFGS))
    register("optimistix_bfgs_cauchy", "optimistix", max_n=50)(
        optimistix_solver(optx.BFGS, cauchy=True)
    )
    register("optimistix_nlcg", "optimistix")(optimistix_solver(optx.NonlinearCG))


# --------------------------------------------------------------------------- jax.scipy.optimize


def define_jax_scipy() -> None:
    """BFGS of `jax.scipy.optimize`; its own counters: `nfev` and `njev`."""

    @register("jaxscipy_bfgs", "jaxscipy", max_n=600)
    def jaxscipy_bfgs(fun: Fun, max_iters: int) -> Solve:
        from jax.scipy.optimize import minimize

        @jax.jit
        def solve(y0, gtol):
            options = {"gtol": gtol, "norm": jnp.inf, "maxiter": max_iters}
            r = minimize(fun, y0, method="BFGS", options=options)
            return r.x, r.nfev, r.njev, r.success, {"nit": r.nit}

        return solve
