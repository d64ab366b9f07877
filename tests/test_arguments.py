"""Bad arguments and bad trees: one row each, the call and the error that names the fault."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cs231n_optax as co

X = jnp.ones(3)


BAD_CALLS = [
    (lambda: co.sgd(-0.1), ValueError, r"learning_rate must be a finite number >= 0, got -0.1"),
    (lambda: co.sgd(float("nan")), ValueError, "learning_rate .* got nan"),
    (lambda: co.sgd("0.1"), TypeError, "learning_rate .* got '0.1'"),
    (lambda: co.sgd(None), TypeError, "learning_rate .* got None"),
    (lambda: co.sgd(True), TypeError, "learning_rate .* got True"),
    (lambda: co.sgd(X), ValueError, r"learning_rate must be a scalar, got .* shape \(3,\)"),
    (lambda: co.sgd(np.ones(3)), TypeError, "learning_rate"),
    (lambda: co.sgd(jnp.complex64(1)), TypeError, "learning_rate .* complex64"),
    (lambda: co.momentum(0.1, 1.0), ValueError, r"rho must be a number in \[0, 1\), got 1.0"),
    (lambda: co.momentum(0.1, rho=-0.1), ValueError, "rho"),
    (lambda: co.nesterov(0.1, 2), ValueError, r"rho .* got 2"),
    (lambda: co.adagrad(0.1, eps=0.0), ValueError, "eps .* smallest normal number, got 0.0"),
    (lambda: co.rmsprop(0.1, 1.5), ValueError, "decay"),
    (lambda: co.rmsprop(0.1, eps=-1e-7), ValueError, "eps"),
    (lambda: co.adam(b1=1.0), ValueError, "b1"),
    (lambda: co.adam(b2=-1), ValueError, "b2"),
    (lambda: co.adam(bias_correction=1), TypeError, "bias_correction must be a Python bool"),
    (lambda: co.adam(learning_rat=1), TypeError, "learning_rat"),
    (lambda: co.step_decay(0.1, 0), ValueError, "every must be a finite number > 0, got 0"),
    (lambda: co.step_decay(0.1, 10, 1.1), ValueError, "factor"),
    (lambda: co.step_decay(-1, 10), ValueError, "init_value"),
    (lambda: co.exponential_decay(0.1, -1), ValueError, "rate"),
    (lambda: co.inverse_time_decay(0.1, float("inf")), ValueError, "rate"),
    (lambda: co.cyclic_cosine(0.1, -5), ValueError, "cycle_length"),
    (lambda: co.polyak_average(1.0), ValueError, r"decay must be a number in \[0, 1\), got 1.0"),
    (lambda: co.polyak_average("0.9"), TypeError, "decay .* got '0.9'"),
    (lambda: co.polyak_average(uniform=1), TypeError, "uniform must be a Python bool"),
    (lambda: co.polyak_average(bias_correction=0), TypeError, "bias_correction must be"),
    (
        lambda: co.polyak_average(bias_correction=True, uniform=True),
        ValueError,
        "bias_correction and uniform exclude each other",
    ),
    (
        lambda: co.polyak_average().init({"n": jnp.arange(3)}),
        TypeError,
        r"parameter\['n'\] is int32",
    ),
    (
        lambda: co.polyak_average().update(X, co.polyak_average().init(X)),
        ValueError,
        r"polyak_average needs the parameters: update\(updates, state, params\)",
    ),
    (
        lambda: co.polyak_average().update({"a": X}, co.polyak_average().init({"b": X}), {"a": X}),
        ValueError,
        "polyak_average: the updates are not those of the parameters given to init",
    ),
    (
        lambda: co.polyak_average().update(X, co.polyak_average().init(X), X[:2]),
        ValueError,
        r"the parameters are not .* got \[\(2,\)\], expected \[\(3,\)\]",
    ),
    (
        lambda: co.polyak_average().update(
            jnp.arange(3), co.polyak_average().init(X), jnp.arange(3)
        ),
        TypeError,
        "parameter is int32",
    ),
    (lambda: co.averaged_params(co.sgd(0.1).init(X)), ValueError, "no state of polyak_average"),
    (lambda: co.snapshots(0, 10), ValueError, "num must be an integer >= 1, got 0"),
    (lambda: co.snapshots(jnp.int32(2), 10), TypeError, "num must be a Python integer"),
    (lambda: co.snapshots(2, 0), ValueError, "every must be a finite number > 0, got 0"),
    (lambda: co.snapshots(2, None), TypeError, "every"),
    (lambda: co.snapshots(2, 5).init(jnp.arange(3)), TypeError, "parameter is int32"),
    (
        lambda: co.snapshots(2, 5).update(X, co.snapshots(2, 5).init(X)),
        ValueError,
        "snapshots needs the parameters",
    ),
    (
        lambda: co.snapshots(2, 5).update(X[:2], co.snapshots(2, 5).init(X), X),
        ValueError,
        r"snapshots: the updates are not .* got \[\(2,\)\], expected \[\(3,\)\]",
    ),
    (lambda: co.snapshot_params(co.sgd(0.1).init(X)), ValueError, "no state of snapshots"),
    (lambda: co.snapshots_filled(()), ValueError, "no state of snapshots"),
    (
        lambda: co.adam().init({"w": X, "n": jnp.arange(3)}),
        TypeError,
        r"parameter\['n'\] is int32",
    ),
    (lambda: co.sgd(0.1).update({"w": jnp.arange(3)}, ()), TypeError, r"gradient\['w'\] is int32"),
    (lambda: co.momentum(0.1).init(["text"]), TypeError, r"parameter\[0\] is str"),
    (
        lambda: co.momentum(0.1).update({"a": X}, co.momentum(0.1).init({"b": X})),
        ValueError,
        "not the tree of the parameters given to init",
    ),
    (
        lambda: co.adam().update({"a": None}, co.adam().init({"a": X})),
        ValueError,
        "not the tree of the parameters given to init",
    ),
    (
        lambda: co.rmsprop(0.1).update(X[:2], co.rmsprop(0.1).init(X)),
        ValueError,
        r"a gradient has shape \(2,\) where the parameters given to init had shape \(3,\)",
    ),
    (
        lambda: co.nesterov_iterate(co.momentum(0.1).init(X), X),
        ValueError,
        "0 states of scale_by_nesterov",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD_CALLS)
def test_bad_call(call, error, message):
    with pytest.raises(error, match=message):
        call()


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


NUMBERS = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.integers(-3, 3),
    st.sampled_from([None, "x", True, (), 1j, np.float32(0.5), np.array([1.0])]),
)


@given(st.data())
def test_any_argument_gives_a_transformation_or_a_clear_error(data):
    make, names = data.draw(
        st.sampled_from(
            [
                (co.sgd, ("learning_rate",)),
                (co.momentum, ("learning_rate", "rho")),
                (co.nesterov, ("learning_rate", "rho")),
                (co.adagrad, ("learning_rate", "eps")),
                (co.rmsprop, ("learning_rate", "decay", "eps")),
                (co.adam, ("learning_rate", "b1", "b2", "eps")),
                (co.polyak_average, ("decay",)),
                (co.snapshots, ("num", "every")),
                (co.step_decay, ("init_value", "every", "factor")),
                (co.exponential_decay, ("init_value", "rate")),
                (co.inverse_time_decay, ("init_value", "rate")),
                (co.cyclic_cosine, ("init_value", "cycle_length")),
            ]
        )
    )
    arguments = {name: data.draw(NUMBERS, label=name) for name in names}
    try:
        make(**arguments)
    except (ValueError, TypeError) as error:
        assert any(str(error).startswith(f"{name} must be") for name in names)  # noqa: PT017
