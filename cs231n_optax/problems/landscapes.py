"""Test functions with known minima, for pictures, races and tests of the methods.

Each function takes a point of shape (n,), returns a scalar in the point's dtype, and is smooth:
`jax.grad` and `jax.hessian` give its derivatives everywhere.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cs231n_optax import _checks


class Landscape(NamedTuple):
    """A function to be minimised, where to start, and where it ends.

    Attributes:
      name: what it is called in tables and titles.
      fun: from a floating point of shape (n,) to a scalar of the same dtype, in pure JAX.
      x0: float64 (n,), the usual start.
      minimizers: float64 (k, n), all the global minimisers.
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

    The Hessian is diag(1, κ) everywhere. Gradient descent with the rate α multiplies x by 1 - α
    and y by 1 - α κ in each step, so it needs α < 2 / κ, and then x takes more than about κ / 2
    steps to shrink by a factor of e. With κ = 100 both terms are equally high at the start,
    (-10, 1).

    Args:
      condition_number: κ >= 1, the ratio of the largest to the smallest curvature, a number or a
        scalar array (may be traced).

    Returns:
      The landscape, n = 2, minimum 0 at the origin.

    Raises:
      ValueError: if a Python ``condition_number`` is not finite or below 1.
      TypeError: if it is not a number.

    Example:
      >>> import jax
      >>> from cs231n_optax.problems.landscapes import taco_shell
      >>> bowl = taco_shell(condition_number=100.0)
      >>> print(bowl.fun(bowl.x0), jax.grad(bowl.fun)(bowl.x0))
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

    The valley floor is nearly flat: at the minimum of the plane (n = 2) the condition number is
    2,508. For n = 4 ... 30 there is exactly one further, local minimum, with x₁ < 0.

    Args:
      n: the dimension, at least 2.

    Returns:
      The landscape, started from (-1.2, 1, -1.2, 1, ...), minimum 0 at (1, ..., 1).

    Raises:
      ValueError: if n < 2.
      TypeError: if n is not a Python integer.

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

    Returns:
      The landscape, n = 2, started from (1, 1), minimum 0 at (3, 0.5).

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
    """Himmelblau's function: four equal minima, four saddles between them and one hilltop.

        f(x, y) = (x² + y - 11)² + (x + y² - 7)²

    Both brackets vanish at (3, 2) and at three irrational points, given here to all digits of
    float64.

    Returns:
      The landscape, n = 2, started from the origin, near the hilltop, minimum 0 at four points.

    Example:
      >>> import jax
      >>> from cs231n_optax.problems.landscapes import himmelblau
      >>> landscape = himmelblau()
      >>> jax.vmap(landscape.fun)(landscape.minimizers).max() < 1e-9
      Array(True, dtype=bool)

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
    """A saddle point to start on, with a minimum on either side.

        f(x, y) = x² - y² + y⁴ / 4

    The gradient (2x, y³ - 2y) is exactly zero at the start, the origin, where the Hessian is
    diag(2, -2): a method that sees the gradient alone never leaves. The minima have the Hessian
    diag(2, 4).

    Returns:
      The landscape, n = 2, started from the origin, minimum -1 at (0, √2) and (0, -√2).

    Example:
      >>> import jax
      >>> from cs231n_optax.problems.landscapes import saddle
      >>> landscape = saddle()
      >>> print(jax.hessian(landscape.fun)(landscape.x0))
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
