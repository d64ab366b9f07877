"""The scale of the coordinates and of the function: evaluations, answers, and no lower bound.

A run is counted up to the first accepted point where the gradient is 1e-3 of the first one, so that
the count does not depend on a tolerance in some unit.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cs231n_optax as co
from cs231n_optax import Status

METHODS = {
    "lbfgs": co.lbfgs(),
    "bfgs": co.bfgs(),
    "descent": co.with_line_search(optax.identity()),
    "backtracking": co.lbfgs(search=co.backtracking()),
    "newton": co.newton(),
    "newton_cg": co.newton_cg(),
}
SEARCHES = [name for name in METHODS if not name.startswith("newton")]
# About 10^±15 in float32, 10^±140 in float64: squares of coordinates and gradients neither overflow
# nor vanish. Powers of 2, whose products are not rounded.
SCALES = {
    "float32": 2.0 ** np.array([-50, -30, -14, 0, 14, 30, 50]),
    "float64": 2.0 ** np.array([-465, -200, -66, -20, 0, 20, 66, 200, 465]),
}

every_dtype = pytest.mark.parametrize("dtype", SCALES)
every_method = pytest.mark.parametrize("name", METHODS)


def bowl(x):
    """A convex quartic around 1, with curvatures from 2 to 20."""
    return jnp.sum(jnp.array([1.0, 3.0, 10.0], x.dtype) * (x - 1) ** 2) + jnp.sum((x - 1) ** 4)


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.vmap, in_axes=(None, 0, 0, None))
def evaluations(name, x_scale, f_scale, start):
    """Of f_scale · bowl(x / x_scale) from x_scale · start, in one batch; and the last status."""
    tx = METHODS[name]

    def fun(x):
        return f_scale * bowl(x / x_scale)

    def goes_on(carry):
        state = carry[1]
        arrived = co.accepted(state) & (co.accepted_grad_norm(state) <= 1e-3 * first)
        return (co.status(state) == Status.RUNNING) & ~arrived & (state.trial.num_evals < 200)

    def body(carry):
        x, state = carry
        value, grads = jax.value_and_grad(fun)(x)
        updates, state = tx.update(grads, state, x, value=value, value_fn=fun)
        return x + updates, state

    start = x_scale * start
    first = jnp.max(jnp.abs(jax.grad(fun)(start)))
    carry = body((start, tx.init(start)))
    _, state = jax.lax.while_loop(goes_on, body, carry)
    return state.trial.num_evals, co.status(state)


@every_method
@every_dtype
class TestSameEvaluations:
    START = (3.0, -2.0, 2.0)

    def test_at_any_scale_of_the_function(self, name, dtype):
        """Exactly: no step depends on it."""
        with jax.enable_x64(dtype == "float64"):
            scales = jnp.array(SCALES[dtype], dtype)
            start, ones = jnp.array(self.START, dtype), jnp.ones_like(scales)
            counts, _ = evaluations(name, ones, scales, start)
            np.testing.assert_array_equal(counts, np.full(len(scales), counts[len(scales) // 2]))

    def test_at_any_scale_of_the_coordinates(self, name, dtype):
        """But for a first trial that is between 10⁻³ and 10² of the parameters."""
        few = 13 if name in ("backtracking", "descent") else 6  # ten halvings, or three decades
        with jax.enable_x64(dtype == "float64"):
            scales = jnp.array(SCALES[dtype], dtype)
            start, ones = jnp.array(self.START, dtype), jnp.ones_like(scales)
            counts, statuses = evaluations(name, scales, ones, start)
            np.testing.assert_array_equal(statuses, np.full(len(scales), Status.RUNNING))
            np.testing.assert_allclose(counts, counts[len(scales) // 2], rtol=0, atol=few)


@pytest.mark.parametrize("name", ["lbfgs", "bfgs", "descent"])
@every_dtype
def test_from_zero_where_the_scale_is_unknown(name, dtype):
    """The first trial has the length 1, from 10¹⁵ too long to 10¹⁵ too short."""
    with jax.enable_x64(dtype == "float64"):
        powers = [-15.0, -8.0, 0.0, 8.0, 15.0]
        scales = jnp.array([10.0**k for k in powers], dtype)
        counts, statuses = evaluations(name, scales, jnp.ones_like(scales), jnp.zeros(3, dtype))
        np.testing.assert_array_equal(statuses, np.full(len(powers), Status.RUNNING))
        assert np.all(counts <= counts[2] + 30), counts


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("start", "dtype"), [(2e7, "float32"), (1.6e9, "float32"), (1e17, "float64")]
)
def test_far_from_zero(name, start, dtype):
    """A convex quadratic, whose first trial of length 1 would be lost in rounding."""
    with jax.enable_x64(dtype == "float64"):
        x0 = jnp.full(2, start, dtype)
        result = co.minimize(lambda x: jnp.sum((x - 2 * x0) ** 2), x0, METHODS[name])
        assert result.status == Status.CONVERGED
        np.testing.assert_allclose(result.params, 2 * x0, rtol=1e-4)


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize(("scale", "dtype"), [(1e7, "float32"), (1e9, "float64")])
def test_rosenbrock_in_small_coordinates(name, scale, dtype):
    if name == "descent":
        pytest.skip("takes thousands of steps")

    def fun(x):
        x = scale * x
        return 100 * (x[1] - x[0] ** 2) ** 2 + (1 - x[0]) ** 2

    with jax.enable_x64(dtype == "float64"):
        x0 = jnp.array([-1.2, 1.0], dtype) / scale
        result = co.minimize(fun, x0, METHODS[name], tol=1e-7)
        np.testing.assert_allclose(scale * result.params, np.ones(2), rtol=2e-2)


UNBOUNDED = {
    "quartic": lambda x: -jnp.sum(x**4),
    "parabola": lambda x: -jnp.sum(x**2),
    "line": lambda x: -jnp.sum(x),
    "one direction": lambda x: x[0] ** 2 - jnp.sum(x[1:] ** 3),
}


@pytest.mark.parametrize("name", ["lbfgs", "bfgs", "descent", "newton_cg"])
@pytest.mark.parametrize("fun", UNBOUNDED.values(), ids=UNBOUNDED)
def test_no_lower_bound(name, fun):
    """The status says so, and the answer is the best finite point that was evaluated."""
    values = []
    result = co.minimize(
        fun,
        jnp.array([0.7, 0.9]),
        METHODS[name],
        callback=lambda progress: values.append(float(progress.trial_value)),
    )
    jax.block_until_ready(result)
    jax.effects_barrier()
    assert result.status == Status.UNBOUNDED
    if name != "newton_cg":  # whose products overflow before the value does
        assert result.value == min(v for v in values if np.isfinite(v))
    assert np.all(np.isfinite(result.params))
    assert result.num_evals <= 60


@pytest.mark.parametrize("name", SEARCHES)
def test_bounded_function_is_not_called_unbounded(name):
    """It falls by 1e15 at a slope that hardly changes, to a minimum far away."""
    result = co.minimize(
        lambda x: jnp.sum(jnp.sqrt(1 + (x - 1e15) ** 2)), jnp.ones(2), METHODS[name]
    )
    assert result.status != Status.UNBOUNDED


# The tolerance of a hand-written loop.

FACTORIES = {
    "lbfgs": co.lbfgs,
    "bfgs": co.bfgs,
    "descent": functools.partial(co.with_line_search, optax.identity()),
    "newton": co.newton,
    "newton_cg": co.newton_cg,
}


def loop(tx, start, max_evals=100):
    """Parameters, status and number of evaluations of the ordinary loop."""

    def body(carry):
        x, state = carry
        value, grads = jax.value_and_grad(bowl)(x)
        updates, state = tx.update(grads, state, x, value=value, value_fn=bowl)
        return x + updates, state

    def goes_on(carry):
        state = carry[1]
        return (co.status(state) == Status.RUNNING) & (state.trial.num_evals < max_evals)

    _, state = jax.lax.while_loop(goes_on, body, (start, tx.init(start)))
    return co.accepted_params(state), co.status(state), state.trial.num_evals


@pytest.mark.parametrize("name", FACTORIES)
class TestTolerance:
    START = jnp.array([3.0, -2.0, 2.0])

    @pytest.mark.parametrize(("tol", "atol"), [(1e-4, 0.0), (0.0, 1e-2)])
    def test_loop_ends_as_minimize_does(self, name, tol, atol):
        params, status, num_evals = jax.jit(
            lambda tol, atol: loop(FACTORIES[name](tol=tol, atol=atol), self.START)
        )(tol, atol)  # traced
        expected = co.minimize(bowl, self.START, FACTORIES[name](), tol=tol, atol=atol)
        assert status == expected.status == Status.CONVERGED
        assert num_evals == expected.num_evals
        np.testing.assert_allclose(params, expected.params, rtol=1e-5)

    def test_of_minimize_and_of_the_method(self, name):
        """The looser one ends the run."""
        one = co.minimize(bowl, self.START, FACTORIES[name](tol=1e-2), tol=1e-5)
        other = co.minimize(bowl, self.START, FACTORIES[name](tol=1e-5), tol=1e-2)
        assert one.num_evals == other.num_evals
        assert one.status == other.status == Status.CONVERGED

    def test_of_a_resumed_run_refers_to_its_first_gradient(self, name):
        tx = FACTORIES[name](tol=1e-2)
        first = co.minimize(bowl, self.START, tx, tol=0.0)
        again = co.minimize(bowl, first.params, tx, tol=0.0, state=first.state)
        bound = 1e-2 * max(1, float(jnp.max(jnp.abs(first.grad))))
        assert again.status == Status.CONVERGED
        assert jnp.max(jnp.abs(again.grad)) <= bound

    @pytest.mark.parametrize("argument", ["tol", "atol"])
    def test_negative_one_is_named(self, name, argument):
        with pytest.raises(ValueError, match=argument):
            FACTORIES[name](**{argument: -1.0})
