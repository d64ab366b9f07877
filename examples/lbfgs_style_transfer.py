"""Style transfer by L-BFGS and by Adam, at the same number of evaluations (lecture 7-1-10).

A photograph keeps its edges and takes the colours and contrasts of another. The unknowns are the
pixels and the loss has no noise, the setting in which the lecture recommends L-BFGS.

    python examples/lbfgs_style_transfer.py --out style_transfer.png

L. A. Gatys, A. S. Ecker and M. Bethge, "Image style transfer using convolutional neural networks",
CVPR 2016: the Gram matrices of a network's features represent the style, the features themselves
the content. Here the features are rectified random filters, which need no training: I.
Ustyuzhaninov, W. Brendel, L. Gatys and M. Bethge, "Texture synthesis using shallow convolutional
networks with random filters", arXiv:1606.00021, 2016.
"""

import argparse
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_image

import cs231n_optax

CONTENT_WEIGHT, ROUGHNESS_WEIGHT = 0.01, 0.05
FLOWER = slice(140, 390), slice(150, 525)  # the flower in its picture
# Sixteen filters of 5 x 5 pixels for each of three scales.
FILTERS = np.random.default_rng(0).normal(size=(3, 5, 5, 3, 16)).astype(np.float32)
FILTERS -= FILTERS.mean((1, 2), keepdims=True)  # zero response to a constant colour


def photograph(name: str, size: tuple[int, int], crop=...) -> jax.Array:
    """A sample image of scikit-learn, with colours in [0, 1]."""
    pixels = load_sample_image(name)[crop].astype(np.float32) / 255
    return jax.image.resize(pixels, (*size, 3), "linear")


def features(image: jax.Array) -> list[jax.Array]:
    """The pixels and the rectified responses of the filters, at full, half and quarter size."""
    maps = []
    for filters in FILTERS:
        padded = jnp.pad(image, ((2, 2), (2, 2), (0, 0)), "reflect")
        responses = jax.lax.conv_general_dilated(
            padded[None], filters, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )[0]
        maps += [image, jax.nn.relu(responses)]
        height, width, _ = image.shape
        image = jax.image.resize(image, (height // 2, width // 2, 3), "linear")
    return maps


def gram(feature_map: jax.Array) -> jax.Array:
    """The Gram matrix of the features, averaged over all positions."""
    rows = feature_map.reshape(-1, feature_map.shape[-1])
    return rows.T @ rows / len(rows)


def distance(a: jax.Array, b: jax.Array) -> jax.Array:
    """The squared distance of a and b, relative to b."""
    return jnp.sum((a - b) ** 2) / jnp.sum(b**2)


def style_loss(maps: list[jax.Array], grams: list[jax.Array]) -> jax.Array:
    """The mean over the maps of the relative squared distance between the Gram matrices."""
    return sum(map(distance, map(gram, maps), grams)) / len(grams)


def make_loss(content: jax.Array, style: jax.Array):
    """The loss: content of one picture, style of the other, and roughness."""
    edges, grams = features(content)[1], [gram(m) for m in features(style)]

    def loss(image):
        maps = features(image)
        roughness = sum(jnp.mean(jnp.diff(image, axis=axis) ** 2) for axis in (0, 1))
        return (
            style_loss(maps, grams)
            + CONTENT_WEIGHT * distance(maps[1], edges)
            + ROUGHNESS_WEIGHT * roughness
        )

    return loss


class Run(NamedTuple):
    """The best image of a run, the least loss after each evaluation, and the last state."""

    image: jax.Array
    curve: jax.Array
    state: optax.OptState


def descend(loss, image, tx, num_evals) -> Run:
    """The ordinary Optax loop for any transformation, one evaluation per update."""

    def step(carry, _):
        image, state, best_image, least = carry
        value, grads = jax.value_and_grad(loss)(image)
        best_image = jnp.where(value < least, image, best_image)
        least = jnp.minimum(value, least)
        updates, state = tx.update(grads, state, image, value=value)
        return (optax.apply_updates(image, updates), state, best_image, least), least

    start = image, tx.init(image), image, jnp.inf
    (_, state, best_image, _), curve = jax.lax.scan(step, start, length=num_evals)
    return Run(best_image, curve, state)


def picture(images, curves) -> Figure:
    """Draw the titled images in two rows, and the loss curves."""
    figure = Figure(figsize=(9, 4.1), dpi=150, layout="constrained")
    axes = figure.subplot_mosaic([[0, 1, "loss"], [2, 3, "loss"]], width_ratios=[1, 1, 1.1])
    for i, (title, image) in enumerate(images.items()):
        axes[i].imshow(np.clip(image, 0, 1), interpolation="bicubic")
        axes[i].set_title(title, fontsize=9)
        axes[i].set_axis_off()
    styles = {"color": "#D55E00"}, {"color": "#0072B2", "linestyle": "--"}
    for style, (label, curve) in zip(styles, curves.items(), strict=True):
        axes["loss"].loglog(1 + np.arange(len(curve)), curve, label=label, **style)
    axes["loss"].set_title("least loss so far", fontsize=9)
    axes["loss"].set_xlabel("evaluations of the loss and its gradient", fontsize=9)
    axes["loss"].tick_params(labelsize=8)
    axes["loss"].legend(fontsize=9, frameon=False)
    return figure


def reached(curve, level) -> str:
    """The number of evaluations until a curve reaches a level, in words."""
    there = np.flatnonzero(curve <= level)
    return f"after {there[0] + 1} evaluations" if len(there) else f"not in {len(curve)} evaluations"


def main(out="style_transfer.png", size=(80, 120), num_evals=80, rates=(0.05, 0.1, 0.2, 0.4)):
    """Run L-BFGS, Adam at each rate, and the best of these six times as long."""
    content, style = photograph("china.jpg", size), photograph("flower.jpg", size, FLOWER)
    loss = make_loss(content, style)

    @functools.partial(jax.jit, static_argnums=1)
    def by_adam(rate, num_evals):
        return descend(loss, content, cs231n_optax.adam(rate), num_evals)

    lbfgs = jax.jit(lambda: descend(loss, content, cs231n_optax.lbfgs(), num_evals))()
    adams = {rate: by_adam(rate, num_evals) for rate in rates}
    rate = min(rates, key=lambda rate: adams[rate].curve[-1])
    adam, longer = adams[rate], by_adam(rate, 6 * num_evals)

    status = cs231n_optax.Status(int(cs231n_optax.status(lbfgs.state))).name
    print(f"the loss of the content picture is {lbfgs.curve[0]:.4f}; {num_evals} evaluations later")
    print(f"L-BFGS:       {lbfgs.curve[-1]:.5f}, {status}")
    for tried, run in adams.items():
        print(f"Adam at {tried:<4g}: {run.curve[-1]:.5f}")
    print(f"L-BFGS had the loss of the best Adam {reached(lbfgs.curve, adam.curve[-1])}")
    print(f"Adam at {rate:g} has that of L-BFGS {reached(longer.curve, lbfgs.curve[-1])}")

    images = {
        "content": content,
        "style": style,
        f"L-BFGS, {num_evals} evaluations": lbfgs.image,
        f"Adam at {rate:g}, {num_evals} evaluations": adam.image,
    }
    curves = {"L-BFGS": lbfgs.curve, f"Adam at {rate:g}": longer.curve}
    picture(images, curves).savefig(out)
    print(f"wrote {out}")
    return {"lbfgs": lbfgs, "adams": adams, "longer": longer}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", default="style_transfer.png", help="the file of the picture")
    main(parser.parse_args().out)
