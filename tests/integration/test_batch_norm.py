"""Batch norm under L-BFGS: what ``docs/batch_norm.md`` says about the running statistics."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

import cs231n_optax as co

nn = pytest.importorskip("flax.linen", reason="needs pip install -e '.[examples]'")

PIXELS, LABELS = load_digits(return_X_y=True)
X, Y = jnp.asarray(PIXELS[:300] / 16, jnp.float32), jnp.asarray(LABELS[:300])


class Network(nn.Module):
    momentum: float

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.BatchNorm(use_running_average=not train, momentum=self.momentum)(nn.Dense(16)(x))
        return nn.Dense(10)(nn.relu(x))


def cross_entropy(logits):
    return optax.softmax_cross_entropy_with_integer_labels(logits, Y).mean()


def evaluate(network, params, batch_stats, *, train):
    """The loss, and the batch statistics after it."""
    variables = {"params": params, "batch_stats": batch_stats}
    logits, updated = network.apply(variables, X, train=train, mutable=["batch_stats"])
    return cross_entropy(logits), updated["batch_stats"]


@functools.cache
def fitted(momentum):
    network = Network(momentum)
    variables = network.init(jax.random.key(0), X, train=False)

    def loss(params, batch, *, model_state):
        return evaluate(network, params, model_state, train=True)

    return network, co.fit(
        loss,
        variables["params"],
        co.lbfgs(),
        X,
        steps=30,
        model_state=variables["batch_stats"],
    )


def test_running_statistics_lag_behind_the_points():
    network, result = fitted(0.99)
    in_training, _ = evaluate(network, result.params, result.model_state, train=True)
    in_eval, _ = evaluate(network, result.params, result.model_state, train=False)
    assert in_training < 0.01
    assert in_eval > 0.1


def test_statistics_computed_again_are_those_of_training():
    network, result = fitted(0.99)
    exact = network.clone(momentum=0.0)
    in_training, batch_stats = evaluate(exact, result.params, result.model_state, train=True)
    in_eval, _ = evaluate(network, result.params, batch_stats, train=False)
    assert in_eval == pytest.approx(float(in_training), rel=1e-3)


def test_momentum_zero_keeps_those_of_the_accepted_point():
    network, result = fitted(0.0)
    in_training, batch_stats = evaluate(network, result.params, result.model_state, train=True)
    in_eval, _ = evaluate(network, result.params, result.model_state, train=False)
    assert in_eval == pytest.approx(float(in_training), rel=1e-3)
    for one, other in zip(
        jax.tree.leaves(result.model_state), jax.tree.leaves(batch_stats), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
