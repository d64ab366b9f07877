"""`fit` with Flax NNX: batch norm (a model state), dropout (a key) and metrics (aux).

    pip install -e '.[examples]'
    python examples/fit_flax_nnx.py

`fit` takes pure functions. ``nnx.split`` parts a network into its graph, its parameters and its
batch statistics, and ``nnx.merge`` puts them together: in the loss with ``copy=True``, since train
mode writes new statistics into the merged network. Dropout takes the key of each step, so the
network holds no random numbers of its own. The trained network is ``nnx.merge(graph, result.params,
result.model_state)``.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import cs231n_optax


class Network(nnx.Module):
    """64 pixels, 64 normalised hidden units, dropout, 10 classes."""

    def __init__(self, rngs):
        self.hidden = nnx.Linear(64, 64, rngs=rngs)
        self.norm = nnx.BatchNorm(64, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.2)
        self.out = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x, rngs=None):
        x = nnx.relu(self.norm(self.hidden(x)))
        return self.out(self.dropout(x, rngs=rngs))


graph, params, model_state = nnx.split(Network(nnx.Rngs(0)), nnx.Param, nnx.BatchStat)


def loss(params, batch, *, key, model_state):
    """Cross-entropy in train mode, the new model state, and a metric."""
    x, y = batch
    network = nnx.merge(graph, params, model_state, copy=True)
    network.train()
    logits = network(x, nnx.Rngs(dropout=key))
    value = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
    model_state = nnx.state(network, nnx.BatchStat)
    return value, (model_state, {"accuracy": jnp.mean(logits.argmax(-1) == y)})


def predict(params, model_state, x):
    """The logits in eval mode."""
    network = nnx.merge(graph, params, model_state)
    network.eval()
    return network(x)


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
