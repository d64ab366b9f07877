"""The method of `minimize`, where the caller leaves it open."""

import math
from collections.abc import Callable
from typing import Any

import jax
import optax

from cs231n_optax import _tree
from cs231n_optax.second_order.hessian import hessian_matrix, hvp
from cs231n_optax.second_order.lbfgs import lbfgs
from cs231n_optax.second_order.newton import newton

MAX_PARAMETERS = 200  # of Newton's method
MAX_OPERATIONS = 1e7  # of a Hessian, some milliseconds
NEWTON, LBFGS = newton(), lbfgs()  # made once, so that `minimize` compiles once


def choose_method(fun: Callable[[Any], jax.Array], x0: Any) -> optax.GradientTransformation:
    """`newton` if the Hessian is cheap, else `lbfgs`.

    The Hessian is cheap if there are at most 200 parameters, and if that many products of the
    Hessian and a vector take at most 10⁷ operations. It then is small, too: 320 kB in float64.
    """
    n = _tree.num_reals(x0)
    if n > MAX_PARAMETERS:
        return LBFGS
    try:
        product = jax.make_jaxpr(lambda x: hvp(fun, x, x))(x0)
        if n * num_operations(product.jaxpr) > MAX_OPERATIONS:
            return LBFGS
        jax.eval_shape(lambda x: hessian_matrix(fun, x), x0)
    except Exception:  # not twice differentiable for JAX, as some jax.custom_vjp; or not at all
        return LBFGS
    return NEWTON


def num_operations(jaxpr: Any) -> float:
    """About how many numbers a program computes; a product of matrices counts each term.

    A loop with an unknown number of rounds counts as one round.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        inner = [
            getattr(x, "jaxpr", x)
            for parameter in equation.params.values()
            for x in (parameter if isinstance(parameter, tuple | list) else (parameter,))
            if hasattr(getattr(x, "jaxpr", x), "eqns")
        ]
        if inner:
            rounds = equation.params.get("length", 1)
            total += rounds * sum(map(num_operations, inner))
        else:
            sizes = [math.prod(x.aval.shape) for x in (*equation.invars, *equation.outvars)]
            terms = 1
            if equation.primitive.name == "dot_general":
                (axes, _), _ = equation.params["dimension_numbers"]
                terms = math.prod(equation.invars[0].aval.shape[axis] for axis in axes)
                sizes = sizes[-1:]
            total += terms * max(sizes, default=0)
    return total
