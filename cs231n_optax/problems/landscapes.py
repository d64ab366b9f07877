"""Test functions with known minima.

Each function maps a point of shape (n,) to a scalar of the same dtype, and is smooth.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cs231n_optax import _checks


class Landscape(NamedTuple):
    """A function, its usual starting point and its global minimisers.

    Attributes:
      name: the name in tables and titles.
      fun: maps a floating array (n,) to a scalar of the same dtype, in pure JAX.
      x0: float64 (n,), the usual starting point.
      minimizers: float64 (k, n), all global minimisers.
      minimum: the value there.
    """

    name: str
    fun: Callable[[jax.typing.ArrayLike], jax.Array]
    x0: np.ndarray
    minimizers: np.ndarray
    minimum: float


def taco_shell(condition_number: jax.typing.ArrayLike = 100.0) -> Landscape:
    """The lecture's elongated bowl: shallow along x, steep along y.

        f(x, y) = (x² + κ y²) / 2

    The Hessian is diag(1, κ). A step of gradient descent multiplies x by 1 - α and y by 1 - α κ, so
    it needs α < 2 / κ, and x then takes about κ / 2 steps to shrink by a factor of e. It starts
    from (-10, 1), where both terms are equal for κ = 100; the minimum is 0 at the origin.

    Args:
      condition_number: κ >= 1, a number or a scalar array (may be traced).

    Raises:
      ValueError, TypeError: if ``condition_number`` is not finite, below 1 or no number.

    Example:
      >>> import jax
      >>> from cs231n_optax.problems.landscapes import taco_shell
      >>> bowl = taco_shell(condition_number=100.0)
      >>> value, grad = jax.jit(jax.value_and_grad(bowl.fun))(bowl.x0)
      >>> print(value, grad)
      100.0 [-10. 100.]

    Source:
      Lecture 7-1-2, problem A.
    """
    kappa = _checks.positive("condition_number", condition_number)
    if not isinstance(kappa, jax.Array) and kappa < 1:
        raise ValueError(f"condition_number must be a finite number >= 1, got {kappa}")

    def fun(point: jax.typing.ArrayLike) -> jax.Array:
        x, y = jnp.asarray(point)
        return (x**2 + jnp.asarray(kappa, x.dtype) * y**2) / 2

    return Landscape("taco shell", fun, np.array([-10.0, 1.0]), np.zeros((1, 2)), 0.0)


def rosenbrock(n: int = 2) -> Landscape:
    """Rosenbrock's curved valley, chained to n dimensions.

        f(x) = Σᵢ 100 (xᵢ₊₁ - xᵢ²)² + (1 - xᵢ)²,        i = 1 ... n - 1

    The valley floor is nearly flat: for n = 2 the condition number at the minimum is 2,508. For
    n = 4 ... 30 there is exactly one other local minimum, with x₁ < 0. It starts from
    (-1.2, 1, -1.2, 1, ...); the minimum is 0 at (1, ..., 1).

    Args:
      n: the dimension, a Python integer >= 2.

    Raises:
      ValueError, TypeError: if n < 2 or n is not a Python integer.

    Example:
      >>> from cs231n_optax.problems.landscapes import rosenbrock
      >>> valley = rosenbrock(n=3)
      >>> valley.x0
      array([-1.2,  1. , -1.2])
      >>> print(valley.fun(valley.minimizers[0]))
      0.0

    Source:
      H. H. Rosenbrock, "An automatic method for finding the greatest or least value of a
      function", The Computer Journal 3, 1960. The local minimum: Y.-W. Shang and Y.-H. Qiu, "A
      note on the extended Rosenbrock function", Evolutionary Computation 14, 2006.
    """
    n = _checks.static_int("n", n, at_least=2)

    def fun(point: jax.typing.ArrayLike) -> jax.Array:
        x = jnp.asarray(point)
        if x.shape != (n,):
            raise ValueError(f"a point must have the shape ({n},), got {x.shape}")
        return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)

    return Landscape("Rosenbrock", fun, np.resize([-1.2, 1.0], n), np.ones((1, n)), 0.0)


def beale() -> Landscape:
    """Beale's function: flat far out, with steep walls where x and y are both large.

        f(x, y) = (1.5 - x + x y)² + (2.25 - x + x y²)² + (2.625 - x + x y³)²

    It starts from (1, 1); the minimum is 0 at (3, 0.5).

    Example:
      >>> from cs231n_optax.problems.landscapes import beale
      >>> landscape = beale()
      >>> print(landscape.fun(landscape.minimizers[0]))
      0.0

    Source:
      Problem 5 in J. J. Moré, B. S. Garbow and K. E. Hillstrom, "Testing unconstrained
      optimization software", ACM Transactions on Mathematical Software 7, 1981.
    """

    def fun(point: jax.typing.ArrayLike) -> jax.Array:
        x, y = jnp.asarray(point)
        return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2

    return Landscape("Beale", fun, np.array([1.0, 1.0]), np.array([[3.0, 0.5]]), 0.0)


def himmelblau() -> Landscape:
    """Himmelblau's function: four equal minima, four saddle points and one local maximum.

        f(x, y) = (x² + y - 11)² + (x + y² - 7)²

    It starts from the origin, near the maximum. The minimum is 0 at (3, 2) and at three irrational
    points, given to all digits of float64.

    Example:
      >>> import jax
      >>> from cs231n_optax.problems.landscapes import himmelblau
      >>> landscape = himmelblau()
      >>> values = jax.jit(jax.vmap(landscape.fun))(landscape.minimizers)
      >>> print(abs(values).max() < 1e-9)
      True

    Source:
      D. M. Himmelblau, "Applied Nonlinear Programming", McGraw-Hill, 1972.
    """
    minimizers = np.array(
        [
            [3.0, 2.0],
            [-2.805118086952745, 3.131312518250573],
            [-3.779310253377747, -3.2831859912861696],
            [3.5844283403304917, -1.8481265269644036],
        ]
    )

    def fun(point: jax.typing.ArrayLike) -> jax.Array:
        x, y = jnp.asarray(point)
        return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2

    return Landscape("Himmelblau", fun, np.zeros(2), minimizers, 0.0)


def saddle() -> Landscape:
    """A saddle point between two minima, started on the saddle.

        f(x, y) = x² - y² + y⁴ / 4

    At the origin, its starting point, the gradient (2x, y³ - 2y) is exactly zero and the Hessian is
    diag(2, -2), so a method that uses the gradient alone never leaves. The minimum is -1 at (0, √2)
    and (0, -√2), where the Hessian is diag(2, 4).

    Example:
      >>> import jax
      >>> from cs231n_optax.problems.landscapes import saddle
      >>> landscape = saddle()
      >>> print(jax.jit(jax.hessian(landscape.fun))(landscape.x0))
      [[ 2.  0.]
       [ 0. -2.]]

    Source:
      Lecture 7-1-2, problem B.
    """

    def fun(point: jax.typing.ArrayLike) -> jax.Array:
        x, y = jnp.asarray(point)
        return x**2 - y**2 + y**4 / 4

    minimizers = np.array([[0.0, np.sqrt(2.0)], [0.0, -np.sqrt(2.0)]])
    return Landscape("saddle", fun, np.zeros(2), minimizers, -1.0)
