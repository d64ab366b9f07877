"""Many fits at once: small regressions by maximum likelihood, and a Gaussian process.

    python examples/many_fits.py

`cs231n_optax.minimize_batch` solves many problems of one shape together. Those that have been
solved leave the batch, so that the difficult ones do not hold up the others:

- Weibull regressions of censored survival times, each with data of its own (``in_axes=0``), as in
  a simulation study or a bootstrap;
- the hyperparameters of one Gaussian process from many random starts, which share the data
  (``in_axes=None``). The marginal likelihood has several local maxima.

SciPy's L-BFGS-B, with gradients written by hand in NumPy, solves the same problems one by one.
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.optimize
from sklearn.datasets import load_diabetes

import cs231n_optax

GTOL = 1e-5  # the largest |element of a gradient| of a solution, for both

# Weibull regression: log t = x·β + σ ε, with ε of the smallest-extreme-value distribution.


def survival_data(num_fits, num_patients=40, seed=0):
    """Simulated studies: covariates, logarithms of times, and whether the event was seen."""
    rng = np.random.default_rng(seed)
    shape = (num_fits, num_patients)
    x = np.concatenate([np.ones((*shape, 1)), rng.normal(size=(*shape, 2))], axis=-1)
    beta = rng.normal(size=(num_fits, 3))
    sigma = np.exp(rng.normal(0, 0.7, num_fits))
    noise = np.log(rng.exponential(size=shape))
    log_time = np.einsum("fpi,fi->fp", x, beta) + sigma[:, None] * noise
    log_end = np.quantile(log_time, 0.7, axis=1, keepdims=True)  # of the study
    return x, np.minimum(log_time, log_end), (log_time <= log_end).astype(float)


def weibull(theta, x, log_time, event):
    """Mean negative log-likelihood of θ = (β, log σ)."""
    z = (log_time - x @ theta[:-1]) * jnp.exp(-theta[-1])
    return jnp.mean(jnp.exp(z) - event * (z - theta[-1]))


def weibull_by_hand(theta, x, log_time, event):
    """The same and its gradient, in NumPy."""
    inverse = np.exp(-theta[-1])
    z = (log_time - x @ theta[:-1]) * inverse
    exp = np.exp(np.minimum(z, 500))  # SciPy's search needs finite numbers
    residual = (exp - event) / len(z)  # ∂f/∂z
    value = np.mean(exp - event * (z - theta[-1]))
    return value, np.append(-inverse * residual @ x, np.mean(event) - residual @ z)


# A Gaussian process: K = a² exp(-½ Σ (x - x')² / l²) + s² I, and θ = (log a, log s, log l).


def regression_data(num_rows):
    """Rows of scikit-learn's diabetes data, standardised."""
    x, y = load_diabetes(return_X_y=True)
    x, y = x[:num_rows], y[:num_rows]
    return (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()


def random_starts(num_starts, num_features, seed=0):
    """Hyperparameters around a = 1, s = 0.4, l = 3."""
    center = np.concatenate([[0.0, -1.0], np.ones(num_features)])
    return center + np.random.default_rng(seed).normal(size=(num_starts, center.size))


def gaussian_process(theta, x, y):
    """Negative log marginal likelihood per row, without its constant."""
    scaled = x * jnp.exp(-theta[2:])
    squares = jnp.sum(scaled**2, axis=1)
    distances = squares[:, None] + squares - 2 * scaled @ scaled.T
    kernel = jnp.exp(2 * theta[0] - 0.5 * distances)
    factor = jnp.linalg.cholesky(kernel + jnp.exp(2 * theta[1]) * jnp.eye(len(y)))
    whitened = jax.scipy.linalg.solve_triangular(factor, y, lower=True)
    return (0.5 * jnp.sum(whitened**2) + jnp.sum(jnp.log(jnp.diagonal(factor)))) / len(y)


def gaussian_process_by_hand(theta, x, y):
    """The same and its gradient, in NumPy (Rasmussen and Williams, equation 5.9)."""
    scaled = x * np.exp(-theta[2:])
    squares = np.sum(scaled**2, axis=1)
    distances = squares[:, None] + squares - 2 * scaled @ scaled.T
    kernel, noise = np.exp(2 * theta[0] - 0.5 * distances), np.exp(2 * theta[1])
    try:
        factor = scipy.linalg.cholesky(kernel + noise * np.eye(len(y)), lower=True)
    except scipy.linalg.LinAlgError:
        return np.inf, np.zeros_like(theta)
    inverse, _ = scipy.linalg.lapack.dpotri(factor, lower=True)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    alpha = inverse @ y
    value = 0.5 * y @ alpha + np.sum(np.log(np.diagonal(factor)))
    slope = 0.5 * (inverse - np.outer(alpha, alpha))  # ∂f/∂K
    weights = slope * kernel
    # ∂K/∂log l = K (x - x')² / l², for each feature: Σ w (u² + v² - 2 u v).
    by_feature = 2 * (weights.sum(1) @ scaled**2 - np.sum(scaled * (weights @ scaled), axis=0))
    gradient = [2 * weights.sum(), 2 * noise * np.trace(slope), *by_feature]
    return value / len(y), np.array(gradient) / len(y)


def by_scipy(fun, x0, *args):
    """SciPy's L-BFGS-B, which stops at the same gradient as the batch.

    Its line search goes too far for NumPy without bounds; these are scikit-learn's, 1e-5 to 1e5.
    """
    bounds = [(np.log(1e-5), np.log(1e5))] * len(x0)
    options = {"gtol": GTOL, "ftol": 0.0, "maxiter": 1000, "maxfun": 1000, "maxcor": 15}
    return scipy.optimize.minimize(
        fun, x0, args, jac=True, method="L-BFGS-B", bounds=bounds, options=options
    )


def minimize_batch(fun, tx, x0, args, in_axes, **options):
    """The batch, with the tolerance of both."""
    return cs231n_optax.minimize_batch(
        fun, x0, tx, args=args, in_axes=in_axes, tol=0, atol=GTOL, **options
    )


def report(name, result, seconds, points, scipy_seconds):
    """Print how both ended; returns the largest difference of a value, where both have ended."""
    evals = np.asarray(result.num_evals)
    print(f"{name}: {result.message}")
    print(f"  evaluations: median {np.median(evals):.0f}, most {evals.max()}")
    print(f"  {seconds:.1f} s with compilation; SciPy, one by one: {scipy_seconds:.1f} s")
    values = np.array([point.fun for point in points])
    return np.abs(np.asarray(result.value) - values)


def main(num_fits=500, num_starts=16, num_rows=60):
    """Solve both kinds of problem both ways, and compare the answers."""
    with jax.enable_x64(True):
        data = survival_data(num_fits)
        began = time.perf_counter()
        fits = minimize_batch(
            weibull, cs231n_optax.bfgs(), np.zeros(4), data, in_axes=(None, 0, 0, 0)
        )
        jax.block_until_ready(fits)
        seconds = time.perf_counter() - began

        began = time.perf_counter()
        points = [
            by_scipy(weibull_by_hand, np.zeros(4), *of_one) for of_one in zip(*data, strict=True)
        ]
        differences = report(
            "Weibull regressions", fits, seconds, points, time.perf_counter() - began
        )
        thetas = np.array([point.x for point in points])
        print(f"  largest difference of a likelihood: {differences.max():.0e}")
        print(f"  largest difference of a parameter: {np.abs(fits.params - thetas).max():.0e}")

        x, y = regression_data(num_rows)
        starts = random_starts(num_starts, x.shape[1])
        began = time.perf_counter()
        gp = minimize_batch(
            gaussian_process, cs231n_optax.bfgs(), starts, (x, y), in_axes=(0, None, None)
        )
        jax.block_until_ready(gp)
        seconds = time.perf_counter() - began

        began = time.perf_counter()
        gp_points = [by_scipy(gaussian_process_by_hand, start, x, y) for start in starts]
        report("Gaussian process", gp, seconds, gp_points, time.perf_counter() - began)
        best, scipys = float(jnp.min(gp.value)), min(point.fun for point in gp_points)
        print(f"  best: {best:.6f}, SciPy's {scipys:.6f}, difference {abs(best - scipys):.0e}")
        lengths = np.exp(gp.params[int(jnp.argmin(gp.value)), 2:])
        names = np.array(load_diabetes().feature_names)
        relevant = ", ".join(names[np.argsort(lengths)[:3]])
        print(f"  the most relevant features, of the shortest length scales: {relevant}")
    return fits, thetas, gp, gp_points


if __name__ == "__main__":
    main()
