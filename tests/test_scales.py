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
# Powers of 10 in whose squares neither a coordinate nor a gradient overflows or vanishes.
POWERS = {"float32": [-15, -9, -4, 0, 4, 9, 15], "float64": [-140, -60, -20, -6, 0, 6, 20, 60, 140]}

every_dtype = pytest.mark.parametrize("dtype", POWERS)
every_method = pytest.mark.parametrize("name", METHODS)


def bowl(x):
    """A convex quartic around 1, with curvatures from 2 to 20."""
    return jnp.sum(jnp.array([1.0, 3.0, 10.0], x.dtype) * (x - 1) ** 2) + jnp.sum((x - 1) ** 4)


@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.vmap, in_axes=(None, 0, 0, None))
def evaluations(name, x_scale, f_scale, start):
    """Of f_scale · bowl(x / x_scale) from x_scale · start, in one batch; and the last status."""

    def fun(x):
        return f_scale * bowl(x / x_scale)

    start = x_scale * start
    first = jnp.max(jnp.abs(jax.grad(fun)(start)))
    result = co.minimize(fun, start, METHODS[name], tol=0.0, atol=1e-3 * first, max_evals=200)
    return result.num_evals, result.status


def check_counts(name, dtype, start, *, of):
    scales = jnp.array([10.0**k for k in POWERS[dtype]], dtype)
    ones = jnp.ones_like(scales)
    pair = (scales, ones) if of == "x" else (ones, scales)
    counts, statuses = evaluations(name, *pair, jnp.array(start, dtype))
    usual = counts[len(scales) // 2]
    np.testing.assert_array_equal(statuses, np.full(len(scales), Status.CONVERGED))
    # A first trial between 10⁻³ and 10² of the parameters is up to ten halvings off.
    few = 12 if name in ("backtracking", "descent") else 8
    assert np.all(np.abs(np.asarray(counts - usual)) <= few), counts


@every_method
@every_dtype
class TestSameEvaluations:
    def test_at_any_scale_of_the_function(self, name, dtype):
        with jax.enable_x64(dtype == "float64"):
            check_counts(name, dtype, [3.0, -2.0, 2.0], of="f")

    def test_at_any_scale_of_the_coordinates(self, name, dtype):
        if name == "newton":
            pytest.skip("its value tolerance is absolute: atol, in units of the gradient")
        with jax.enable_x64(dtype == "float64"):
            check_counts(name, dtype, [3.0, -2.0, 2.0], of="x")


@pytest.mark.parametrize("name", ["lbfgs", "bfgs", "descent"])
@every_dtype
def test_from_zero_where_the_scale_is_unknown(name, dtype):
    """The first trial has the length 1, from 10¹⁵ too long to 10¹⁵ too short."""
    with jax.enable_x64(dtype == "float64"):
        powers = [-15.0, -8.0, 0.0, 8.0, 15.0]
        scales = jnp.array([10.0**k for k in powers], dtype)
        counts, statuses = evaluations(name, scales, jnp.ones_like(scales), jnp.zeros(3, dtype))
        np.testing.assert_array_equal(statuses, np.full(len(powers), Status.CONVERGED))
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
