"""Lecture 7-1-4: AdaGrad."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

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
    Estimate,
    Numbers,
    Verdict,
    by_case,
    by_value,
    is_above,
    is_below,
    is_within,
    mean,
    ratio,
    slope,
)
from cs231n_optax.lecture.claims.experiment import for_each, training_set
from cs231n_optax.lecture.claims.learning_rate import BATCH_SIZE, L2, MODELS
from cs231n_optax.lecture.claims.momentum import (
    NUM_RATES,
    NUM_TUNING,
    Losses,
    Task,
    digits,
    lowest,
    quadratic,
    rows_of,
    steps_to_match,
)
from cs231n_optax.lecture.descent import descend
from cs231n_optax.problems import landscapes, regressions

# The coordinates are equalised.


def rotation(angle: Any) -> jax.Array:
    """The matrix that turns by an angle in degrees."""
    cos, sin = jnp.cos(jnp.deg2rad(angle)), jnp.sin(jnp.deg2rad(angle))
    return jnp.array([[cos, -sin], [sin, cos]])


def progress_by_direction(quick: bool) -> dict[str, Any]:
    """SGD with α = 1/κ and AdaGrad with α = 0.1 on taco shells, also turned ones, for ten steps.

    From random starts, 0.5 to 1.5 away in both directions. Measured in the shallow and in the steep
    direction: the part of the way to the minimum that is made.
    """
    angles, kappas = np.array([0, 1, 5, 15, 45.0]), np.array([30, 100, 300, 1000.0])

    def run(angle, kappa, key):
        turn, shell = rotation(angle), landscapes.taco_shell(kappa)
        size, sign = jax.random.split(key)
        before = jax.random.uniform(size, (2,), minval=0.5, maxval=1.5)
        before *= jax.random.rademacher(sign, (2,))
        methods = cs231n_optax.sgd(1 / kappa), cs231n_optax.adagrad(0.1)
        ends = [descend(lambda x: shell.fun(x @ turn), turn @ before, tx, 10) for tx in methods]
        return jnp.stack([1 - jnp.abs(path.points[-1] @ turn / before) for path in ends])

    over_kappas = jax.vmap(run, (None, 0, None))
    over_angles = jax.vmap(over_kappas, (0, None, None))
    keys = jax.random.split(jax.random.key(0), 30 if quick else 200)
    found = jax.jit(jax.vmap(over_angles, (None, None, 0)))(angles, kappas, keys)
    return {"angle": angles, "kappa": kappas, "progress": found}


def balance(numbers: Numbers) -> Estimate:
    """The progress in the shallow direction over that in the steep one, (angles, κ, methods)."""
    return ratio(numbers["progress"][..., 0], numbers["progress"][..., 1])


def equalises(numbers: Numbers) -> Verdict:
    """Holds for the angles at which AdaGrad, but not SGD, is balanced for each κ.

    Balanced: the progress in the shallow direction over that in the steep one is above ½ and below
    2. Not balanced: it is below ½.
    """
    found = balance(numbers)
    by_sgd, by_adagrad = found[..., 0], found[..., 1]
    held = is_below(by_sgd, 0.5) & is_above(by_adagrad, 0.5) & is_below(by_adagrad, 2)
    name = "the angle in degrees between the steep direction and an axis"
    return by_value(name, numbers["angle"], held.all(axis=1))


def balance_figure(numbers: Numbers) -> str:
    """The balance for the largest κ, at three angles."""
    found, angles = balance(numbers)[:, -1], numbers["angle"]
    each = (f"{found[i, 1]} at {angles[i]:g}° (SGD {found[i, 0]})" for i in (0, 2, len(angles) - 1))
    kappa = f"κ = {numbers['kappa'][-1]:g}"
    return f"shallow / steep progress by AdaGrad for {kappa}: {', '.join(each)}"


def balance_picture(numbers: Numbers) -> Figure:
    """The balance over κ along the axes, and over the angle for the largest κ."""
    figure, (left, right) = picture.new_picture(2, sharey=True)
    found, kappas = balance(numbers), numbers["kappa"]
    places = np.arange(len(numbers["angle"]))
    for i, name in enumerate(("sgd", "adagrad")):
        line = style.METHOD_STYLES[name]
        picture.points(left, kappas, found[0, :, i], line, name)
        picture.points(right, places, found[:, -1, i], line, name)
    picture.log_axes(left, "x")
    left.set(xlabel="condition number κ", ylabel="shallow / steep progress", title="along the axes")
    right.set(xlabel="angle in degrees", title=f"turned, κ = {kappas[-1]:g}")
    right.set_xticks(places, [f"{angle:g}" for angle in numbers["angle"]])
    style.legend(right, loc="upper right")
    return figure


EQUALISES = Claim(
    name="adagrad-equalises",
    section="7-1-4",
    statement="AdaGrad speeds up the slow coordinate and slows down the fast one.",
    experiment=progress_by_direction,
    verdict=equalises,
    figure=balance_figure,
    draw=balance_picture,
)

# The step falls.


class Descent(NamedTuple):
    """Random starts, a gradient by an input of each step, the input, and a rate."""

    init: Callable[[jax.Array], Any]
    gradient: Callable[[Any, Any], Any]
    draw: Callable[[jax.Array], Any]
    learning_rate: float


def draw_rows(key: jax.Array) -> jax.Array:
    """The numbers of a batch of examples."""
    return jax.random.randint(key, (BATCH_SIZE,), 0, len(training_set()[0]))


def batch_gradient(model: Any, params: Any, rows: jax.Array) -> Any:
    """The gradient of a model of the digits on a batch."""
    return jax.grad(model.loss)(params, rows_of(training_set(), rows))


CURVATURES = np.geomspace(1, 100, 10)
DESCENTS = {
    "the gradients are random": Descent(
        lambda key: jnp.zeros(100), lambda x, g: g, lambda key: jax.random.normal(key, (100,)), 0.1
    ),
    "it is softmax regression by mini-batches": Descent(
        MODELS["softmax regression"].init,
        partial(batch_gradient, MODELS["softmax regression"]),
        draw_rows,
        0.02,
    ),
    "it is a perceptron by mini-batches": Descent(
        MODELS["a perceptron"].init,
        partial(batch_gradient, MODELS["a perceptron"]),
        draw_rows,
        0.02,
    ),
    "it is a quadratic without noise": Descent(
        lambda key: jax.random.normal(key, (10,)),
        lambda x, _: CURVATURES * x,
        lambda key: jnp.zeros(()),
        0.1,
    ),
}
OCTAVES = 2 ** np.arange(4, 12)


def step_sizes(quick: bool) -> dict[str, Any]:
    """The mean size of the coordinates of AdaGrad's steps, over the steps from 16 to 4095.

    With random gradients of a constant variance, on models of the digits by random batches of 32,
    and on a quadratic with κ = 100 without noise. Each point is a mean over an octave of steps.
    """
    octaves = OCTAVES[:-2] if quick else OCTAVES
    last = 2 * int(octaves[-1]) - 1

    def run(descent, key):
        start, sequence = jax.random.split(key)
        params, tx = descent.init(start), cs231n_optax.adagrad(descent.learning_rate)

        def step(carry, key):
            params, state = carry
            grads = descent.gradient(params, descent.draw(key))
            updates, state = tx.update(grads, state, params)
            size = optax.tree.norm(updates, ord=1) / optax.tree.size(updates)
            return (optax.apply_updates(params, updates), state), size

        keys = jax.random.split(sequence, last)
        sizes = jax.lax.scan(step, (params, tx.init(params)), keys)[1] / descent.learning_rate
        return jnp.stack([jnp.mean(sizes[first - 1 : 2 * first - 1]) for first in octaves.tolist()])

    keys = jax.random.split(jax.random.key(1), 4 if quick else 12)
    found = [for_each(partial(run, descent), keys) for descent in DESCENTS.values()]
    return {"step": octaves * np.sqrt(2), "size": np.stack(found, axis=1)}


def exponents(numbers: Numbers) -> list[Estimate]:
    """The exponent of the step's size over its number, for each case."""
    return [slope(numbers["step"], numbers["size"][:, i]) for i in range(len(DESCENTS))]


def falls_as_root(numbers: Numbers) -> Verdict:
    """Holds for the cases with an exponent of the step's size within 0.1 of -½."""
    return by_case(DESCENTS, [is_within(fit, -0.5, 0.1) for fit in exponents(numbers)])


def falls_figure(numbers: Numbers) -> str:
    """The exponents."""
    each = (
        f"p = {fit} where {name}" for name, fit in zip(DESCENTS, exponents(numbers), strict=True)
    )
    return f"|step| ∝ t^p: {', '.join(each)}"


def falls_picture(numbers: Numbers) -> Figure:
    """The size over the steps, and 1/√t."""
    figure, axes = picture.new_picture()
    steps = numbers["step"]
    for i, (name, line) in enumerate(zip(DESCENTS, picture.SERIES, strict=False)):
        label = name.removeprefix("it is ").removeprefix("a ").removeprefix("the ")
        picture.points(axes, steps, mean(numbers["size"][:, i]), line, label)
    axes.plot(steps, 1 / np.sqrt(steps), ":", color="black", linewidth=1.5, label="1/√t")
    picture.log_axes(axes)
    axes.set(xlabel="step t", ylabel="mean |step| / α", ylim=(1e-4, 1))
    style.legend(axes, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


FALLS = Claim(
    name="adagrad-step",
    section="7-1-4",
    statement="AdaGrad's step falls over time, as 1/√t.",
    experiment=step_sizes,
    verdict=falls_as_root,
    figure=falls_figure,
    draw=falls_picture,
)

# Useful in convex problems.

METHODS = {
    "sgd": cs231n_optax.sgd,
    "momentum": cs231n_optax.momentum,
    "adagrad": cs231n_optax.adagrad,
}
CONVEX = (
    "a quadratic along the axes",
    "a turned quadratic",
    "logistic regression",
    "softmax regression by mini-batches",
)


def logistic() -> Losses:
    """Logistic regression on all digits at once, 300 steps from a random start."""
    problem = regressions.logistic_regression(L2)
    minimum = lowest(problem)

    def losses(tx: optax.GradientTransformation, key: jax.Array) -> jax.Array:
        start = 0.1 * jax.random.normal(key, (65,))
        return descend(problem.fun, start, tx, 300).values[1:] - minimum

    return losses


def convex_tasks(num_epochs: int) -> list[Task]:
    """The problems, and the largest rate of SGD and momentum."""
    minimum = lowest(regressions.softmax_regression(L2))
    return [
        Task(quadratic(100), 4 / 100),
        Task(quadratic(100, turned=True), 4 / 100),
        Task(logistic(), 8),
        Task(digits(MODELS["softmax regression"], minimum, num_epochs), 8),
    ]


def steps_in_convex_problems(quick: bool) -> dict[str, Any]:
    """SGD, momentum and AdaGrad, each with 14 rates of a ratio of 2, in convex problems.

    On quadratics with κ = 100, 500 steps; on logistic regression with all digits, 300 steps; on
    softmax regression by batches of 32 digits, ten epochs (with `--quick`, three). The best rate of
    SGD has the least last loss in three tuning seeds, those of the others the fewest steps to come
    as low. Measured with other seeds: the steps until the loss is as low as SGD's last one, over
    all steps; 1 if it never is.
    """
    keys = jax.random.split(jax.random.key(2), NUM_TUNING + (4 if quick else 15))
    parts = 0.5 ** jnp.arange(NUM_RATES)

    def measure(task):
        def run(key):
            by_method = [
                jax.vmap(lambda rate, make=make: task.losses(make(rate), key))(
                    parts * (4 if name == "adagrad" else task.largest_rate)
                )
                for name, make in METHODS.items()
            ]
            return jnp.stack(by_method)

        return steps_to_match(for_each(run, keys), NUM_TUNING)

    tasks = convex_tasks(3 if quick else 10)
    steps, best = zip(*(measure(task) for task in tasks), strict=True)
    return {"steps": np.stack(steps, axis=1), "best": np.stack(best)}


def relative_steps(numbers: Numbers) -> Estimate:
    """The steps of momentum and of AdaGrad over those of SGD, (problems, 2)."""
    return ratio(numbers["steps"][..., 1:], numbers["steps"][..., :1])


def is_useful(numbers: Numbers) -> Verdict:
    """Holds for the convex problems on which AdaGrad's steps are below those of SGD."""
    useful = is_below(relative_steps(numbers)[:, 1], 1)
    return by_case((f"the problem is {name}" for name in CONVEX), useful)


def convex_figure(numbers: Numbers) -> str:
    """The steps."""
    each = (
        f"{adagrad} (momentum {momentum}) on {name}"
        for name, (momentum, adagrad) in zip(CONVEX, relative_steps(numbers), strict=True)
    )
    return f"steps / SGD's: {', '.join(each)}"


def convex_picture(numbers: Numbers) -> Figure:
    """Three bars for each problem."""
    figure, axes = picture.new_picture()
    found, rows = mean(numbers["steps"]), np.arange(len(CONVEX))
    for i, name in enumerate(METHODS):
        color, bar = style.METHOD_STYLES[name].color, found[:, i]
        place = rows + 0.26 * (i - 1)
        axes.barh(place, bar.value, 0.24, xerr=bar.error, color=color, capsize=2, label=name)
    axes.set_yticks(rows, [name.replace(" by ", "\nby ") for name in CONVEX])
    axes.invert_yaxis()
    axes.set(xlabel="steps until the loss is as low as SGD's last / all", xlim=(0, 1.05))
    style.legend(axes, loc="lower center", bbox_to_anchor=(0.4, 1), ncols=3)
    return figure


USEFUL = Claim(
    name="adagrad-convex",
    section="7-1-4",
    statement="In convex problems AdaGrad, with its falling step, is good.",
    experiment=steps_in_convex_problems,
    verdict=is_useful,
    figure=convex_figure,
    draw=convex_picture,
)

# Stuck at saddle points.

MOST_STEPS = 2000
AT_SADDLES = METHODS | {"rmsprop": cs231n_optax.rmsprop}
LARGEST_RATES = {"sgd": 1, "momentum": 1, "adagrad": 4, "rmsprop": 4}


def beside_ridge(angle: float, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A start far out, just beside the ridge of the turned saddle, and the turn."""
    far, beside = jax.random.split(key)
    x = jax.random.uniform(far, minval=1, maxval=3)
    turn = rotation(angle)
    return turn @ jnp.stack([x, 1e-4 * jax.random.normal(beside)]), turn


def turned_saddle(x: jax.Array, turn: jax.Array) -> jax.Array:
    """The saddle x² - y² + y⁴/4, turned."""
    return landscapes.saddle().fun(x @ turn)


def small_weights(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Small random U and V, and a random matrix with the singular values 3, 1, 0.3, 0 and 0."""
    left, right, start = jax.random.split(key, 3)
    bases = [jnp.linalg.qr(jax.random.normal(key, (5, 5)))[0] for key in (left, right)]
    target = bases[0] @ jnp.diag(jnp.array([3, 1, 0.3, 0, 0])) @ bases[1]
    return 0.01 * jax.random.normal(start, (50,)), target


def linear_network(x: jax.Array, target: jax.Array) -> jax.Array:
    """‖U V - A‖², where x is U and V."""
    u, v = x.reshape(2, 5, 5)
    product = jnp.sum(u[:, :, None] * v, axis=1)  # faster than a matrix product, under vmap
    return jnp.sum((product - target) ** 2)


class Saddle(NamedTuple):
    """A random start and constants, a function of both, and the value that says: it is passed."""

    draw: Callable[[jax.Array], tuple[jax.Array, jax.Array]]
    fun: Callable[[jax.Array, jax.Array], jax.Array]
    passed: float


SADDLES = {
    "a saddle along the axes": Saddle(partial(beside_ridge, 0.0), turned_saddle, -0.5),
    "a turned saddle": Saddle(partial(beside_ridge, 45.0), turned_saddle, -0.5),
    "the saddles of a linear network": Saddle(small_weights, linear_network, 0.3**2 / 2),
}


@partial(jax.jit, static_argnums=(0, 1, 2))
def steps_to_pass(fun: Any, passed: float, make: Any, rates: Any, starts: Any) -> jax.Array:
    """The steps until the value is below ``passed``, or `MOST_STEPS`, (starts, rates)."""

    def run(rate, start, constants):
        values = descend(lambda x: fun(x, constants), start, make(rate), MOST_STEPS).values
        below = values < passed
        return jnp.where(jnp.any(below), jnp.argmax(below), MOST_STEPS)

    over_rates = jax.vmap(run, (0, None, None))
    return jax.vmap(over_rates, (None, 0, 0))(rates, *starts)


def steps_at_saddles(quick: bool) -> dict[str, Any]:
    """SGD, momentum, AdaGrad and RMSProp, each with 14 rates of a ratio of 2, at saddle points.

    The saddle x² - y² + y⁴/4, along the axes and turned by 45°, is reached along its ridge, from
    random starts with y about 1e-4. A linear network, ‖U V - A‖² with 5 × 5 matrices, learns one of
    three singular values after the other from small weights, with a saddle point before each
    (Saxe, McClelland and Ganguli, ICLR 2014). Counted, at most 2000: the steps until f is half of
    the way down from the (last) saddle to the minimum. The best rate of each method has the fewest
    steps in three tuning seeds that are not in the results.
    """
    parts = 0.5 ** np.arange(NUM_RATES)
    rates = np.stack([parts * LARGEST_RATES[name] for name in AT_SADDLES])
    keys = jax.random.split(jax.random.key(3), NUM_TUNING + (10 if quick else 30))

    def measure(saddle):
        starts = for_each(saddle.draw, keys)
        by_method = [
            steps_to_pass(saddle.fun, saddle.passed, make, jnp.asarray(each), starts)
            for make, each in zip(AT_SADDLES.values(), rates, strict=True)
        ]
        return np.stack(by_method, axis=1)

    steps = np.stack([measure(saddle) for saddle in SADDLES.values()], axis=1)
    best = steps[:NUM_TUNING].mean(axis=0).argmin(axis=-1)
    return {"rate": rates, "best": best, "steps": steps[NUM_TUNING:]}


def steps_at_best_rates(numbers: Numbers) -> np.ndarray:
    """(repeats, saddles, methods)."""
    best = numbers["best"].astype(int)[None, :, :, None]
    return np.take_along_axis(numbers["steps"], best, axis=-1)[..., 0]


def is_stuck(numbers: Numbers) -> Verdict:
    """Holds for the saddles at which AdaGrad is stuck, and momentum or RMSProp is not.

    Stuck: with its best rate it needs above ten times the steps of the faster of the two.
    """
    steps, names = steps_at_best_rates(numbers), list(AT_SADDLES)
    stuck = []
    for each in np.moveaxis(steps, 1, 0):
        others = each[:, [names.index("momentum"), names.index("rmsprop")]]
        faster = others[:, others.mean(axis=0).argmin()]
        stuck.append(is_above(ratio(each[:, names.index("adagrad")], faster), 10))
    return by_case((f"f has {name}" for name in SADDLES), stuck)


def saddles_figure(numbers: Numbers) -> str:
    """The steps of all methods."""
    parts = []
    for name, row in zip(SADDLES, mean(steps_at_best_rates(numbers)), strict=True):
        each = (f"{steps} by {method}" for method, steps in zip(AT_SADDLES, row, strict=True))
        parts.append(f"{', '.join(each)} at {name}")
    small = [int(np.flatnonzero(rates == 1 / 64)[0]) for rates in numbers["rate"]]
    steps = mean(numbers["steps"][:, 0, np.arange(len(small)), small])
    each = (f"{count} by {method}" for method, count in zip(AT_SADDLES, steps, strict=True))
    parts.append(f"with α = 1/64 at the first {', '.join(each)}")
    return f"steps at the best rates: {'; '.join(parts)}"


def saddles_picture(numbers: Numbers) -> Figure:
    """The steps over the rate, one panel for each saddle."""
    figure, panels = picture.new_picture(3, sharey=True)
    titles = "along the axes", "turned by 45°", "linear network"
    for i, (axes, title) in enumerate(zip(panels, titles, strict=True)):
        for j, name in enumerate(AT_SADDLES):
            steps, line = mean(numbers["steps"][:, i, j]), style.METHOD_STYLES[name]
            picture.points(axes, numbers["rate"][j], steps, line, name)
        picture.log_axes(axes, "y")
        axes.set(xscale="log", xlabel="α", xlim=(2e-5, 10), title=title)
        axes.set_xticks([1e-4, 1e-2, 1], ["0.0001", "0.01", "1"])
        axes.minorticks_off()
    panels[0].set(ylabel="steps, at most 2000")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    return figure


STUCK = Claim(
    name="adagrad-saddle",
    section="7-1-4",
    statement="In problems that are not convex, AdaGrad may get stuck at saddle points.",
    experiment=steps_at_saddles,
    verdict=is_stuck,
    figure=saddles_figure,
    draw=saddles_picture,
)

CLAIMS = (EQUALISES, FALLS, USEFUL, STUCK)
