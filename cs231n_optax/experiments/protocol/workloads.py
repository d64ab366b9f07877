"""The eight workloads of the protocol: what is trained, on what data, and for how many steps.

Progress is measured by the loss on data that are not trained on, which the tuning sees as well as
the race, as AlgoPerf has it. An error rate would be coarser: one image of digits is 0.3 %.
"""

import functools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cs231n_optax.experiments.task import batch_loss
from cs231n_optax.problems import datasets, networks
from cs231n_optax.problems.datasets import Dataset
from cs231n_optax.problems.networks import Network

BATCH_SIZE = 32
BLOCK = 20  # examples, which divide 360, 500 and 1,000


class Workload(NamedTuple):
    """What is trained.

    Attributes:
      init: maps a key to the first parameters.
      loss: ``loss(params, batch)``, which is minimised and, on ``validation``, measured.
      train: the data of the batches, a tree of arrays.
      validation: the data of the measure, in blocks of equal size.
      steps: the budget of a run, in gradient evaluations of `BATCH_SIZE` examples.
    """

    init: Callable[[jax.Array], Any]
    loss: Callable[[Any, Any], jax.Array]
    train: Any
    validation: Any
    steps: int


def noisy_quadratic(steps: int) -> Workload:
    """A quadratic in 100 dimensions with noisy gradients, E ½ (θ - x)ᵀ H (θ - x).

    H has the eigenvalues 1, 1/2, ..., 1/100 along random directions, and x the covariance H⁻¹, so
    that the gradient's noise has the covariance H. The measure is ½ θᵀ H θ, what is left to gain.

    Source: G. Zhang et al., "Which algorithmic choices matter at which batch sizes? Insights from a
    noisy quadratic model", NeurIPS 2019.
    """
    rng = np.random.default_rng(0)
    eigenvalues = (1 / np.arange(1, 101)).astype(np.float32)
    basis = np.linalg.qr(rng.normal(size=(100, 100)))[0].astype(np.float32)
    x = (rng.normal(size=(4096, 100)) / np.sqrt(eigenvalues)).astype(np.float32)

    def init(key: jax.Array) -> jax.Array:
        return jnp.asarray(basis.T) @ (jax.random.normal(key, (100,)) / jnp.sqrt(eigenvalues))

    def loss(theta: jax.Array, batch: jax.Array) -> jax.Array:
        return jnp.mean((basis @ theta - batch) ** 2 @ eigenvalues) / 2

    return Workload(init, loss, x - x.mean(axis=0), np.zeros((1, 1, 100), np.float32), steps)


def classifier(
    network: Callable[..., Network], dataset: Callable[[], Dataset], steps: int, every: int = 1
) -> Workload:
    """The cross-entropy of a network on images, measured on every n-th of the test set."""
    data = dataset()
    net = network(data.x_train.shape[1:], data.num_classes)
    measured = _in_blocks((data.x_test[::every], data.y_test[::every]))
    return Workload(net.init, batch_loss(net), (data.x_train, data.y_train), measured, steps)


def autoencoder(dataset: Callable[[], Dataset], steps: int) -> Workload:
    """The mean squared error of a perceptron that reproduces images through 16 numbers."""
    data = dataset()
    shape = data.x_train.shape[1:]
    net = networks.mlp(shape, int(np.prod(shape)), hidden=(64, 16, 64))

    def loss(params: Any, x: jax.Array) -> jax.Array:
        return jnp.mean((net.apply(params, x) - x.reshape(len(x), -1)) ** 2)

    return Workload(net.init, loss, data.x_train, _in_blocks(data.x_test), steps)


def _in_blocks(examples: Any) -> Any:
    """Add an axis of blocks, small enough for the caches of a processor."""
    return jax.tree.map(lambda x: x.reshape(-1, BLOCK, *x.shape[1:]), examples)


_cnn = partial(networks.cnn, channels=(8, 16))
_digits, _mnist5k = map(functools.cache, (datasets.digits, datasets.mnist5k))

WORKLOADS: dict[str, Callable[[], Workload]] = {
    "quadratic": partial(noisy_quadratic, steps=1000),
    "softmax-digits": partial(classifier, networks.softmax_regression, _digits, steps=1000),
    "mlp-digits": partial(classifier, networks.mlp, _digits, steps=1000),
    "cnn-digits": partial(classifier, _cnn, _digits, steps=600),
    "softmax-mnist5k": partial(classifier, networks.softmax_regression, _mnist5k, steps=1000),
    "mlp-mnist5k": partial(classifier, networks.mlp, _mnist5k, steps=1000),
    # To measure it on all 1,000 images would take longer than its training.
    "cnn-mnist5k": partial(classifier, _cnn, _mnist5k, steps=400, every=2),
    "autoencoder": partial(autoencoder, _mnist5k, steps=1000),
}
