"""Convex problems of real size: regressions on all digits at once, without mini-batches.

Each is a `Landscape` over one flat vector. The minimiser has no closed form: ``minimizers`` has the
shape (0, n) and ``minimum`` is NaN.

The penalty λ/2 |θ|² includes the biases. For λ > 0 the objective is strongly convex and the
minimiser unique; the condition number grows with 1 / λ.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from cs231n_optax import _checks
from cs231n_optax.problems import datasets
from cs231n_optax.problems.landscapes import Landscape
from cs231n_optax.problems.networks import cross_entropy


def logistic_regression(l2: jax.typing.ArrayLike = 1e-3) -> Landscape:
    """Logistic regression of odd against even digits.

        f(w, b) = (1/N) Σᵢ log(1 + exp(-sᵢ (w·xᵢ + b))) + λ/2 (|w|² + b²),   sᵢ = ±1

    Args:
      l2: λ > 0, a number or a scalar array (may be traced).

    Returns:
      The landscape of the N = 1,437 training images of `digits`, started from zero, where it is
      log 2. A point is the 64 weights w, then the bias b.

    Raises:
      ValueError, TypeError, ImportError: if ``l2`` is not positive, or without scikit-learn.

    Example:
      >>> from cs231n_optax.problems.regressions import logistic_regression
      >>> problem = logistic_regression()
      >>> print(problem.x0.shape, problem.fun(problem.x0).round(4))
      (65,) 0.6931

    Source:
      D. R. Cox, "The regression analysis of binary sequences", Journal of the Royal Statistical
      Society B 20, 1958.

    Differs from:
      Scikit-learn's ``LogisticRegression``, which does not penalise the intercept and sums the
      losses. It is equal with ``C=1 / (N * l2)``, ``fit_intercept=False`` and a column of ones.
    """

    def loss(theta: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
        signs = 2 * (y % 2) - 1
        logits = x @ theta[:-1] + theta[-1]
        return jnp.mean(jax.nn.softplus(-signs.astype(x.dtype) * logits))

    return _on_digits("logistic regression", loss, 65, l2)


def softmax_regression(l2: jax.typing.ArrayLike = 1e-3) -> Landscape:
    """Softmax regression of the ten digits, the lecture's linear classifier.

        f(W, b) = (1/N) Σᵢ -log softmax(xᵢ W + b)[yᵢ] + λ/2 (|W|² + |b|²)

    Args:
      l2: λ > 0, a number or a scalar array (may be traced).

    Returns:
      The landscape of the N = 1,437 training images of `digits`, started from zero, where it is
      log 10. A point is W (64, 10) row by row, then b (10,).

    Raises:
      ValueError, TypeError, ImportError: as `logistic_regression` does.

    Example:
      >>> from cs231n_optax.problems.regressions import softmax_regression
      >>> problem = softmax_regression()
      >>> print(problem.x0.shape, problem.fun(problem.x0).round(4))
      (650,) 2.3026

    Source:
      CS231n's notes on linear classification.

    Differs from:
      Scikit-learn's ``LogisticRegression``, as `logistic_regression` does.
    """

    def loss(theta: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
        weights, bias = theta[:-10].reshape(64, 10), theta[-10:]
        return cross_entropy(x @ weights + bias, y)

    return _on_digits("softmax regression", loss, 650, l2)


def _on_digits(
    name: str, loss: Callable[..., jax.Array], n: int, l2: jax.typing.ArrayLike
) -> Landscape:
    l2 = _checks.positive("l2", l2)
    data = datasets.digits()
    images, labels = data.x_train.reshape(-1, 64), data.y_train

    def fun(point: jax.typing.ArrayLike) -> jax.Array:
        theta = jnp.asarray(point)
        penalty = jnp.asarray(l2, theta.dtype) / 2 * jnp.vdot(theta, theta)
        return loss(theta, jnp.asarray(images, theta.dtype), jnp.asarray(labels)) + penalty

    return Landscape(name, fun, np.zeros(n), np.empty((0, n)), math.nan)
