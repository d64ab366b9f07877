"""The task of a race and of a sweep: train a network on a data set, from given seeds.

A seed determines a first point and an order of the batches, the same for every method.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cs231n_optax.problems.datasets import Dataset
from cs231n_optax.problems.networks import Network, accuracy, cross_entropy

_EVALUATION_BLOCK = 512

Examples = tuple[jax.Array, jax.Array]
"""Inputs and labels."""


class Task(NamedTuple):
    """What is trained: a network, on a data set."""

    dataset: Dataset
    network: Network

    def train_and_test_sets(self) -> tuple[Examples, Examples]:
        """Return the examples as JAX arrays."""
        data = self.dataset
        train = jnp.asarray(data.x_train), jnp.asarray(data.y_train)
        return train, (jnp.asarray(data.x_test), jnp.asarray(data.y_test))


@dataclass(frozen=True)
class Budget:
    """What every run may spend.

    Attributes:
      steps: number of updates from each seed.
      batch_size: examples per update.
      seeds: number of starts, from seeds 0 ... seeds - 1.
    """

    steps: int
    batch_size: int
    seeds: int


@dataclass(frozen=True, kw_only=True)
class TaskSetting:
    """The part of a configuration that describes the task, for the record.

    ``data`` is the name of the data set and ``source`` the same name, or the path it came from.
    """

    data: str
    source: str
    train_examples: int
    test_examples: int
    model: str
    parameters: int

    def describe_task(self) -> tuple[str, str]:
        """Return two lines for the terminal."""
        return (
            f"Data: {self.data}, {self.train_examples} examples to train on and "
            f"{self.test_examples} to test.",
            f"Model: {self.model}, {self.parameters} parameters.",
        )


def num_parameters(network: Network) -> int:
    """Return the number of parameters of a network."""
    params = jax.eval_shape(network.init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def first_point(network: Network, seed: jax.typing.ArrayLike) -> tuple[Any, jax.Array]:
    """Return the first parameters and the key of the batches of a seed."""
    init_key, batch_key = jax.random.split(jax.random.key(seed))
    return network.init(init_key), batch_key


def batch_loss(network: Network) -> Callable[[Any, Any], jax.Array]:
    """Return the function that is minimised, ``loss(params, (x, y))``."""

    def loss(params: Any, batch: Examples) -> jax.Array:
        x, y = batch
        return cross_entropy(network.apply(params, x), y)

    return loss


def evaluate(network: Network, params: Any, train: Examples, test: Examples) -> jax.Array:
    """Return train loss and test accuracy (2,), computed in blocks to bound the memory."""

    def mean(metric: Callable[..., jax.Array], examples: Examples) -> jax.Array:
        x, y = examples

        def of_one(i: jax.Array) -> jax.Array:
            return metric(network.apply(params, x[i][None]), y[i][None])

        indices = jnp.arange(len(x))  # mapping over the examples themselves would copy them
        return jnp.mean(jax.lax.map(of_one, indices, batch_size=_EVALUATION_BLOCK))

    return jnp.stack([mean(cross_entropy, train), mean(accuracy, test)])
