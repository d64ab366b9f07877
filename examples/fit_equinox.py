"""`fit` with Equinox: batch norm (a model state), dropout (a key) and metrics (aux).

    pip install -e '.[examples]'
    python examples/fit_equinox.py

``eqx.partition`` parts a network into its parameters and the rest, and ``eqx.combine`` puts them
together. The ``eqx.nn.State`` beside the network is the model state. An Equinox layer sees one
example: `jax.vmap` gives each its own key, and names the axis that batch norm averages over.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import cs231n_optax


class Network(eqx.Module):
    """64 pixels, 64 normalised hidden units, dropout, 10 classes."""

    hidden: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    out: eqx.nn.Linear

    def __init__(self, key):
        hidden_key, out_key = jax.random.split(key)
        self.hidden = eqx.nn.Linear(64, 64, key=hidden_key)
        self.norm = eqx.nn.BatchNorm(64, axis_name="batch", momentum=0.9, mode="batch")
        self.dropout = eqx.nn.Dropout(0.2)
        self.out = eqx.nn.Linear(64, 10, key=out_key)

    def __call__(self, x, state, key=None):
        x, state = self.norm(self.hidden(x), state)
        return self.out(self.dropout(jax.nn.relu(x), key=key)), state


network, model_state = eqx.nn.make_with_state(Network)(jax.random.key(0))
params, rest = eqx.partition(network, eqx.is_inexact_array)
over_batch = functools.partial(jax.vmap, axis_name="batch", out_axes=(0, None))


def loss(params, batch, *, key, model_state):
    """Cross-entropy in train mode, the new model state, and a metric."""
    x, y = batch
    network = over_batch(eqx.combine(params, rest), in_axes=(0, None, 0))
    logits, model_state = network(x, model_state, jax.random.split(key, len(x)))
    value = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
    return value, (model_state, {"accuracy": jnp.mean(logits.argmax(-1) == y)})


def predict(params, model_state, x):
    """The logits in eval mode."""
    network = eqx.nn.inference_mode(eqx.combine(params, rest))
    return over_batch(network, in_axes=(0, None))(x, model_state)[0]


def train(data, test, *, steps, state=None):
    """Train on batches of 64; with the state of an earlier result, continue."""
    x_test, y_test = test

    def evaluate(params, *, model_state):
        return jnp.mean(predict(params, model_state, x_test).argmax(-1) == y_test)

    return cs231n_optax.fit(
        loss,
        params,
        cs231n_optax.adam(1e-2),
        data,
        steps=steps,
        batch_size=64,
        key=jax.random.key(1),
        needs_key=True,
        model_state=model_state,
        has_aux=True,
        evaluate=evaluate,
        state=state,
    )


def main(steps=400):
    """Train and print both accuracies."""
    pixels, labels = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(
        (pixels / 16).astype(np.float32), labels.astype(np.int32), test_size=0.25, random_state=0
    )
    result = train((x, y), (x_test, y_test), steps=steps)
    in_training = float(result.history.aux["accuracy"][-20:].mean())
    accuracy = float(result.history.evaluation[-1])
    print(f"accuracy of the last 20 batches {in_training:.1%}, of the test set {accuracy:.1%}")
    return result


if __name__ == "__main__":
    main()
