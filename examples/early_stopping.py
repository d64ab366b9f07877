"""Stop training when the validation loss no longer falls, and keep the best parameters.

    pip install -e '.[examples]'
    python examples/early_stopping.py

A small network learns scikit-learn's digits from so few images that it soon fits their noise. `fit`
evaluates the validation loss after each chunk and passes it, with the parameters, to the callback,
which keeps the best ones and returns True after a number of chunks without a better one. A progress
bar is drawn around it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import cs231n_optax

NUM_TRAIN, NUM_VALIDATION, BATCH_SIZE = 150, 300, 50


class EarlyStopping:
    """A callback of `cs231n_optax.fit` with ``evaluate=`` to a validation loss.

    Attributes:
      patience: the number of chunks without a better loss after which the run ends.
      best_loss: the least validation loss.
      best_params: the parameters there.
      best_step: the number of updates that led to them.
      waited: chunks since then.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.best_loss, self.best_params, self.best_step = np.inf, None, 0
        self.waited = 0

    def __call__(self, progress: cs231n_optax.FitProgress) -> bool:
        """Whether to stop."""
        loss = float(progress.evaluation[-1])
        if loss < self.best_loss:
            self.best_loss, self.best_params = loss, progress.params
            self.best_step = int(progress.step[-1]) + 1
            self.waited = 0
        else:
            self.waited += 1
        return self.waited >= self.patience


def split_digits():
    """Training, validation and test images and labels, each a pair."""
    images, labels = load_digits(return_X_y=True)
    images = np.float32(images / 16)
    train_x, rest_x, train_y, rest_y = train_test_split(
        images, labels, train_size=NUM_TRAIN, random_state=0, stratify=labels
    )
    validation, test = slice(NUM_VALIDATION), slice(NUM_VALIDATION, None)
    parts = [(train_x, train_y)] + [(rest_x[part], rest_y[part]) for part in (validation, test)]
    return jax.tree.map(jnp.asarray, parts)


def init(key: jax.Array) -> dict[str, Any]:
    """A network of 64 pixels, 256 hidden units and 10 classes."""
    first, second = jax.random.split(key)
    return {
        "hidden": jax.random.normal(first, (64, 256)) / 8,
        "output": jax.random.normal(second, (256, 10)) / 16,
    }


def logits(params, images):
    """The scores of the classes."""
    return jax.nn.relu(images @ params["hidden"]) @ params["output"]


def loss(params, batch):
    """The mean cross-entropy."""
    images, labels = batch
    scores = logits(params, images)
    return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()


def accuracy(params, batch):
    """The fraction of the images that are classified as they are labelled."""
    images, labels = batch
    return float(jnp.mean(logits(params, images).argmax(-1) == labels))


def main(steps=2000, patience=10):
    """Train with early stopping; return the callback, the result and the test accuracies."""
    train, validation, test = split_digits()
    stopping = EarlyStopping(patience)
    result = cs231n_optax.fit(
        loss,
        init(jax.random.key(0)),
        cs231n_optax.adam(3e-3),
        train,
        steps=steps,
        batch_size=BATCH_SIZE,
        key=jax.random.key(1),
        evaluate=lambda params: loss(params, validation),
        callback=cs231n_optax.progress_bar(stopping),
        chunk_size=10,
    )
    print(f"stopped after {result.state.step} of at most {steps} steps")
    print(f"best validation loss {stopping.best_loss:.4f} after {stopping.best_step} steps")
    best, last = (accuracy(params, test) for params in (stopping.best_params, result.params))
    print(f"test accuracy {best:.1%} with the best parameters, {last:.1%} with the last ones")
    return stopping, result, (best, last)


if __name__ == "__main__":
    main()
