"""The recipes ``examples/fit_*.py``: batch norm, dropout and metrics in `fit`, by framework."""

import importlib.util

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

STEPS = 100
RECIPES = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            importlib.util.find_spec(package) is None, reason="needs pip install -e '.[examples]'"
        ),
    )
    for name, package in [
        ("fit_flax_linen", "flax"),
        ("fit_flax_nnx", "flax"),
        ("fit_haiku", "haiku"),
        ("fit_equinox", "equinox"),
    ]
]
pytestmark = pytest.mark.parametrize("example", RECIPES, indirect=True, scope="module")

PIXELS, LABELS = load_digits(return_X_y=True)
X, Y = (PIXELS / 16).astype(np.float32), LABELS.astype(np.int32)
DATA, TEST = (X[:1400], Y[:1400]), (X[1400:], Y[1400:])


@pytest.fixture(scope="module")
def result(example):
    return example.train(DATA, TEST, steps=STEPS)


def arrays(tree):
    """The leaves, with keys as their bits."""
    leaves = jax.tree.leaves(tree)
    return [
        jax.random.key_data(x) if jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        for x in leaves
    ]


def test_it_learns_the_digits(example, result):
    accuracy = result.history.aux["accuracy"]
    assert accuracy.shape == (STEPS,)
    assert accuracy[:5].mean() < 0.6
    assert accuracy[-5:].mean() > 0.9
    assert result.history.evaluation[-1] > 0.9


def test_a_resumed_run_has_the_same_bits(example, result):
    state = example.train(DATA, TEST, steps=STEPS - 30).state
    resumed = example.train(DATA, TEST, steps=30, state=state)
    np.testing.assert_array_equal(resumed.history.loss, result.history.loss[-30:])
    for one, other in zip(arrays(resumed.state), arrays(result.state), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_evaluation_uses_the_running_statistics(example, result):
    """An image has the same logits alone and among others, and other ones before training."""
    start = example.train(DATA, TEST, steps=0).model_state
    together = example.predict(result.params, result.model_state, X[:50])
    alone = example.predict(result.params, result.model_state, X[:1])
    before = example.predict(result.params, start, X[:50])
    np.testing.assert_allclose(alone, together[:1], rtol=1e-4, atol=1e-4)
    assert np.max(np.abs(before - together)) > 0.1
    x, y = TEST
    accuracy = np.mean(example.predict(result.params, result.model_state, x).argmax(-1) == y)
    assert accuracy == pytest.approx(float(result.history.evaluation[-1]), abs=1e-6)


def test_dropout_takes_the_key(example, result):
    """Two keys give two losses, one key the same loss twice."""
    first, second, again = (
        example.loss(result.params, DATA, key=jax.random.key(seed), model_state=result.model_state)
        for seed in (0, 1, 0)
    )
    assert first[0] == again[0]
    assert first[0] != second[0]
