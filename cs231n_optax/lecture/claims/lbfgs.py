"""Lecture 7-1-10: L-BFGS with all examples, with mini-batches, and in style transfer."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

import cs231n_optax
from cs231n_optax.lecture import style
from cs231n_optax.lecture.claims import picture
from cs231n_optax.lecture.claims.claim import (
    Claim,
    Numbers,
    Verdict,
    by_case,
    by_value,
    is_above,
    is_below,
    mean,
)
from cs231n_optax.lecture.claims.experiment import (
    L2,
    for_each,
    lowest_regression_loss,
    training_set,
)
from cs231n_optax.lecture.claims.learning_rate import MODELS, REGRESSION

RATES = np.array([0.003, 0.01, 0.03, 0.1, 0.3, 1.0])
ROUNDING = 1e-6
"""Losses below this are rounding errors, in float32."""


def least_losses(
    loss: Any, params: Any, tx: optax.GradientTransformation, data: Any, evals: int
) -> jax.Array:
    """The least loss on all examples so far, after each evaluation."""
    history = cs231n_optax.fit(loss, params, tx, data, steps=evals, chunk_size=evals).history
    return jax.lax.cummin(history.loss)


def best_rate(losses: np.ndarray) -> np.ndarray:
    """Of (repeats, rates, evaluations) the rate with the least mean logarithm at each evaluation.

    It is chosen on the very runs that are compared, in favour of the method with a rate.
    """
    means = np.log(np.maximum(losses, ROUNDING)).mean(axis=0)
    best = np.argmin(np.where(np.isnan(means), np.inf, means), axis=0)
    return losses[:, best, np.arange(len(best))]


# All examples at once.


def full_batch_losses(quick: bool) -> dict[str, Any]:
    """L-BFGS and Adam on all 1437 digits, from random starts, 300 evaluations (`--quick`: 100).

    On softmax regression with an L2 penalty and on a perceptron. Adam has six rates, from 0.003 to
    1, and after each evaluation the best of them. Counted: the evaluations of both until the loss
    is within a thousandth of Adam's last one.
    """
    evals, data = 100 if quick else 300, training_set()

    def run(model, key):
        params = model.init(key)

        def by_adam(rate):
            return least_losses(model.loss, params, cs231n_optax.adam(rate), data, evals)

        lbfgs = least_losses(model.loss, params, cs231n_optax.lbfgs(), data, evals)
        return lbfgs, jax.lax.map(by_adam, jnp.asarray(RATES))

    keys = jax.random.split(jax.random.key(0), 3 if quick else 12)
    curves = []
    for model in MODELS.values():
        lbfgs, adam = for_each(partial(run, model), keys)
        curves.append(np.stack([lbfgs, best_rate(adam)], axis=1))
    return {"loss": np.stack(curves, axis=1)}


def share_of_evaluations(numbers: Numbers) -> np.ndarray:
    """The evaluations of L-BFGS over those of Adam, (repeats, models)."""
    losses = numbers["loss"]
    reached = losses <= 1.001 * losses[:, :, 1:, -1:]
    evals = np.where(reached.any(axis=-1), 1 + reached.argmax(axis=-1), reached.shape[-1])
    return evals[..., 0] / evals[..., 1]


def needs_few(numbers: Numbers) -> Verdict:
    """Holds for the models on which L-BFGS needs below half of Adam's evaluations."""
    cases = (f"the model is {name}" for name in MODELS)
    return by_case(cases, is_below(mean(share_of_evaluations(numbers)), 0.5))


def full_batch_figure(numbers: Numbers) -> str:
    """The shares."""
    shares = zip(MODELS, mean(share_of_evaluations(numbers)), strict=True)
    each = (f"{share} for {name}" for name, share in shares)
    return f"evaluations of L-BFGS / evaluations of Adam: {', '.join(each)}"


def curves(axes: Any, evals: np.ndarray, losses: np.ndarray, name: str, label: str) -> None:
    """The geometric mean of curves (repeats, evaluations), and one standard error about it."""
    logs, line = mean(np.log(np.maximum(losses, ROUNDING))), style.METHOD_STYLES[name]
    low, high = (np.exp(logs.value + side * logs.error) for side in (-1, 1))
    axes.fill_between(evals, low, high, color=line.color, alpha=0.3, linewidth=0)
    axes.plot(evals, np.exp(logs.value), line.linestyle, color=line.color, label=label)


def full_batch_picture(numbers: Numbers) -> Figure:
    """The loss over the evaluations, one panel for each model."""
    figure, panels = picture.new_picture(2)
    for i, (axes, title) in enumerate(zip(panels, MODELS, strict=True)):
        losses = numbers["loss"][:, i]
        evals = np.arange(1, losses.shape[-1] + 1)
        curves(axes, evals, losses[:, 0], "lbfgs", "L-BFGS")
        curves(axes, evals, losses[:, 1], "adam", "Adam, best rate")
        axes.set(xlabel="evaluations", title=title)
    picture.log_axes(panels[0], "y")
    panels[1].set_yscale("log")
    panels[0].set(ylabel="least loss so far")
    style.legend(panels[1], loc="upper right")
    return figure


FULL_BATCH = Claim(
    name="lbfgs-full-batch",
    section="7-1-10",
    statement="With all examples at once, L-BFGS works very well.",
    experiment=full_batch_losses,
    verdict=needs_few,
    figure=full_batch_figure,
    draw=full_batch_picture,
)

# Mini-batches.

BATCHES = np.array([16, 64, 256, 1437])


def mini_batch_losses(quick: bool) -> dict[str, Any]:
    """L-BFGS and Adam by batches of B of the 1437 digits, 300 evaluations each (`--quick`: 100).

    Softmax regression with an L2 penalty. L-BFGS keeps a batch until it has accepted a point on it.
    Adam has the best of six rates, from 0.003 to 1, for each B. Measured: the last loss on all
    examples above the minimum, which counts as at least 1e-6.
    """
    data = training_set()

    def run(key):
        start, order = jax.random.split(key)

        def last_loss(size, tx):
            # All batch sizes share one program: the first `size` of all examples, shuffled.
            def loss(params, batch):
                logits = REGRESSION.apply(params, batch[0])
                each = optax.softmax_cross_entropy_with_integer_labels(logits, batch[1])
                chosen = jnp.arange(len(each)) < size
                penalty = L2 / 2 * optax.tree.norm(params, squared=True)
                return jnp.sum(each * chosen) / size + penalty

            params = cs231n_optax.fit(
                loss,
                REGRESSION.init(start),
                tx,
                data,
                steps=100 if quick else 300,
                batch_size=len(data[0]),
                key=order,
            ).params
            return MODELS["softmax regression"].loss(params, data)

        def of_size(size):
            def by_adam(rate):
                return last_loss(size, cs231n_optax.adam(rate))

            by_lbfgs = last_loss(size, cs231n_optax.lbfgs())
            return by_lbfgs, jax.lax.map(by_adam, jnp.asarray(RATES))

        return jax.lax.map(of_size, jnp.asarray(BATCHES))

    lbfgs, adam = for_each(run, jax.random.split(jax.random.key(1), 3 if quick else 12))
    best = np.nanargmin(adam.mean(axis=0), axis=-1)
    losses = np.stack([lbfgs, adam[:, np.arange(len(BATCHES)), best]], axis=-1)
    return {"size": BATCHES, "loss": np.maximum(losses - lowest_regression_loss(), ROUNDING)}


def times_worse(numbers: Numbers) -> Any:
    """The binary logarithm of L-BFGS's loss above the minimum over Adam's, for each B."""
    return mean(np.log2(numbers["loss"][..., 0] / numbers["loss"][..., 1]))


def is_poor(numbers: Numbers) -> Verdict:
    """Holds for the batch sizes at which L-BFGS's loss above the minimum is above twice Adam's.

    In the geometric mean over the repeats.
    """
    return by_value("the batch size B", numbers["size"], is_above(times_worse(numbers), 1))


def mini_batch_figure(numbers: Numbers) -> str:
    """The powers of two."""
    worse = zip(numbers["size"], times_worse(numbers), strict=True)
    each = (f"{power} with B = {size:g}" for size, power in worse)
    return f"log₂ (loss above the minimum / Adam's): {', '.join(each)}"


def mini_batch_picture(numbers: Numbers) -> Figure:
    """Both losses over the batch size."""
    figure, axes = picture.new_picture()
    sizes = numbers["size"]
    for i, (name, label) in enumerate((("lbfgs", "L-BFGS"), ("adam", "Adam, best rate"))):
        logs = mean(np.log(numbers["loss"][..., i]))
        line, middle = style.METHOD_STYLES[name], np.exp(logs.value)
        bars = middle - np.exp(logs.value - logs.error), np.exp(logs.value + logs.error) - middle
        axes.errorbar(
            sizes, middle, bars, color=line.color, marker=line.marker, capsize=3, label=label
        )
    axes.set(xscale="log", yscale="log", xlabel="batch size B", ylabel="loss above the minimum")
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes[:-1]] + ["all 1437"])
    axes.minorticks_off()
    style.legend(axes, loc="lower left")
    return figure


MINI_BATCH = Claim(
    name="lbfgs-mini-batch",
    section="7-1-10",
    statement="L-BFGS gives bad results with mini-batches.",
    experiment=mini_batch_losses,
    verdict=is_poor,
    figure=mini_batch_figure,
    draw=mini_batch_picture,
)

# Style transfer, as in examples/lbfgs_style_transfer.py.

SIZE, CONTENT_WEIGHT = (32, 48), 0.01
AFTER = np.array([10, 30, 60, 120, 240])
OTHERS = {"adam": cs231n_optax.adam, "momentum": cs231n_optax.momentum}


def photographs() -> tuple[jax.Array, jax.Array]:
    """The content and the style, (1, height, width, 3) with colours in [0, 1]."""
    from sklearn.datasets import load_sample_image  # only here, as scikit-learn is an extra

    temple, flower = (load_sample_image(f"{name}.jpg") / 255.0 for name in ("china", "flower"))
    pictures = temple, flower[140:390, 150:525]
    content, style = (jax.image.resize(x, (*SIZE, 3), "linear") for x in pictures)
    return content[None], style[None]


def responses(filters: jax.Array, image: jax.Array) -> jax.Array:
    """The rectified responses of the filters, (1, height, width, filters)."""
    convolve = jax.lax.conv_general_dilated
    return jax.nn.relu(
        convolve(image, filters, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    )


def gram(features: jax.Array) -> jax.Array:
    """The Gram matrix over all positions, which represents the style."""
    rows = features.reshape(-1, features.shape[-1])
    return rows.T @ rows / len(rows)


def transfer_loss(filters: jax.Array, image: jax.Array, pictures: Any) -> jax.Array:
    """The relative squared distances to the style's Gram matrices and to the content's responses.

    Gatys, Ecker and Bethge, CVPR 2016; random filters: Ustyuzhaninov et al., 2016.
    """

    def distance(a, b):
        return jnp.sum((a - b) ** 2) / jnp.sum(b**2)

    content, style = pictures
    edges = responses(filters, image)
    colours = distance(gram(image), gram(style))
    textures = distance(gram(edges), gram(responses(filters, style)))
    return colours + textures + CONTENT_WEIGHT * distance(edges, responses(filters, content))


def transfer_losses(quick: bool) -> dict[str, Any]:
    """Style transfer between two photographs of 32 × 48 pixels, by 16 random filters, 5 × 5 pixels.

    L-BFGS, Adam and momentum start from the content; each repeat has other filters. Adam and
    momentum have six rates, from 0.003 to 1 and a hundred times as much, and the best of them each
    time. Measured: the least loss after 10, 30, 60 and, without `--quick`, 120 and 240 evaluations.
    """
    pictures, after = photographs(), AFTER[:3] if quick else AFTER

    def run(key):
        filters = jax.random.normal(key, (5, 5, 3, 16))
        filters -= jnp.mean(filters, axis=(0, 1))

        def losses(tx):
            def loss(image, pictures):
                return transfer_loss(filters, image, pictures)

            return least_losses(loss, pictures[0], tx, pictures, int(after[-1]))

        scales = {"adam": 1, "momentum": 100}
        others = [
            jax.lax.map(lambda rate, make=make: losses(make(rate)), scales[name] * jnp.array(RATES))
            for name, make in OTHERS.items()
        ]
        return losses(cs231n_optax.lbfgs()), others

    lbfgs, others = for_each(run, jax.random.split(jax.random.key(2), 3 if quick else 10))
    losses = np.stack([lbfgs, *map(best_rate, others)], axis=1)
    return {"evals": after, "loss": losses[..., after - 1]}


def log_ratios(numbers: Numbers) -> Any:
    """log₁₀ of L-BFGS's loss over the lowest of the others', after each number of evaluations."""
    loss = numbers["loss"]
    return mean(np.log10(loss[:, 0] / loss[:, 1:].min(axis=1)))


def is_best(numbers: Numbers) -> Verdict:
    """Holds for the evaluations after which L-BFGS's loss is below the lowest of the others'.

    In the geometric mean over the repeats.
    """
    return by_value("the number of evaluations", numbers["evals"], is_below(log_ratios(numbers), 0))


def transfer_figure(numbers: Numbers) -> str:
    """The powers of ten."""
    powers = zip(numbers["evals"], log_ratios(numbers), strict=True)
    each = (f"{power} after {evals:g} evaluations" for evals, power in powers)
    return f"log₁₀ (loss / the lowest of Adam and momentum): {', '.join(each)}"


def transfer_picture(numbers: Numbers) -> Figure:
    """The losses over the evaluations."""
    figure, axes = picture.new_picture()
    labels = {"lbfgs": "L-BFGS", "adam": "Adam, best rate", "momentum": "momentum, best rate"}
    for i, (name, label) in enumerate(labels.items()):
        curves(axes, numbers["evals"], numbers["loss"][:, i], name, label)
    picture.log_axes(axes, "y")
    picture.log_axis_of(axes, numbers["evals"])
    axes.set(xlabel="evaluations", ylabel="least loss so far")
    style.legend(axes, loc="upper right")
    return figure


STYLE_TRANSFER = Claim(
    name="lbfgs-style-transfer",
    section="7-1-10",
    statement="In style transfer, L-BFGS is the best choice.",
    experiment=transfer_losses,
    verdict=is_best,
    figure=transfer_figure,
    draw=transfer_picture,
)

CLAIMS = (FULL_BATCH, MINI_BATCH, STYLE_TRANSFER)
