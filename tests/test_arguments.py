"""What a constructor takes: numbers of every sort, traced ones, and junk that it must refuse."""

import decimal
import fractions
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import given, settings
from hypothesis import strategies as st

import cs231n_optax as co

X = jnp.ones(3)
KEY = jax.random.key(0)


def test_numpy_numbers_are_plain_numbers():
    """A float64 scalar of NumPy must not widen float32 arithmetic, under x64 either."""
    with jax.enable_x64(True):
        tx = co.adam(np.float64(0.1), np.array(0.9), np.float64(0.999), np.float32(1e-7))
        updates, state = tx.update(X.astype(jnp.float32), tx.init(X.astype(jnp.float32)))
    assert updates.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(state)} == {jnp.dtype("int32"), jnp.dtype("float32")}


def test_a_wide_tracer_does_not_widen():
    """A float64 hyperparameter on float32 gradients, as in a sweep under x64."""
    with jax.enable_x64(True):
        x = X.astype(jnp.float32)

        @jax.jit
        def step(rate, rho):
            tx = co.nesterov(rate, rho)
            return tx.update(x, tx.init(x))

        updates, state = step(jnp.float64(0.1), jnp.float64(0.9))
    assert updates.dtype == jnp.float32
    assert state[1].look_ahead.dtype == jnp.float32


def test_mixed_precision_follows_the_gradient():
    """Parameters in float32, gradients in bfloat16, and the other way about."""
    for params_dtype, grads_dtype in (("float32", "bfloat16"), ("bfloat16", "float32")):
        tx = co.adam(0.1)
        state = tx.init(X.astype(params_dtype))
        updates, new_state = tx.update(X.astype(grads_dtype), state)
        assert updates.dtype == grads_dtype
        dtypes = [[x.dtype for x in jax.tree.leaves(tree)] for tree in (new_state, state)]
        assert dtypes[0] == dtypes[1]
        assert new_state[0].first_moment.dtype == jnp.float32


# Any argument gives a clear error or what works, and nothing else.

SENSIBLE = st.sampled_from(
    (
        *(0, 1, 2, 0.1, 0.5, 0.9, 1e-7, 1e20, fractions.Fraction(1, 3)),
        *(np.float16(0.5), np.float64(0.25), np.int64(1), np.array(0.5)),
        jnp.float32(0.5),
    )
)
EXTREME = st.one_of(
    st.floats(),
    st.floats(0, 1),
    st.integers(),
    st.sampled_from([5e-324, 1 - 1e-16, 1e39, 2**31, -(2**31), 10**400]),
    st.sampled_from([jnp.float32(jnp.nan), jnp.float32(-1), jnp.int32(1)]),
)
JUNK = st.sampled_from(
    (
        *(None, "x", b"x", "0.5", True, False, (), [0.5], {}, {0.5}, 1j, object(), co.sgd),
        *(np.array([1.0]), np.array(None), np.array("0.5"), np.complex64(1), np.bool_(True)),
        *(np.datetime64("2020"), decimal.Decimal("0.5"), X, KEY, jnp.bool_(True), jnp.complex64(1)),
    )
)
ANYTHING = st.one_of(SENSIBLE, SENSIBLE, EXTREME, JUNK)
RATES = st.one_of(ANYTHING, ANYTHING.map(lambda rate: lambda count: rate))
FLAGS = st.one_of(st.booleans(), st.booleans(), JUNK)
# Never a size that would take memory: the next is refused, or beyond what JAX can count.
SIZES = st.one_of(st.integers(-3, 9), st.sampled_from([2.0, 2**31, 10**12, 10**400]), JUNK)
SEARCHES = st.one_of(st.sampled_from([co.wolfe(), co.backtracking()]), JUNK)
DIRECTIONS = st.one_of(st.sampled_from([optax.identity(), co.scale_by_adam()]), JUNK)
MODELS = st.one_of(st.just((lambda x: x, lambda y: loss(y))), st.none(), JUNK)

OF_ARGUMENT = {
    "learning_rate": RATES,
    "memory_size": SIZES,
    "max_evals": SIZES,
    "num": SIZES,
    "search": SEARCHES,
    "direction": DIRECTIONS,
    "gauss_newton": MODELS,
    **dict.fromkeys(
        ("bias_correction", "uniform", "saddle_free", "leave_saddles", "strong", "unit_step"), FLAGS
    ),
}
FIRST_ORDER = [co.sgd, co.momentum, co.nesterov, co.adagrad, co.rmsprop, co.adam]
FIRST_ORDER += [co.scale_by_momentum, co.scale_by_nesterov, co.scale_by_adagrad]
FIRST_ORDER += [co.scale_by_rmsprop, co.scale_by_adam]
AVERAGES = [co.polyak_average, co.snapshots]
SCHEDULES = [co.step_decay, co.exponential_decay, co.inverse_time_decay, co.cyclic_cosine]
SEARCHING = [co.wolfe, co.backtracking]
SECOND_ORDER = [co.scale_by_lbfgs, co.scale_by_bfgs, co.scale_by_newton, co.with_line_search]
SECOND_ORDER += [co.lbfgs, co.bfgs, co.newton, co.newton_cg]
PARAMS = {"w": jnp.array([1.0, -2.0]), "b": jnp.float32(0.5)}


def loss(params):
    return sum(jnp.sum(x**2) for x in jax.tree.leaves(params))


def made(data, factories):
    """A factory, its arguments, and what it makes of them: None, if that is a clear error."""
    make = data.draw(st.sampled_from(factories), label="function")
    names = list(inspect.signature(make).parameters)
    arguments = {n: data.draw(OF_ARGUMENT.get(n, ANYTHING), label=n) for n in names}
    try:
        result = make(**arguments)
        if hasattr(result, "update"):  # a schedule answers first when a state is made
            jax.eval_shape(result.init, PARAMS)
    except (ValueError, TypeError) as error:
        assert str(error).startswith(tuple(names))  # noqa: PT017
        return arguments, None
    return arguments, result


def is_moderate(arguments):
    """Whether float32 can hold all that comes of them; of arrays the value is not looked at."""
    plain = [x(0) if inspect.isfunction(x) else x for x in arguments.values()]
    arrays = [x for x in plain if isinstance(x, jax.Array)]
    numbers = [x if isinstance(x, int) else float(x) for x in plain if np.isscalar(x)]
    return all(abs(x) <= 1e20 for x in numbers) and all(x == 0.5 for x in arrays)


def assert_alike(tree, like, finite):
    assert jax.tree.structure(tree) == jax.tree.structure(like)
    for x, y in zip(jax.tree.leaves(tree), jax.tree.leaves(like), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        assert not finite or np.isfinite(x).all()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_first_order_and_averages(data):
    """Two steps of gradients of the size of one; of numbers beyond 1e20 they may overflow."""
    arguments, tx = made(data, FIRST_ORDER + AVERAGES)
    if tx is not None:
        state = tx.init(PARAMS)
        for _ in range(2):
            updates, new_state = tx.update(jax.grad(loss)(PARAMS), state, PARAMS)
            assert_alike(updates, PARAMS, finite=is_moderate(arguments))
            assert_alike(new_state, state, finite=False)
            state = new_state


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_schedules(data):
    arguments, schedule = made(data, SCHEDULES)
    if schedule is not None:
        for count in (0, jnp.int32(7), 2.5, np.arange(3)):
            rate = schedule(count)
            assert (rate.shape, rate.dtype) == (np.shape(count), jnp.float32)
            assert not is_moderate(arguments) or np.isfinite(rate).all()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_searches(data):
    """Two steps along a parabola from 1 to its minimum at 3."""
    arguments, search = made(data, SEARCHING)
    if search is not None:
        state = search.init(4.0, -4.0, jnp.float32(1))
        for _ in range(2):
            t = state.step
            state = search.step(state, (t - 2) ** 2, 2 * (t - 2))
            assert_alike(state.step, jnp.float32(0), finite=is_moderate(arguments))
            assert state.answer in (0, 1, 2)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_second_order(data):
    """As JAX sees two steps, without compiling them for every number anew."""
    _, tx = made(data, SECOND_ORDER)

    def two_steps(params):
        state = tx.init(params)
        for _ in range(2):
            value, grads = jax.value_and_grad(loss)(params)
            updates, new_state = tx.update(grads, state, params, value=value, value_fn=loss)
            assert_alike(new_state, state, finite=False)
            state, params = new_state, optax.apply_updates(params, updates)
        return params

    if tx is not None:
        assert_alike(jax.eval_shape(two_steps, PARAMS), PARAMS, finite=False)
