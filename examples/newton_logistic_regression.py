"""Logistic regression by Newton's method, compared with scikit-learn.

    python examples/newton_logistic_regression.py

The problem suits Newton's method (lecture 7-1-9): few parameters, a convex loss, and a minimum to
high accuracy. The objective is scikit-learn's, with an intercept b that is not penalised:

    C Σᵢ log(1 + exp(-yᵢ (xᵢ·w + b))) + ½ ‖w‖²,        y = ±1

The data are scikit-learn's breast cancer, standardised: 569 examples of 30 features.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import cs231n_optax

METHODS = {
    "newton": cs231n_optax.newton(),
    "newton_cg": cs231n_optax.newton_cg(),
    "lbfgs": cs231n_optax.lbfgs(),
}


def by_hand(loss, params, num_evals):
    """The loop of `minimize`, written out; each update computes at most one Hessian."""
    tx = cs231n_optax.newton()
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params, value=value, value_fn=loss)
        return optax.apply_updates(params, updates), state

    for _ in range(num_evals):
        params, state = step(params, state)
    return cs231n_optax.accepted_params(state)


def main(c=1.0):
    """Solve by each method, and print the distance from scikit-learn's coefficients."""
    x, labels = load_breast_cancer(return_X_y=True)
    x = StandardScaler().fit_transform(x)
    model = LogisticRegression(C=c, solver="newton-cholesky", tol=1e-12).fit(x, labels)
    theirs = np.append(model.coef_, model.intercept_)

    with jax.enable_x64(True):
        inputs, signs = jnp.asarray(x), jnp.where(labels, 1.0, -1.0)

        def loss(params):
            margins = signs * (inputs @ params["w"] + params["b"])
            return c * jnp.sum(jnp.logaddexp(0.0, -margins)) + jnp.sum(params["w"] ** 2) / 2

        start = {"w": jnp.zeros(x.shape[1]), "b": jnp.zeros(())}
        results = {
            name: cs231n_optax.minimize(loss, start, tx, tol=1e-11) for name, tx in METHODS.items()
        }
        solutions = {name: result.params for name, result in results.items()}
        num_evals = int(results["newton"].num_evals)
        solutions["newton, a loop by hand"] = by_hand(loss, start, num_evals)

    coefficients = {name: np.append(tree["w"], tree["b"]) for name, tree in solutions.items()}
    differences = {name: np.max(np.abs(ours - theirs)) for name, ours in coefficients.items()}

    print(f"{theirs.size} coefficients, C = {c:g}; scikit-learn: {model.n_iter_[0]} iterations")
    for name, result in results.items():
        status = cs231n_optax.Status(int(result.status)).name
        print(f"{name:10} {status}: {result.num_steps} steps, {result.num_evals} evaluations")
    num_hessians = int(optax.tree.get(results["newton"].state, "num_hessians"))
    num_hvps = int(optax.tree.get(results["newton_cg"].state, "num_hvps"))
    print(f"newton made {num_hessians} Hessians, newton_cg {num_hvps} Hessian-vector products")
    print("largest difference of a coefficient from scikit-learn's:")
    for name, difference in differences.items():
        print(f"  {name:24} {difference:.0e}")
    return results, differences


if __name__ == "__main__":
    main()
