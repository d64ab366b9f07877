import jax
import numpy as np
import optax
import pytest

import cs231n_optax as co

pytest.importorskip("flax", reason="needs pip install -e '.[examples]'")

X = np.random.default_rng(0).standard_normal((128, 64)).astype(np.float32)
Y = np.arange(128, dtype=np.int32) % 10


def test_it_learns_the_digits(example):
    state, last, averaged = example.main(epochs=6)
    assert last > 0.9
    assert averaged > 0.9
    assert int(state.step) == 6 * (1347 // 64)


def test_one_line_changes_the_method(example):
    """The step does with our momentum what it does with the same rule of Optax's."""
    ours, loss = example.train(co.momentum(0.1, rho=0.9), X, Y, epochs=3)
    theirs, same = example.train(optax.sgd(0.1, momentum=0.9), X, Y, epochs=3)
    assert loss == pytest.approx(float(same), rel=1e-5)
    for one, other in zip(
        jax.tree.leaves(ours.params), jax.tree.leaves(theirs.params), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_the_train_state_carries_the_average(example):
    """Of x₀, x₁, x₂: an epoch of 64 examples is one step."""
    tx = optax.chain(co.sgd(0.5), co.polyak_average(0.9))
    states = [example.train(tx, X[:64], Y[:64], epochs=epochs)[0] for epochs in (1, 2)]
    x0 = example.Perceptron().init(jax.random.key(0), X[:1])["params"]
    expected = jax.tree.map(
        lambda x0, x1, x2: 0.9 * (0.9 * x0 + 0.1 * x1) + 0.1 * x2,
        x0,
        states[0].params,
        states[1].params,
    )
    averaged = co.averaged_params(states[1].opt_state)
    assert jax.tree.structure(averaged) == jax.tree.structure(states[1].params)
    for one, other in zip(jax.tree.leaves(averaged), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
