import jax
import numpy as np
import optax
import pytest

import cs231n_optax as co

pytest.importorskip("haiku", reason="needs pip install -e '.[examples]'")

X = np.random.default_rng(0).standard_normal((128, 64)).astype(np.float32)
Y = np.arange(128, dtype=np.int32) % 10


def test_it_learns_the_digits(example):
    training, accuracy = example.main(epochs=6)
    assert accuracy > 0.9
    # The state moved: the running means of batch norm are not the zeros of init.
    means = jax.tree.leaves(training.network_state)
    assert any(np.any(np.asarray(mean) != 0) for mean in means)


def test_one_line_changes_the_method(example):
    """With the same keys for dropout, our Adam and Optax's at our eps take the same path."""
    ours, loss = example.train(co.adam(1e-3), X, Y, epochs=2)
    theirs, same = example.train(optax.adam(1e-3, eps=1e-7), X, Y, epochs=2)
    assert loss == pytest.approx(float(same), rel=1e-4)
    np.testing.assert_array_equal(jax.random.key_data(ours.key), jax.random.key_data(theirs.key))
    for one, other in zip(
        jax.tree.leaves(ours.params), jax.tree.leaves(theirs.params), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
