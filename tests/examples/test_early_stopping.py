"""Where the example stops, and which parameters it keeps."""

import jax
import numpy as np
import pytest

import cs231n_optax as co

pytest.importorskip("tqdm", reason="needs pip install -e '.[examples]'")


@pytest.fixture(scope="module")
def outcome(example):
    return example.main(steps=1000)


def test_it_stops_when_the_validation_loss_no_longer_falls(outcome):
    stopping, result, _ = outcome
    losses = result.history.evaluation
    best = int(np.argmin(losses))
    assert len(losses) == best + 1 + 10 < 100
    assert int(result.state.step) == 10 * len(losses)
    assert stopping.best_loss == losses[best]
    assert stopping.best_step == 10 * (best + 1)


def test_the_best_parameters_are_those_of_a_run_of_that_length(outcome, example):
    stopping, result, _ = outcome
    train, validation, _ = example.split_digits()
    shorter = co.fit(
        example.loss,
        example.init(jax.random.key(0)),
        co.adam(3e-3),
        train,
        steps=stopping.best_step,
        batch_size=example.BATCH_SIZE,
        key=jax.random.key(1),
    )
    for name, kept in stopping.best_params.items():
        np.testing.assert_allclose(kept, shorter.params[name], rtol=1e-5, atol=1e-6)
        assert np.abs(kept - result.params[name]).max() > 1e-3
    loss = example.loss(stopping.best_params, validation)
    np.testing.assert_allclose(loss, stopping.best_loss, rtol=1e-5)
    assert example.loss(result.params, validation) > loss


def test_it_learns_the_digits(outcome):
    assert min(outcome[2]) > 0.85
