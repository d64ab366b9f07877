"""The eight workloads: with little noise in their gradients and with much, convex and not."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cs231n_optax.experiments.protocol.workloads import noisy_quadratic
from cs231n_optax.experiments.task import batch_loss
from cs231n_optax.problems import datasets, networks
from cs231n_optax.problems.datasets import Dataset
from cs231n_optax.problems.networks import Network, accuracy

NOISY_LABELS = 0.2  # the share of labels that are drawn anew


class Workload(NamedTuple):
    """What is trained.

    Attributes:
      init: maps a key to the first parameters.
      loss: ``loss(params, batch)``.
      error: ``error(params, test)``, the share of the test set classified wrong; None where there
        are no classes.
      train: the examples of the batches.
      measured: those whose loss is the training loss.
      test: those whose loss is the test loss.
    """

    init: Callable[[jax.Array], Any]
    loss: Callable[[Any, Any], jax.Array]
    error: Callable[[Any, Any], jax.Array] | None
    train: Any
    measured: Any
    test: Any


def quadratic() -> Workload:
    """The noisy quadratic of the protocol; both losses are what is left to gain."""
    given = noisy_quadratic(steps=0)
    exact = given.validation[0]
    return Workload(given.init, given.loss, None, given.train, exact, exact)


def classifier(
    network: Callable[..., Network], dataset: Callable[[], Dataset], noise: float = 0.0
) -> Workload:
    """The cross-entropy of a network on images; with noise, some labels are random."""
    data = dataset()
    net = network(data.x_train.shape[1:], data.num_classes)
    rng = np.random.default_rng(0)
    noisy = rng.random(len(data.y_train)) < noise
    labels = np.where(noisy, rng.permutation(data.y_train), data.y_train)
    train = (data.x_train, labels.astype(data.y_train.dtype))

    def error(params: Any, test: Any) -> jax.Array:
        return 1 - accuracy(net.apply(params, test[0]), test[1])

    return Workload(net.init, batch_loss(net), error, train, train, (data.x_test, data.y_test))


def teacher() -> Workload:
    """The squared error of a perceptron that learns a smaller one, whose outputs have no noise."""
    student, master = networks.mlp((16,), 4, hidden=(32, 32)), networks.mlp((16,), 4, hidden=(16,))
    x = np.random.default_rng(0).normal(size=(5120, 16)).astype(np.float32)
    y = np.asarray(master.apply(master.init(jax.random.key(0)), jnp.asarray(x)))

    def loss(params: Any, batch: Any) -> jax.Array:
        return jnp.mean((student.apply(params, batch[0]) - batch[1]) ** 2)

    train = x[:4096], y[:4096]
    return Workload(student.init, loss, None, train, train, (x[4096:], y[4096:]))


def autoencoder() -> Workload:
    """The mean squared error of a perceptron that reproduces the digits through 8 numbers."""
    data = _digits()
    shape = data.x_train.shape[1:]
    net = networks.mlp(shape, int(np.prod(shape)), hidden=(32, 8, 32))

    def loss(params: Any, x: jax.Array) -> jax.Array:
        return jnp.mean((net.apply(params, x) - x.reshape(len(x), -1)) ** 2)

    return Workload(net.init, loss, None, data.x_train, data.x_train, data.x_test)


_cnn = functools.partial(networks.cnn, channels=(8, 16))
_digits, _mnist5k = map(functools.cache, (datasets.digits, datasets.mnist5k))

WORKLOADS: dict[str, Callable[[], Workload]] = {
    "autoencoder": autoencoder,
    "quadratic": quadratic,
    "softmax-digits": functools.partial(classifier, networks.softmax_regression, _digits),
    "mlp-digits": functools.partial(classifier, networks.mlp, _digits),
    "noisy-labels": functools.partial(classifier, networks.mlp, _digits, NOISY_LABELS),
    "teacher": teacher,
    "cnn-digits": functools.partial(classifier, _cnn, _digits),
    "mlp-mnist5k": functools.partial(classifier, networks.mlp, _mnist5k),
}
