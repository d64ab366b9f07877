"""Small networks for classification: softmax regression, a perceptron, a convolutional net.

Each is a pair of pure functions, `Network.init` and `Network.apply`. Parameters are a flat
dictionary of float32 arrays: the weights ``w{i}`` and the bias ``b{i}`` of layer i, from 1.

Weights are initialised by He's rule, biases with zero:

    w ~ Normal(0, 2 / n)        n = fan-in

Source: K. He, X. Zhang, S. Ren and J. Sun, "Delving deep into rectifiers", ICCV 2015, eq. 10;
CS231n's notes on neural networks and on convolutional networks.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cs231n_optax import _checks

Params = dict[str, jax.Array]
"""Weights and biases by name, float32."""

Batch = jax.Array | np.ndarray
"""An array whose first axis is that of the examples."""


class Network(NamedTuple):
    """A network as two pure functions.

    Attributes:
      init: maps a ``jax.random`` key to initial parameters, a dictionary of float32 arrays.
      apply: maps parameters and a batch x (N, ...) to the logits (N, num_classes), in the dtype
        that parameters and x promote to.
    """

    init: Callable[[jax.Array], Params]
    apply: Callable[[Params, Batch], jax.Array]


def softmax_regression(input_shape: Sequence[int], num_classes: int) -> Network:
    """A linear classifier: logits = x w1 + b1.

    Its `cross_entropy` is convex.

    Args:
      input_shape: of one example, such as (D,) or (H, W, C); it is flattened to D numbers.
      num_classes: K >= 2.

    Raises:
      ValueError, TypeError: as `mlp` does.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from cs231n_optax.problems.networks import softmax_regression
      >>> net = softmax_regression((8, 8, 1), num_classes=10)
      >>> params = jax.eval_shape(net.init, jax.random.key(0))
      >>> params["w1"].shape, params["b1"].shape
      ((64, 10), (10,))
      >>> jax.eval_shape(net.apply, params, jnp.zeros((5, 8, 8, 1))).shape
      (5, 10)

    Source:
      CS231n's notes on linear classification.
    """
    return mlp(input_shape, num_classes, hidden=())


def mlp(input_shape: Sequence[int], num_classes: int, hidden: Sequence[int] = (64,)) -> Network:
    """A multi-layer perceptron with ReLU.

        h₀ = x,   hᵢ = max(0, hᵢ₋₁ wᵢ + bᵢ),   logits = the last layer without the max

    Args:
      input_shape: of one example, such as (D,) or (H, W, C); it is flattened to D numbers.
      num_classes: K >= 2.
      hidden: width of each hidden layer, all >= 1; without any it is `softmax_regression`.

    Raises:
      ValueError, TypeError: if a size is too small or not a Python integer, or a shape is not a
        sequence or ``input_shape`` empty; from ``apply``, if x is not a batch of that shape.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from cs231n_optax.problems.networks import mlp
      >>> net = mlp((3,), num_classes=2, hidden=(16, 8))
      >>> params = jax.eval_shape(net.init, jax.random.key(0))
      >>> {name: array.shape for name, array in params.items() if name[0] == "w"}
      {'w1': (3, 16), 'w2': (16, 8), 'w3': (8, 2)}
      >>> jax.eval_shape(net.apply, params, jnp.zeros((5, 3))).shape
      (5, 2)

    Source:
      CS231n's notes on neural networks, part 1.
    """
    input_shape = _sizes("input_shape", input_shape)
    hidden = _sizes("hidden", hidden)
    num_classes = _checks.static_int("num_classes", num_classes, at_least=2)
    if not input_shape:
        raise ValueError("input_shape must have at least one axis, got ()")
    widths = (math.prod(input_shape), *hidden, num_classes)
    weight_shapes = list(pairwise(widths))
    last = len(weight_shapes)

    def apply(params: Params, x: Batch) -> jax.Array:
        _check_batch(x, input_shape)
        h = jnp.asarray(x).reshape(len(x), -1)
        for i in range(1, last):
            h = jax.nn.relu(h @ params[f"w{i}"] + params[f"b{i}"])
        return h @ params[f"w{last}"] + params[f"b{last}"]

    return Network(lambda key: _he_init(key, weight_shapes), apply)


def cnn(
    input_shape: Sequence[int], num_classes: int, channels: Sequence[int] = (16, 32)
) -> Network:
    """CS231n's small convolutional network.

        [conv 3×3 → ReLU → max-pool 2×2] for each entry of channels, then an affine layer

    A convolution pads with one pixel of zeros and so keeps height and width; a pool halves them and
    drops an odd last row or column. The convolution is a matrix product of shifted copies, which is
    faster under `jax.vmap` over parameters and in `jax.lax.scan` (see `_conv3x3`).

    Args:
      input_shape: (H, W, C) of one image.
      num_classes: K >= 2.
      channels: output channels of each convolution, at least one of them, all >= 1.

    Raises:
      ValueError, TypeError: if a size is too small or not a Python integer, ``channels`` is empty
        or not a sequence, or ``input_shape`` is not (H, W, C) or too small to be halved once for
        each of them; from ``apply``, if x is not of shape (N, H, W, C).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from cs231n_optax.problems.networks import cnn
      >>> net = cnn((28, 28, 1), num_classes=10)
      >>> params = jax.eval_shape(net.init, jax.random.key(0))
      >>> {name: array.shape for name, array in params.items() if name[0] == "w"}
      {'w1': (3, 3, 1, 16), 'w2': (3, 3, 16, 32), 'w3': (1568, 10)}
      >>> jax.eval_shape(net.apply, params, jnp.zeros((5, 28, 28, 1))).shape
      (5, 10)

    Source:
      CS231n's notes on convolutional networks.
    """
    input_shape = _sizes("input_shape", input_shape)
    channels = _sizes("channels", channels)
    num_classes = _checks.static_int("num_classes", num_classes, at_least=2)
    if len(input_shape) != 3:
        raise ValueError(f"input_shape must be (height, width, channels), got {input_shape}")
    if not channels:
        raise ValueError("channels must have at least one entry, got ()")
    height, width = (size // 2 ** len(channels) for size in input_shape[:2])
    if min(height, width) < 1:
        raise ValueError(
            f"input_shape {input_shape} is too small to be halved {len(channels)} times: "
            f"height and width must be at least {2 ** len(channels)}"
        )
    kernel_shapes = [(3, 3, c_in, c_out) for c_in, c_out in pairwise((input_shape[2], *channels))]
    weight_shapes = [*kernel_shapes, (height * width * channels[-1], num_classes)]
    last = len(weight_shapes)

    def apply(params: Params, x: Batch) -> jax.Array:
        _check_batch(x, input_shape)
        h = jnp.asarray(x)
        for i in range(1, last):
            h = jax.nn.relu(_conv3x3(h, params[f"w{i}"]) + params[f"b{i}"])
            h = _max_pool2x2(h)
        return h.reshape(len(h), -1) @ params[f"w{last}"] + params[f"b{last}"]

    return Network(lambda key: _he_init(key, weight_shapes), apply)


def cross_entropy(logits: Batch, labels: Batch) -> jax.Array:
    """Mean softmax cross-entropy: - (1/N) Σᵢ log softmax(logitsᵢ)[labelsᵢ].

    Args:
      logits: floating (N, K).
      labels: integer (N,), 0 <= labels < K.

    Returns:
      A scalar >= 0 in nats, in the dtype of the logits.

    Raises:
      ValueError: if the shapes do not match.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from cs231n_optax.problems.networks import cross_entropy
      >>> print(f"{jax.jit(cross_entropy)(jnp.zeros((4, 10)), jnp.array([1, 2, 3, 4])):.4f}")
      2.3026

    Source:
      CS231n's notes on linear classification.
    """
    _check_labels(logits, labels)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def accuracy(logits: Batch, labels: Batch) -> jax.Array:
    """The fraction of examples whose largest logit is that of the label, a float32 scalar.

    Args:
      logits: real (N, K). Of equal logits the first counts as the largest.
      labels: integer (N,), 0 <= labels < K.

    Raises:
      ValueError: if the shapes do not match.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from cs231n_optax.problems.networks import accuracy
      >>> print(jax.jit(accuracy)(jnp.array([[1.0, 2.0], [4.0, 3.0]]), jnp.array([1, 1])))
      0.5
    """
    _check_labels(logits, labels)
    predicted = jnp.argmax(logits, axis=-1).astype(labels.dtype)
    return jnp.mean(predicted == labels, dtype=jnp.float32)


def _he_init(key: jax.Array, weight_shapes: Sequence[tuple[int, ...]]) -> Params:
    """Weights ~ Normal(0, 2 / fan-in) and zero biases for every layer."""
    params = {}
    keys = jax.random.split(key, len(weight_shapes))
    for i, (layer_key, shape) in enumerate(zip(keys, weight_shapes, strict=True), start=1):
        scale = math.sqrt(2 / math.prod(shape[:-1]))
        params[f"w{i}"] = scale * jax.random.normal(layer_key, shape, jnp.float32)
        params[f"b{i}"] = jnp.zeros(shape[-1], jnp.float32)
    return params


def _conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """3×3 convolution with stride 1 and one pixel of zeros around, as a matrix product.

        y[n, r, s, o] = Σ_{i, j, c} x[n, r + i - 1, s + j - 1, c] kernel[i, j, c, o]

    A row of ``patches`` is the 3×3 neighbourhood of one pixel, in the order of the kernel's axes.

    Measured on two CPU cores with JAX 0.10 (benchmarks/building_blocks.py): a training step of
    `cnn` for five models under `jax.vmap`, with 128 images of 8×8 or 28×28 pixels each, is 11 to 13
    times as fast as with ``jax.lax.conv_general_dilated`` inside `jax.lax.scan`. It takes nine
    times the memory of x, and one model alone, outside any loop, is slower at 28×28.
    """
    n, height, width, c_in = x.shape
    c_out = kernel.shape[-1]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifted = [padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    patches = jnp.concatenate(shifted, axis=-1).reshape(n * height * width, 9 * c_in)
    return (patches @ kernel.reshape(9 * c_in, c_out)).reshape(n, height, width, c_out)


def _max_pool2x2(x: jax.Array) -> jax.Array:
    """The largest of each 2×2 block, (N, H, W, C) to (N, H // 2, W // 2, C).

    Entries of a block that tie for the largest share the gradient equally.
    """
    n, height, width, channels = x.shape
    height, width = height // 2, width // 2
    even = x[:, : 2 * height, : 2 * width]
    return even.reshape(n, height, 2, width, 2, channels).max(axis=(2, 4))


def _sizes(name: str, sizes: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(sizes, Sequence):
        raise TypeError(f"{name} must be a sequence of integers, got {sizes!r}")
    return tuple(_checks.static_int(f"every entry of {name}", s, at_least=1) for s in sizes)


def _check_batch(x: Batch, input_shape: tuple[int, ...]) -> None:
    if x.shape[1:] != input_shape:
        wanted = ", ".join(map(str, input_shape))
        raise ValueError(f"x must have the shape (N, {wanted}), got {x.shape}")


def _check_labels(logits: Batch, labels: Batch) -> None:
    if logits.shape[:-1] != labels.shape:
        raise ValueError(
            f"logits of shape {logits.shape} need labels of shape {logits.shape[:-1]}, "
            f"got {labels.shape}"
        )
