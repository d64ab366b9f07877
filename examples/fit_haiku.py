"""`fit` with Haiku: batch norm (a model state), dropout (a key) and metrics (aux).

    pip install -e '.[examples]'
    python examples/fit_haiku.py

``hk.transform_with_state`` has the form that `fit` needs: the state of its ``apply`` is the model
state, and its ``rng`` the key.
"""

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import cs231n_optax


def forward(x, *, train):
    """64 pixels, 64 normalised hidden units, dropout, 10 classes."""
    x = hk.BatchNorm(True, True, decay_rate=0.9)(hk.Linear(64)(x), is_training=train)
    x = hk.dropout(hk.next_rng_key(), 0.2, jax.nn.relu(x)) if train else jax.nn.relu(x)
    return hk.Linear(10)(x)


network = hk.transform_with_state(forward)
params, model_state = network.init(jax.random.key(0), jnp.zeros((1, 64)), train=True)


def loss(params, batch, *, key, model_state):
    """Cross-entropy in train mode, the new model state, and a metric."""
    x, y = batch
    logits, model_state = network.apply(params, model_state, key, x, train=True)
    value = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
    return value, (model_state, {"accuracy": jnp.mean(logits.argmax(-1) == y)})


def predict(params, model_state, x):
    """The logits in eval mode."""
    return network.apply(params, model_state, None, x, train=False)[0]


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
