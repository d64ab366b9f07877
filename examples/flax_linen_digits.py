"""Digits with Flax Linen: a ``TrainState``, a decaying rate, and the averaged parameters.

    pip install -e '.[examples]'
    python examples/flax_linen_digits.py

The step is that of Flax's tutorials; only ``tx`` is from this library. The Polyak average is at the
end of the chain, so the ``TrainState`` holds and checkpoints it. The evaluated model is the same
``apply_fn`` with the averaged parameters.

``apply_gradients`` does not pass the loss on. For `cs231n_optax.lbfgs` and other methods that need
it, replace the call by its body, with ``value=loss``::

    updates, opt_state = state.tx.update(grads, state.opt_state, state.params, value=loss)
    params = optax.apply_updates(state.params, updates)
    state = state.replace(step=state.step + 1, params=params, opt_state=opt_state)
"""

import functools

import jax
import numpy as np
import optax
from flax import linen as nn
from flax.training.train_state import TrainState
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import cs231n_optax


class Perceptron(nn.Module):
    """64 pixels, 64 hidden units, 10 classes."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(10)(nn.relu(nn.Dense(64)(x)))


@functools.partial(jax.jit, donate_argnums=0)
def train_step(state, x, y):
    """One update on one batch."""

    def loss_fn(params):
        logits = state.apply_fn({"params": params}, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    loss, grads = jax.value_and_grad(loss_fn)(state.params)
    return state.apply_gradients(grads=grads), loss


def train(tx, x, y, *, epochs, batch_size=64):
    """Train for some epochs of shuffled batches; return the ``TrainState`` and the last loss."""
    model, rng = Perceptron(), np.random.default_rng(0)
    params = model.init(jax.random.key(0), x[:1])["params"]
    state = TrainState.create(apply_fn=model.apply, params=params, tx=tx)
    for _ in range(epochs):
        order = rng.permutation(len(x))
        for batch in range(len(x) // batch_size):
            rows = order[batch * batch_size : (batch + 1) * batch_size]
            state, loss = train_step(state, x[rows], y[rows])
    return state, loss


def main(epochs=20):
    """Compare the last parameters with their average on the test set."""
    pixels, labels = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(
        (pixels / 16).astype(np.float32), labels.astype(np.int32), test_size=0.25, random_state=0
    )
    steps_an_epoch = len(x) // 64
    tx = optax.chain(
        cs231n_optax.nesterov(cs231n_optax.step_decay(0.2, every=5 * steps_an_epoch), rho=0.9),
        cs231n_optax.polyak_average(0.99),
    )
    state, loss = train(tx, x, y, epochs=epochs)

    def accuracy(params):
        return float(np.mean(state.apply_fn({"params": params}, x_test).argmax(-1) == y_test))

    last = accuracy(state.params)
    averaged = accuracy(cs231n_optax.averaged_params(state.opt_state))
    print(f"train loss {loss:.4f} after {state.step} steps")
    print(f"test accuracy: {last:.1%} with the last parameters, {averaged:.1%} with their average")
    return state, last, averaged


if __name__ == "__main__":
    main()
