"""Lecture 7-1-2, problem A: condition numbers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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
    is_within,
    mean,
    slope,
)
from cs231n_optax.lecture.claims.experiment import for_each_pair
from cs231n_optax.lecture.descent import descend
from cs231n_optax.problems import datasets
from cs231n_optax.problems.landscapes import taco_shell

# SGD and momentum on quadratics of a growing condition number.

# The rates that are best for eigenvalues from 1 to κ (Polyak, 1964).
BEST = {
    "sgd": lambda kappa: cs231n_optax.sgd(2 / (kappa + 1)),
    "momentum": lambda kappa: cs231n_optax.momentum(
        4 / (jnp.sqrt(kappa) + 1) ** 2, rho=((jnp.sqrt(kappa) - 1) / (jnp.sqrt(kappa) + 1)) ** 2
    ),
}


def evaluations(method: str, quick: bool) -> dict[str, Any]:
    """The evaluations on random quadratics, (repeats, κ)."""
    kappas = np.array([10, 30, 100, 300] if quick else [10, 30, 100, 300, 1000, 3000], float)

    def run(kappa, key):
        between, start = jax.random.uniform(key, (8,)), jax.random.normal(key, (10,))
        eigenvalues = kappa ** jnp.concatenate([jnp.array([0.0, 1.0]), between])
        result = cs231n_optax.minimize(
            lambda x: jnp.sum(eigenvalues * x**2) / 2,
            start / eigenvalues,
            BEST[method](kappa),
            tol=1e-3,
            max_evals=100_000,
        )
        return result.num_evals

    keys = jax.random.split(jax.random.key(0), 10 if quick else 30)
    over_kappas = jax.vmap(run, (0, None))
    return {"kappa": kappas, "evals": jax.jit(jax.vmap(over_kappas, (None, 0)))(kappas, keys)}


def sgd_evaluations(quick: bool) -> dict[str, Any]:
    """SGD with the best constant rate for κ on random quadratics in ten dimensions.

    The eigenvalues are log-uniform from 1 to κ. Counted: the evaluations until the gradient, at
    first as large in all directions, has fallen to a thousandth.
    """
    return evaluations("sgd", quick)


def momentum_evaluations(quick: bool) -> dict[str, Any]:
    """Momentum with the best constant α and ρ for κ, on the same random quadratics."""
    return evaluations("momentum", quick)


def exponent_near(numbers: Numbers, exponent: float) -> Verdict:
    """It holds from the κ on from which all fitted exponents are within 0.1 of the claimed one."""
    kappas, evals = numbers["kappa"], numbers["evals"]
    fits = [slope(kappas[i:], evals[:, i:]) for i in range(len(kappas) - 1)]
    near = [bool(is_within(fit, exponent, 0.1)) for fit in fits]
    from_here_on = [all(near[i:]) for i in range(len(near))]
    return by_value("the condition number κ", kappas[:-1], from_here_on)


def proportional(numbers: Numbers) -> Verdict:
    """Holds from the κ on from which all fitted exponents are within 0.1 of 1."""
    return exponent_near(numbers, 1)


def root_proportional(numbers: Numbers) -> Verdict:
    """Holds from the κ on from which all fitted exponents are within 0.1 of ½."""
    return exponent_near(numbers, 0.5)


def exponent_figure(numbers: Numbers) -> str:
    """The fitted exponent."""
    fit = slope(numbers["kappa"], numbers["evals"])
    return f"evaluations ∝ κ^p with p = {fit}"


def evaluations_picture(numbers: Numbers, method: str, label: str, exponent: float) -> Figure:
    """Evaluations over κ, with a line of the claimed slope."""
    figure, axes = picture.new_picture()
    kappas, evals = numbers["kappa"], mean(numbers["evals"])
    picture.points(axes, kappas, evals, style.METHOD_STYLES[method], label)
    claimed = evals.value[-1] * (kappas / kappas[-1]) ** exponent
    law = "∝ κ" if exponent == 1 else "∝ √κ"
    axes.plot(kappas, claimed, color="0.5", linestyle="--", linewidth=1, label=law)
    picture.log_axes(axes, "y")
    picture.log_axis_of(axes, kappas)
    axes.set(xlabel="condition number κ", ylabel="evaluations")
    style.legend(axes, loc="upper left")
    return figure


CONDITION_NUMBER_OF_SGD = Claim(
    name="sgd-condition-number",
    section="7-1-2 A",
    statement="The number of iterations of SGD grows in proportion to the condition number.",
    experiment=sgd_evaluations,
    verdict=proportional,
    figure=exponent_figure,
    draw=lambda numbers: evaluations_picture(numbers, "sgd", "SGD", 1),
)
CONDITION_NUMBER_OF_MOMENTUM = Claim(
    name="momentum-condition-number",
    section="7-1-2 A",
    statement="With momentum it grows with the square root of the condition number only.",
    experiment=momentum_evaluations,
    verdict=root_proportional,
    figure=exponent_figure,
    draw=lambda numbers: evaluations_picture(numbers, "momentum", "momentum", 0.5),
)


# Jitter along the steep direction, slow progress along the shallow one.


def steep_and_shallow(quick: bool) -> dict[str, Any]:
    """SGD on taco shells with κ from 30 to 300, at several parts of the largest stable rate 2/κ.

    Measured for each coordinate over the first ten steps: how often it changes its sign, and which
    part of its way to the minimum it makes.
    """
    parts = np.array([0.2, 0.4, 0.6, 0.8, 0.95])

    def run(part, key):
        kappa = 30 * 10 ** jax.random.uniform(key)
        path = descend(
            taco_shell(kappa).fun,
            jax.random.normal(key, (2,)),
            cs231n_optax.sgd(part * 2 / kappa),
            10,
        )
        signs = jnp.sign(path.points)
        progress = 1 - jnp.abs(path.points[-1] / path.points[0])
        return jnp.mean(signs[1:] != signs[:-1], axis=0), progress

    keys = jax.random.split(jax.random.key(1), 10 if quick else 100)
    over_parts = jax.vmap(run, (0, None))
    flips, progress = jax.jit(jax.vmap(over_parts, (None, 0)))(parts, keys)
    return {"part": parts, "flips": flips, "progress": progress}


def jitters_and_creeps(numbers: Numbers) -> Verdict:
    """Holds at the rates where the steep coordinate alone jitters, and the shallow one lags.

    Jitters: the sign changes are above one half per step. Lags: in ten steps, its part of the way
    is below one half.
    """
    flips, progress = mean(numbers["flips"]), mean(numbers["progress"])
    jitter = is_above(flips[:, 1], 0.5) & is_below(flips[:, 0], 0.5)
    return by_value(
        "α, as a part of the largest stable rate 2 / κ,",
        numbers["part"],
        jitter & is_below(progress[:, 0], 0.5),
    )


def steep_and_shallow_figure(numbers: Numbers) -> str:
    """At the largest rate."""
    flips, progress = mean(numbers["flips"]), mean(numbers["progress"])
    return (
        f"at {numbers['part'][-1]:g} of the largest rate the steep coordinate changes its sign in "
        f"{flips[-1, 1]} of the steps, and the shallow one makes {progress[-1, 0]} of its way in "
        "ten steps"
    )


def steep_and_shallow_picture(numbers: Numbers) -> Figure:
    """Both parts over the learning rate."""
    figure, axes = picture.new_picture(2)
    for each, name, label in (
        (axes[0], "flips", "sign changes per step"),
        (axes[1], "progress", "part of the way in ten steps"),
    ):
        shares = mean(numbers[name])
        picture.points(each, numbers["part"], shares[:, 0], picture.SERIES[0], "shallow")
        picture.points(each, numbers["part"], shares[:, 1], picture.SERIES[1], "steep")
        each.set(xlabel="α κ / 2", ylabel=label, ylim=(-0.05, 1.05))
    style.legend(axes[0], loc="upper left")
    return figure


JITTER = Claim(
    name="sgd-jitter",
    section="7-1-2 A",
    statement="SGD jitters along the steep direction and is slow along the shallow one.",
    experiment=steep_and_shallow,
    verdict=jitters_and_creeps,
    figure=steep_and_shallow_figure,
    draw=steep_and_shallow_picture,
)


# The condition number over the dimension.

SETTINGS = {
    "the number of examples stays 256": "with 256 random examples",
    "the number of examples grows with the dimension": "with 8 random examples per dimension",
    "the inputs are pixels of the digits": "with 384 images of the digits",
}
MOST_INPUTS, MOST_EXAMPLES = 48, 384


def condition_numbers(quick: bool) -> dict[str, Any]:
    """The condition number of linear least squares, by Lanczos, over the number of inputs.

    In three settings: random inputs with 256 examples, random inputs with 8 examples per input, and
    random pixels of the digits with 384 examples. All have an L2 penalty of 1e-3.
    """
    sizes = np.array([4, 8, 16, 32, 48])
    images = jnp.asarray(datasets.digits().x_train[:MOST_EXAMPLES].reshape(MOST_EXAMPLES, 64))

    def kappa(inputs, m, n):
        row, column = jnp.arange(MOST_EXAMPLES), jnp.arange(MOST_INPUTS)
        x = jnp.where((row[:, None] < m) & (column < n), inputs, 0)
        # One program for all sizes: in the directions without an input the curvature is the mean
        # of the others, which changes neither extreme.
        curvature = jnp.where(column < n, 0, jnp.sum(x**2) / (m * n)) + 1e-3
        found = cs231n_optax.extreme_eigenvalues(
            lambda w: (jnp.sum((x @ w) ** 2) / m + jnp.sum(curvature * w**2)) / 2,
            jnp.zeros(MOST_INPUTS),
            key=jax.random.key(0),
            num_products=MOST_INPUTS,
        )
        return found.condition_number

    def run(key, n):
        random = jax.random.normal(key, (MOST_EXAMPLES, MOST_INPUTS))
        pixels = jax.random.choice(key, images, (MOST_INPUTS,), replace=False, axis=1)
        inputs = jnp.stack([random, random, pixels])
        examples = jnp.array([256, 8 * n, MOST_EXAMPLES])
        return jax.lax.map(lambda setting: kappa(setting[0], setting[1], n), (inputs, examples))

    keys = jax.random.split(jax.random.key(2), 5 if quick else 20)
    return {"size": sizes, "kappa": for_each_pair(run, keys, sizes)}


def grows(numbers: Numbers) -> Verdict:
    """Holds in the settings where the exponent of κ over the dimension is above 0.3."""
    fits = [slope(numbers["size"], numbers["kappa"][..., i]) for i in range(len(SETTINGS))]
    return by_case(SETTINGS, [is_above(fit, 0.3) for fit in fits])


def growth_figure(numbers: Numbers) -> str:
    """One exponent per setting."""
    fits = [slope(numbers["size"], numbers["kappa"][..., i]) for i in range(len(SETTINGS))]
    each = [f"p = {fit} {name}" for name, fit in zip(SETTINGS.values(), fits, strict=True)]
    return f"κ ∝ n^p with {', '.join(each)}"


def growth_picture(numbers: Numbers) -> Figure:
    """κ over the number of inputs."""
    figure, axes = picture.new_picture()
    kappas = mean(numbers["kappa"])
    for i, (name, line) in enumerate(zip(SETTINGS.values(), picture.SERIES, strict=False)):
        picture.points(axes, numbers["size"], kappas[:, i], line, name)
    picture.log_axes(axes, "y")
    picture.log_axis_of(axes, numbers["size"])
    axes.set(xlabel="dimension n", ylabel="condition number κ")
    style.legend(axes, loc="center right")
    return figure


DIMENSION = Claim(
    name="dimension-condition-number",
    section="7-1-2 A",
    statement="High condition numbers are more common in higher dimensions.",
    experiment=condition_numbers,
    verdict=grows,
    figure=growth_figure,
    draw=growth_picture,
)

CLAIMS = (CONDITION_NUMBER_OF_SGD, CONDITION_NUMBER_OF_MOMENTUM, JITTER, DIMENSION)
