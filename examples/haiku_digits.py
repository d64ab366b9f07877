"""Digits with Haiku: a transformed function with state (batch norm) and randomness (dropout).

    pip install -e '.[examples]'
    python examples/haiku_digits.py

The training state is a NamedTuple of four trees. Another optimiser changes only the line of ``tx``.
"""

import functools
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import cs231n_optax


def forward(x, is_training):
    """64 pixels, 64 normalised hidden units, dropout, 10 classes."""
    x = hk.Linear(64)(x)
    x = jax.nn.relu(hk.BatchNorm(True, True, decay_rate=0.9)(x, is_training))
    if is_training:
        x = hk.dropout(hk.next_rng_key(), 0.2, x)
    return hk.Linear(10)(x)


network = hk.transform_with_state(forward)


class Training(NamedTuple):
    """The training state, to be saved in a checkpoint."""

    params: hk.Params
    network_state: hk.State
    opt_state: optax.OptState
    key: Any


def make_step(tx):
    """A compiled training step with a transformation."""

    def loss_fn(params, network_state, key, x, y):
        logits, network_state = network.apply(params, network_state, key, x, True)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
        return loss, network_state

    @functools.partial(jax.jit, donate_argnums=0)
    def step(training, x, y):
        params, network_state, opt_state, key = training
        key, dropout_key = jax.random.split(key)
        (loss, network_state), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            params, network_state, dropout_key, x, y
        )
        updates, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        return Training(params, network_state, opt_state, key), loss

    return step


def train(tx, x, y, *, epochs, batch_size=64):
    """Train for some epochs of shuffled batches; return the state and the last loss."""
    step, rng = make_step(tx), np.random.default_rng(0)
    params, network_state = network.init(jax.random.key(0), x[:1], True)
    training = Training(params, network_state, tx.init(params), jax.random.key(1))
    for _ in range(epochs):
        order = rng.permutation(len(x))
        for batch in range(len(x) // batch_size):
            rows = order[batch * batch_size : (batch + 1) * batch_size]
            training, loss = step(training, x[rows], y[rows])
    return training, loss


def main(epochs=20):
    """Train and print the test accuracy."""
    pixels, labels = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(
        (pixels / 16).astype(np.float32), labels.astype(np.int32), test_size=0.25, random_state=0
    )
    tx = cs231n_optax.adam(cs231n_optax.exponential_decay(5e-3, rate=2e-3))
    training, loss = train(tx, x, y, epochs=epochs)
    logits, _ = network.apply(training.params, training.network_state, None, x_test, False)
    accuracy = float(jnp.mean(logits.argmax(-1) == y_test))
    print(f"train loss {loss:.4f} with dropout, test accuracy {accuracy:.1%} without")
    return training, accuracy


if __name__ == "__main__":
    main()
