"""The peers, each configured as its documentation says and stopped at max|g| <= gtol.

Each builder imports its package when it is called, so that a peer costs nothing until it runs.
The docstrings say how each peer counts evaluations; `bench.py verify` compares these counts with
the evaluations that are executed.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from interface import Build, Solve, Solver

Fun = Callable[[jax.Array], jax.Array]


# ---------------------------------------------------------------------------------------- SciPy


@functools.lru_cache(maxsize=64)
def value_and_grad(fun: Fun) -> Callable[..., Any]:
    """The compiled function x -> (value, gradient)."""
    return jax.jit(jax.value_and_grad(fun))


@functools.lru_cache(maxsize=64)
def hessian(fun: Fun) -> Callable[..., Any]:
    """The compiled function x -> H."""
    return jax.jit(jax.hessian(fun))


@functools.lru_cache(maxsize=64)
def hessian_vector_product(fun: Fun) -> Callable[..., Any]:
    """The compiled function (x, v) -> H v."""
    return jax.jit(lambda x, v: jax.jvp(jax.grad(fun), (x,), (v,))[1])


def scipy_solver(
    method: str,
    options: Callable[[float], dict[str, Any]],
    stop_by_callback: bool = False,
    **second_derivative: Callable[[Fun], Callable[..., Any]],
) -> Build:
    """The builder for a method of `scipy.optimize.minimize`.

    The derivatives are JAX's, compiled, in the dtype of `y0`; SciPy's own arithmetic is float64.
    Counted are the calls of value-and-gradient and, as `n_hess`, those of the Hessian or of the
    Hessian-vector product.

    Args:
      method: SciPy's name of the method.
      options: SciPy's options as a function of gtol; `maxiter` is added.
      stop_by_callback: stop at max|g| <= gtol after an iteration, for methods without such a test.
      **second_derivative: `hess=` or `hessp=`, SciPy's name for what the method needs, with the
        function that derives it from the objective.
    """

    def build(fun: Fun, max_iters: int) -> Solve:
        import scipy.optimize

        compiled = {name: derive(fun) for name, derive in second_derivative.items()}

        def solve(y0: Any, gtol: Any) -> tuple[Any, ...]:
            dtype, num_evals, num_second = y0.dtype, 0, 0
            grad_norms: dict[bytes, Any] = {}  # max|g| at the last 64 points

            def evaluate(x: Any) -> Any:
                nonlocal num_evals
                num_evals += 1
                value, grad = value_and_grad(fun)(x.astype(dtype))
                value, grad = float(value), np.asarray(grad, dtype=np.float64)
                grad_norms[x.tobytes()] = np.max(np.abs(grad))
                if len(grad_norms) > 64:
                    grad_norms.pop(next(iter(grad_norms)))
                return value, grad

            def counted(derivative: Callable[..., Any]) -> Callable[..., Any]:
                def call(*point: Any) -> Any:
                    nonlocal num_second
                    num_second += 1
                    return np.asarray(derivative(*(x.astype(dtype) for x in point)), np.float64)

                return call

            def stop(intermediate_result: Any) -> None:
                if grad_norms.get(intermediate_result.x.tobytes(), np.inf) <= gtol:
                    raise StopIteration

            r = scipy.optimize.minimize(
                evaluate,
                np.asarray(y0, dtype=np.float64),
                jac=True,
                method=method,
                options={**options(float(gtol)), "maxiter": max_iters},
                callback=stop if stop_by_callback else None,
                **{name: counted(derivative) for name, derivative in compiled.items()},
            )
            info = {"n_hess": num_second, "nit": int(r.nit), "msg": str(r.message)[:60]}
            return r.x.astype(dtype), num_evals, num_evals, bool(r.success), info

        return solve

    return build


def lbfgsb_options(gtol: float) -> dict[str, Any]:
    """Ten pairs, no test on the value."""
    return {"maxcor": 10, "gtol": gtol, "ftol": 0.0, "maxfun": 100000, "maxls": 20}


def bfgs_options(gtol: float) -> dict[str, Any]:
    """The largest component as the gradient's norm."""
    return {"gtol": gtol, "norm": np.inf}


def trust_options(gtol: float) -> dict[str, Any]:
    """The test on the gradient's 2-norm; the callback tests the largest component."""
    return {"gtol": gtol}


def newton_cg_options(gtol: float) -> dict[str, Any]:
    """The test on the step is turned off; the callback tests the gradient."""
    del gtol
    return {"xtol": 1e-300}


# ---------------------------------------------------------------------------------------- Optax


def optax_lbfgs(fun: Fun, max_iters: int) -> Solve:
    """L-BFGS of Optax, in the loop of its documentation.

    Counted are the steps of the zoom line search (`num_linesearch_steps`), and one for the start.
    """
    import optax

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


def jaxopt_loop(solver: Any, max_iters: int) -> Solve:
    """`update` of a jaxopt solver in a loop; its own counters `num_fun_eval`, `num_grad_eval`."""

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


def jaxopt_lbfgs(fun: Fun, max_iters: int) -> Solve:
    """L-BFGS of jaxopt."""
    import jaxopt

    return jaxopt_loop(jaxopt.LBFGS(fun, maxiter=max_iters, tol=0.0, history_size=10), max_iters)


def jaxopt_bfgs(fun: Fun, max_iters: int) -> Solve:
    """BFGS of jaxopt."""
    import jaxopt

    return jaxopt_loop(jaxopt.BFGS(fun, maxiter=max_iters, tol=0.0), max_iters)


# ----------------------------------------------------------------------------------- Optimistix


def optimistix_minimise(
    method: type, fun: Fun, max_iters: int, *, own_test: bool = False, **settings: Any
) -> Solve:
    """`optimistix.minimise` with a method.

    Optimistix has no test on the gradient's norm, so `terminate` is overridden; `own_test` keeps
    its own. A step evaluates the function once (`num_steps`), an accepted one the gradient, too
    (`num_accepted_steps`).
    """
    import optimistix as optx

    @jax.jit
    def solve(y0, gtol):
        class GradientTest(method):
            def terminate(self, fn, y, args, options, state, tags):
                stop = jnp.max(jnp.abs(state.f_info.grad)) <= gtol
                accepted = getattr(state, "num_accepted_steps", jnp.asarray(0))
                return ~state.first_step & (stop | (accepted >= max_iters)), state.result

        solution = optx.minimise(
            lambda y, _: fun(y),
            (method if own_test else GradientTest)(rtol=1e-8, atol=1e-8, **settings),
            y0,
            throw=False,
            max_steps=3 * max_iters,
            adjoint=optx.ImplicitAdjoint(),
        )
        n_fun = solution.stats["num_steps"]
        n_grad = getattr(solution.state, "num_accepted_steps", n_fun)
        converged = solution.result == optx.RESULTS.successful
        if not own_test:  # GradientTest also stops after max_iters accepted steps
            converged &= jnp.max(jnp.abs(solution.state.f_info.grad)) <= gtol
        return solution.value, n_fun, n_grad, converged, {"nit": n_grad}

    return solve


def optimistix_lbfgs(fun: Fun, max_iters: int) -> Solve:
    """L-BFGS of Optimistix."""
    import optimistix as optx

    return optimistix_minimise(optx.LBFGS, fun, max_iters, history_length=10)


def optimistix_bfgs(fun: Fun, max_iters: int) -> Solve:
    """BFGS of Optimistix."""
    import optimistix as optx

    return optimistix_minimise(optx.BFGS, fun, max_iters)


def optimistix_bfgs_cauchy(fun: Fun, max_iters: int) -> Solve:
    """BFGS of Optimistix with its own test, the Cauchy criterion."""
    import optimistix as optx

    return optimistix_minimise(optx.BFGS, fun, max_iters, own_test=True)


def optimistix_nlcg(fun: Fun, max_iters: int) -> Solve:
    """Nonlinear conjugate gradients of Optimistix."""
    import optimistix as optx

    return optimistix_minimise(optx.NonlinearCG, fun, max_iters)


# --------------------------------------------------------------------------- jax.scipy.optimize


def jaxscipy_bfgs(fun: Fun, max_iters: int) -> Solve:
    """BFGS of `jax.scipy.optimize`; its own counters `nfev` and `njev`."""
    from jax.scipy.optimize import minimize

    @jax.jit
    def solve(y0, gtol):
        options = {"gtol": gtol, "norm": jnp.inf, "maxiter": max_iters}
        r = minimize(fun, y0, method="BFGS", options=options)
        return r.x, r.nfev, r.njev, r.success, {"nit": r.nit}

    return solve


# ------------------------------------------------------------------------------------- the peers


PEERS: dict[str, Solver] = {
    "scipy_lbfgsb": Solver(scipy_solver("L-BFGS-B", lbfgsb_options), "scipy"),
    "scipy_bfgs": Solver(scipy_solver("BFGS", bfgs_options), "scipy", max_n=1100),
    "scipy_trust_exact": Solver(
        scipy_solver("trust-exact", trust_options, stop_by_callback=True, hess=hessian),
        "scipy",
        order=2,
        max_n=600,
    ),
    "scipy_trust_ncg": Solver(
        scipy_solver(
            "trust-ncg", trust_options, stop_by_callback=True, hessp=hessian_vector_product
        ),
        "scipy",
        order=2,
    ),
    "scipy_newton_cg": Solver(
        scipy_solver(
            "Newton-CG", newton_cg_options, stop_by_callback=True, hessp=hessian_vector_product
        ),
        "scipy",
        order=2,
    ),
    "optax_lbfgs": Solver(optax_lbfgs, "optax"),
    "jaxopt_lbfgs": Solver(jaxopt_lbfgs, "jaxopt"),
    "jaxopt_bfgs": Solver(jaxopt_bfgs, "jaxopt", max_n=600),
    "optimistix_lbfgs": Solver(optimistix_lbfgs, "optimistix"),
    "optimistix_bfgs": Solver(optimistix_bfgs, "optimistix", max_n=1100),
    "optimistix_bfgs_cauchy": Solver(optimistix_bfgs_cauchy, "optimistix", max_n=50),
    "optimistix_nlcg": Solver(optimistix_nlcg, "optimistix"),
    "jaxscipy_bfgs": Solver(jaxscipy_bfgs, "jax", max_n=600),
}
