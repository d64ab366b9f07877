"""`fit` with Flax Linen: batch norm (a model state), dropout (a key) and metrics (aux).

    pip install -e '.[examples]'
    python examples/fit_flax_linen.py

The loss runs the network in train mode and returns the new running statistics; the evaluation runs
it in eval mode, with the running statistics and without dropout.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import cs231n_optax


class Network(nn.Module):
    """64 pixels, 64 normalised hidden units, dropout, 10 classes."""

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(64)(x))
        x = nn.Dropout(0.2, deterministic=not train)(nn.relu(x))
        return nn.Dense(10)(x)


network = Network()
variables = network.init(jax.random.key(0), jnp.zeros((1, 64)), train=False)


def loss(params, batch, *, key, model_state):
    """Cross-entropy in train mode, the new model state, and a metric."""
    x, y = batch
    logits, updated = network.apply(
        {"params": params, "batch_stats": model_state},
        x,
        train=True,
        rngs={"dropout": key},
        mutable=["batch_stats"],
    )
    value = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
    return value, (updated["batch_stats"], {"accuracy": jnp.mean(logits.argmax(-1) == y)})


def predict(params, model_state, x):
    """The logits in eval mode."""
    return network.apply({"params": params, "batch_stats": model_state}, x, train=False)


def train(data, test, *, steps, state=None):
    """Train on batches of 64; with the state of an earlier result, continue."""
    x_test, y_test = test

    def evaluate(params, *, model_state):
        return jnp.mean(predict(params, model_state, x_test).argmax(-1) == y_test)

    return cs231n_optax.fit(
        loss,
        variables["params"],
        cs231n_optax.adam(1e-2),
        data,
        steps=steps,
        batch_size=64,
        key=jax.random.key(1),
        needs_key=True,
        model_state=variables["batch_stats"],
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
