"""Digits with Flax NNX: ``nnx.Optimizer``, first with mini-batches, then with L-BFGS.

    pip install -e '.[examples]'
    python examples/flax_nnx_digits.py

A first-order method is used in ``nnx.Optimizer`` like any of Optax's. L-BFGS, with its line search,
also needs the loss:

1. ``optimizer.update(model, grads, value=loss)``, with the loss that ``nnx.value_and_grad`` has
   returned. Newton's method also takes the objective, a function of the parameters' state::

       graphdef, params, rest = nnx.split(model, nnx.Param, ...)
       value_fn = lambda params: loss_fn(nnx.merge(graphdef, params, rest), x, y)

2. The data stay the same (here, all of it), without dropout: the search compares losses.
3. The parameters in the model may be a trial that the search will reject. To get the solution,
   ``nnx.update(model, accepted_params(optimizer.opt_state))``.
"""

import jax
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import cs231n_optax


class Perceptron(nnx.Module):
    """64 pixels, 32 hidden units, dropout, 10 classes."""

    def __init__(self, rngs):
        self.hidden = nnx.Linear(64, 32, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.out = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x):
        return self.out(self.dropout(nnx.relu(self.hidden(x))))


def loss_fn(model, x, y):
    """Cross-entropy with a small penalty, without which the loss of all data has no minimum."""
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()
    return cross_entropy + 1e-4 * optax.tree.norm(nnx.state(model, nnx.Param), squared=True)


@nnx.jit(donate_argnums=(0, 1))
def train_step(model, optimizer, x, y):
    """One update; methods that do not need ``value=`` ignore it."""
    loss, grads = nnx.value_and_grad(loss_fn)(model, x, y)
    optimizer.update(model, grads, value=loss)
    return loss


def accuracy(model, x, y):
    """The accuracy of the model without dropout."""
    model.eval()
    return float(np.mean(model(x).argmax(-1) == y))


def with_batches(x, y, *, epochs, batch_size=64):
    """RMSProp on shuffled batches, with dropout."""
    model = Perceptron(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, cs231n_optax.rmsprop(2e-3), wrt=nnx.Param)
    rng = np.random.default_rng(0)
    model.train()
    for _ in range(epochs):
        order = rng.permutation(len(x))
        for batch in range(len(x) // batch_size):
            rows = order[batch * batch_size : (batch + 1) * batch_size]
            train_step(model, optimizer, x[rows], y[rows])
    return model


def with_lbfgs(x, y, *, max_evals):
    """L-BFGS on all data, without dropout; the model, its loss and the evaluations."""
    model = Perceptron(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, cs231n_optax.lbfgs(), wrt=nnx.Param)
    model.eval()
    for _ in range(max_evals):
        train_step(model, optimizer, x, y)
        if cs231n_optax.status(optimizer.opt_state) != cs231n_optax.Status.RUNNING:
            break
    nnx.update(model, cs231n_optax.accepted_params(optimizer.opt_state))
    return model, float(loss_fn(model, x, y)), int(optimizer.step[...])


def main(epochs=30, max_evals=300):
    """Train both ways and print their test accuracies."""
    pixels, labels = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(
        (pixels / 16).astype(np.float32), labels.astype(np.int32), test_size=0.25, random_state=0
    )
    x, y = jax.device_put((x, y))
    batches = accuracy(with_batches(x, y, epochs=epochs), x_test, y_test)
    print(f"rmsprop, {epochs} epochs: test accuracy {batches:.1%}")
    model, loss, num_evals = with_lbfgs(x, y, max_evals=max_evals)
    full = accuracy(model, x_test, y_test)
    print(f"lbfgs, {num_evals} evaluations: loss {loss:.5f}, test accuracy {full:.1%}")
    return batches, full, loss


if __name__ == "__main__":
    main()
