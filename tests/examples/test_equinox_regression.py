import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cs231n_optax as co

pytest.importorskip("equinox", reason="needs pip install -e '.[examples]'")

X = jnp.linspace(-1, 1, 50)
Y = jnp.sin(3 * X)


def test_lbfgs_needs_fewer_evaluations(example):
    adam, lbfgs = example.main(steps=100)
    assert lbfgs < adam < 0.5  # the chirp's mean square


def test_one_line_changes_the_method(example):
    ours, _, _ = example.train(co.momentum(0.1, rho=0.9), X, Y, steps=5)
    theirs, _, _ = example.train(optax.sgd(0.1, momentum=0.9), X, Y, steps=5)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_what_is_partitioned_away_stays(example):
    model = example.FourierNetwork(jax.random.key(0))
    params, _, rest = example.train(co.lbfgs(), X, Y, steps=5)
    assert params.frequencies is None
    np.testing.assert_array_equal(rest.frequencies, model.frequencies)
    start, _ = example.split(model)
    assert example.loss_fn(params, rest, X, Y) < example.loss_fn(start, rest, X, Y)
