"""Time choices of the library: a shuffle, a convolution, inner products, the rows of a Hessian.

    python benchmarks/building_blocks.py [--size 8] [--rounds 5]

Shuffling: nine orders of 1,797 examples under vmap, by `jax.random.permutation` and by sorting
words of random bits and position. Convolution: a training step of the small convolutional net, for
five models under vmap inside a scan and for one model outside any loop, with `lax.conv` and as one
matrix product. Inner products: the three of a curvature pair, separately and by `_tree.one_pass`,
for one pair and for 1000 under vmap. The rows of a Hessian: one at a time and all at once, for a
least-squares fit of 22 peaks to 4,643 numbers and for logistic regression on 20,000 × 100. The two
sides take turns; the ratio of medians is above 1 where ours is faster.
"""

from collections.abc import Callable
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from timing import argument_parser, medians, versions

from cs231n_optax import _tree, hessian_matrix
from cs231n_optax.problems import networks
from cs231n_optax.second_order.curvature_pair import curvature_pair
from cs231n_optax.training.fit import _permutation

BATCH, MODELS, STEPS = 128, 5, 3
NUM_PAIRS = 1000  # under vmap
SIZES = {1: (10, 50), NUM_PAIRS: (2, 10, 50)}  # of one pair, and of many


def lax_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """What `networks._conv3x3` computes, by XLA's own convolution."""
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)


def cnn_with_lax_conv(input_shape: tuple[int, ...], num_classes: int) -> networks.Network:
    """The library's `cnn` with XLA's own convolution."""
    network = networks.cnn(input_shape, num_classes)

    def apply(params: Any, x: jax.Array) -> jax.Array:
        with mock.patch.object(networks, "_conv3x3", lax_conv):  # while it is traced
            return network.apply(params, x)

    return networks.Network(network.init, apply)


def training(make: Callable[..., networks.Network], size: int, many: bool) -> Callable[..., Any]:
    """Compiled steps of gradient descent on random images."""
    network = make((size, size, 1), 10)
    x = jax.random.normal(jax.random.key(0), (BATCH, size, size, 1))
    y = jnp.arange(BATCH) % 10

    def step(params: Any, _: None) -> tuple[Any, None]:
        grads = jax.grad(lambda p: networks.cross_entropy(network.apply(p, x), y))(params)
        return jax.tree.map(lambda p, g: p - 0.01 * g, params, grads), None

    def one_step(params: Any) -> Any:
        return step(params, None)[0]

    def loop(params: Any) -> Any:
        return jax.lax.scan(step, params, length=STEPS)[0]

    if many:
        params = jax.vmap(network.init)(jax.random.split(jax.random.key(1), MODELS))
        compiled = jax.jit(jax.vmap(loop)).lower(params).compile()
    else:
        params = network.init(jax.random.key(1))
        compiled = jax.jit(one_step).lower(params).compile()
    return lambda: compiled(params)


def shuffling(permutation: Callable[..., jax.Array]) -> Callable[..., Any]:
    """Nine orders of the digits."""
    keys = jax.random.split(jax.random.key(0), 9)
    run = jax.jit(jax.vmap(lambda key: permutation(key, 1797)))
    return lambda: run(keys)


def inner_products(size: int, batch: int, one_pass: int) -> Callable[..., Any]:
    """The inner products of a pair again and again, in one pass up to a size."""
    t = jnp.linspace(0, 1, batch * size).reshape((batch, size) if batch > 1 else size)
    repeats = max(10, 1_000_000 // t.size)

    def pair(x: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
        new = curvature_pair(x, g, jnp.ones_like(x), jnp.ones_like(g))
        # Small factors, so that the numbers stay finite and each round needs the last one.
        return x + 1e-9 * new.sy, g + 1e-9 * (new.ss - new.yy)

    def run(x: jax.Array, g: jax.Array) -> Any:
        step = jax.vmap(pair) if batch > 1 else pair
        return jax.lax.fori_loop(0, repeats, lambda _, carry: step(*carry), (x, g))

    with mock.patch.object(_tree, "ONE_PASS", one_pass):  # while it is traced
        compiled = jax.jit(run).lower(t, jnp.cos(t)).compile()
    return lambda: compiled(t, jnp.cos(t))


def peaks(x: jax.Array) -> jax.Array:
    """The sum of squares of 22 Lorentzian peaks, of three numbers each, less a curve."""
    t = np.linspace(0, 1, 4643, dtype=np.float32)
    height, width, center = x.reshape(3, 22)
    curve = jnp.sum(height / (1 + ((t[:, None] - center) / width) ** 2), axis=1)
    return jnp.sum((curve - np.sin(9 * t)) ** 2)


def logistic_regression(x: jax.Array) -> jax.Array:
    """The mean logistic loss of 20,000 rows of noise."""
    rows = np.random.default_rng(0).normal(size=(20_000, x.size)).astype(np.float32)
    return jnp.mean(jnp.logaddexp(0, jnp.asarray(rows) @ x))


def hessian(
    fun: Callable[[jax.Array], jax.Array], size: int, batch_size: int
) -> Callable[..., Any]:
    """The Hessian of a function, some rows at a time."""
    compute = jax.jit(lambda x: hessian_matrix(fun, x, batch_size=batch_size))
    x = jnp.linspace(0.1, 1, size)
    return lambda: compute(x)


def compare(name: str, theirs: Callable[..., Any], ours: Callable[..., Any], rounds: int) -> None:
    """Print the medians and their ratio."""
    seconds = medians({"theirs": theirs, "ours": ours}, rounds)
    a, b = seconds["theirs"], seconds["ours"]
    print(f"{name:40} {a * 1e3:8.2f} ms {b * 1e3:8.2f} ms, ratio {a / b:.2f}", flush=True)


def main() -> None:
    """Print a line for each comparison."""
    parser = argument_parser(__doc__)
    parser.add_argument("--size", type=int, default=8, help="of the images (default: 8)")
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    options = parser.parse_args()
    print(versions())
    compare("shuffling", shuffling(jax.random.permutation), shuffling(_permutation), options.rounds)
    for name, many in ((f"{MODELS} models in a scan", True), ("one model, no loop", False)):
        theirs = training(cnn_with_lax_conv, options.size, many)
        ours = training(networks.cnn, options.size, many)
        title = f"convolution, {options.size}x{options.size}, {name}"
        compare(title, theirs, ours, options.rounds)
    for batch, sizes in SIZES.items():
        for size in sizes:
            separate, joint = (inner_products(size, batch, most) for most in (0, size))
            compare(f"inner products, {batch} x {size}", separate, joint, options.rounds)
    for fun, size in ((peaks, 66), (logistic_regression, 100)):
        one, all_rows = (hessian(fun, size, batch_size) for batch_size in (1, size))
        compare(f"rows of the Hessian, {fun.__name__}", one, all_rows, options.rounds)


if __name__ == "__main__":
    main()
