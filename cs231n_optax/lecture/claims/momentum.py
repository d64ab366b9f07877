"""Lecture 7-1-3: momentum and Nesterov momentum."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
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
    ratio,
)
from cs231n_optax.lecture.claims.experiment import for_each, training_set
from cs231n_optax.lecture.claims.learning_rate import BATCH_SIZE, EPOCH, L2, MODELS, Model
from cs231n_optax.lecture.claims.problem_c import NET, gradient, loss
from cs231n_optax.lecture.descent import descend
from cs231n_optax.lecture.landscapes import local_minimum, plateau
from cs231n_optax.problems import landscapes, regressions

# Out of a local minimum and off a saddle point.

Function = Callable[[Any], jax.Array]


class Stop(NamedTuple):
    """A point at which SGD stops: the function, the box of the starts, and the rate."""

    fun: Function
    low: tuple[float, ...]
    high: tuple[float, ...]
    learning_rate: float
    has_left: Function


def is_beyond_barrier(x: jax.Array) -> jax.Array:
    """Whether x is in the basin of the global minimum at 2."""
    return x[0] > 0


def is_near_minimum(x: jax.Array) -> jax.Array:
    """Whether x is nearer to the minimum at 2 than to the plateau at 0."""
    return x[0] > 1


def is_off_the_ridge(x: jax.Array) -> jax.Array:
    """Whether f is below -½, half of the way from the saddle point to the minimum."""
    return landscapes.saddle().fun(x) < -0.5


STOPS = {
    "local minimum from high above": Stop(
        local_minimum, (-2.2,), (-1.95,), 0.02, is_beyond_barrier
    ),
    "local minimum from little above": Stop(
        local_minimum, (-1.6,), (-1.45,), 0.02, is_beyond_barrier
    ),
    "plateau": Stop(plateau, (-1.0,), (-0.5,), 0.1, is_near_minimum),
    "saddle point along its ridge": Stop(
        landscapes.saddle().fun, (-2.0, 0.0), (2.0, 0.0), 0.05, is_off_the_ridge
    ),
    "saddle point beside its ridge": Stop(
        landscapes.saddle().fun, (-2.0, 1e-6), (2.0, 1e-4), 0.05, is_off_the_ridge
    ),
}
RHOS = np.array([0, 0.5, 0.8, 0.9, 0.95, 0.99])


def departures(quick: bool) -> dict[str, Any]:
    """Momentum with the same α for each ρ, where ρ = 0 is SGD, from random starts.

    The curves of figures 5 and 6 and the saddle x² - y² + y⁴/4. The slope above the local minimum
    is begun five to ten times as far above the barrier as the barrier is high, or at most once.
    Measured: whether the point is beyond after 1000 steps.
    """

    def run(stop, rho, key):
        start = jax.random.uniform(
            key, (len(stop.low),), minval=jnp.array(stop.low), maxval=jnp.array(stop.high)
        )
        tx = cs231n_optax.momentum(stop.learning_rate, rho=rho)
        return stop.has_left(descend(stop.fun, start, tx, 1000).points[-1])

    keys = jax.random.split(jax.random.key(0), 50 if quick else 200)
    found = [
        jax.jit(jax.vmap(jax.vmap(partial(run, stop), (0, None)), (None, 0)))(RHOS, keys)
        for stop in STOPS.values()
    ]
    return {"rho": RHOS, "left": np.stack(found, axis=1)}


def leaves(numbers: Numbers) -> Verdict:
    """Holds where SGD leaves in below 0.1 of the runs and momentum, ρ = 0.9, in above 0.9."""
    share, rhos = mean(numbers["left"]), numbers["rho"].tolist()
    held = is_below(share[:, rhos.index(0)], 0.1) & is_above(share[:, rhos.index(0.9)], 0.9)
    return by_case((f"it comes to a {name}" for name in STOPS), held)


def departures_figure(numbers: Numbers) -> str:
    """The shares of SGD and of both typical ρ."""
    share, rhos = mean(numbers["left"]), numbers["rho"].tolist()
    each = (
        f"{row[rhos.index(0)]}, {row[rhos.index(0.9)]}, {row[rhos.index(0.99)]} ({name})"
        for name, row in zip(STOPS, share, strict=True)
    )
    return f"share of the runs that leave by SGD, with ρ = 0.9, with ρ = 0.99: {'; '.join(each)}"


def departures_picture(numbers: Numbers) -> Figure:
    """The shares over ρ."""
    figure, axes = picture.new_picture()
    places = np.arange(len(numbers["rho"]))
    for name, share, line in zip(STOPS, mean(numbers["left"]), picture.SERIES, strict=False):
        picture.points(axes, places, share, line, name)
    axes.set_xticks(places, ["0 (SGD)", *(f"{rho:g}" for rho in numbers["rho"][1:])])
    axes.set(xlabel="ρ", ylabel="share that leaves", ylim=(-0.05, 1.05))
    style.legend(axes, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


LEAVES = Claim(
    name="momentum-leaves",
    section="7-1-3",
    statement="Momentum crosses the local minima and saddle points, at which SGD stops.",
    experiment=departures,
    verdict=leaves,
    figure=departures_figure,
    draw=departures_picture,
)

# The terminal velocity.


def terminal_velocities(quick: bool) -> dict[str, Any]:
    """The velocity of momentum under a constant gradient g, and with noise as large as g on it.

    From v = 0, for random g. Measured in units of g / (1 - ρ): the velocity at some of 12,000
    steps, and its mean over the last 2000.
    """
    rhos, length = np.array([0.5, 0.9, 0.99, 0.999]), 12_000
    shown = np.unique(np.geomspace(1, 10_000, 25).astype(int))

    def run(rho, noise, key):
        size, sequence = jax.random.split(key)
        mean_g = jnp.exp(jax.random.normal(size))
        grads = mean_g * (1 + noise * jax.random.normal(sequence, (length,)))
        tx = cs231n_optax.scale_by_momentum(rho)
        state = tx.init(mean_g)

        def step(state: Any, g: Any) -> tuple[Any, Any]:
            velocity, state = tx.update(g, state)
            return state, velocity / (mean_g / (1 - rho))

        relative = jax.lax.scan(step, state, grads)[1]
        return relative[shown - 1], jnp.mean(relative[-2000:])

    over_noise = jax.vmap(run, (None, 0, None))
    over_rhos = jax.vmap(over_noise, (0, None, None))
    keys = jax.random.split(jax.random.key(1), 50 if quick else 200)
    curve, last = jax.jit(jax.vmap(over_rhos, (None, None, 0)))(rhos, jnp.array([0.0, 1.0]), keys)
    return {"rho": rhos, "step": shown, "curve": curve, "last": last}


def is_terminal(numbers: Numbers) -> Verdict:
    """Holds for the ρ with a last velocity within 0.02 of 1, with the noise and without."""
    near = is_within(mean(numbers["last"]), 1, 0.02).all(axis=-1)
    return by_value("ρ", numbers["rho"], near)


def terminal_figure(numbers: Numbers) -> str:
    """The last velocities."""
    rows = zip(numbers["rho"], mean(numbers["last"]), strict=True)
    each = (f"{exact} (with noise {noisy}) for ρ = {rho:g}" for rho, (exact, noisy) in rows)
    return f"last velocity / (g / (1 - ρ)): {', '.join(each)}"


def terminal_picture(numbers: Numbers) -> Figure:
    """The velocity over the steps."""
    figure, axes = picture.new_picture()
    for i, (rho, line) in enumerate(zip(numbers["rho"], picture.SERIES, strict=False)):
        steps = numbers["step"]
        axes.plot(steps, numbers["curve"][:, i, 0].mean(axis=0), color=line.color)
        noisy = mean(numbers["curve"][:, i, 1])
        picture.points(axes, steps, noisy, line._replace(linestyle=""), f"ρ = {rho:g}")
    picture.target(axes, 1, "g / (1 - ρ)")
    picture.log_axes(axes, "x")
    axes.set(xlabel="step", ylabel="velocity / (g / (1 - ρ))")
    style.legend(axes, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


TERMINAL = Claim(
    name="momentum-terminal-velocity",
    section="7-1-3",
    statement="Under a constant gradient g, friction 1 - ρ leads to the velocity g / (1 - ρ).",
    experiment=terminal_velocities,
    verdict=is_terminal,
    figure=terminal_figure,
    draw=terminal_picture,
)

# The velocity is a weighted sum of the gradients.


def rows_of(data: Any, rows: jax.Array) -> Any:
    """Some of the examples."""
    return jax.tree.map(lambda x: x[rows], data)


def weights_of_gradients(quick: bool) -> dict[str, Any]:
    """The weights of the gradients in the velocity, after 30 steps by batches of 32 of the digits.

    A perceptron of 1210 parameters, α = 0.1 (1 - ρ). The weights are those that fit the velocity
    best, by least squares. The part left is the norm of the residual over that of the velocity.
    """
    rhos, length, data = np.array([0.5, 0.9, 0.99]), 30, training_set()

    def run(rho, key):
        start, order = jax.random.split(key)
        x, restore = ravel_pytree(NET.init(start))
        tx = cs231n_optax.scale_by_momentum(rho)

        def step(carry: Any, rows: Any) -> Any:
            x, state = carry
            grads = gradient(restore(x), rows_of(data, rows))
            velocity, state = tx.update(grads, state)
            return (x - 0.1 * (1 - rho) * velocity, state), (grads, velocity)

        carry = x, tx.init(x)
        rows = jax.random.randint(order, (length, BATCH_SIZE), 0, len(data[0]))
        grads, velocities = jax.lax.scan(step, carry, rows)[1]
        return grads, velocities[-1]

    keys = jax.random.split(jax.random.key(2), 5 if quick else 20)
    over_rhos = jax.vmap(run, (0, None))
    found = for_each(lambda key: over_rhos(jnp.asarray(rhos), key), keys)
    grads, velocity = (np.asarray(x, float) for x in found)
    latest_first, velocity = grads[:, :, ::-1], velocity[..., None]
    weights = np.linalg.solve(latest_first @ latest_first.mT, latest_first @ velocity)
    residual = velocity - latest_first.mT @ weights
    part_left = np.linalg.norm(residual, axis=(-2, -1)) / np.linalg.norm(velocity, axis=(-2, -1))
    return {"rho": rhos, "weight": weights[..., 0], "part_left": part_left}


def are_powers(numbers: Numbers) -> Verdict:
    """Holds for the ρ with all weights within 0.001 of ρ^k, and a part left below 0.001."""
    ages = np.arange(numbers["weight"].shape[-1])
    powers = numbers["rho"][:, None] ** ages
    near = is_within(mean(numbers["weight"]), powers, 1e-3).all(axis=-1)
    return by_value("ρ", numbers["rho"], near & is_below(mean(numbers["part_left"]), 1e-3))


def weights_figure(numbers: Numbers) -> str:
    """The largest deviation, and the sum of the weights."""
    powers = numbers["rho"][:, None] ** np.arange(numbers["weight"].shape[-1])
    deviation = mean(np.abs(numbers["weight"] - powers).max(axis=-1))
    sums = mean(numbers["weight"].sum(axis=-1))
    each = (
        f"{largest} for ρ = {rho:g} (sum of the weights {total})"
        for rho, largest, total in zip(numbers["rho"], deviation, sums, strict=True)
    )
    return f"largest |weight - ρ^k|: {', '.join(each)}"


def weights_picture(numbers: Numbers) -> Figure:
    """The weights over the age of the gradient, and the powers."""
    figure, axes = picture.new_picture()
    ages = np.arange(numbers["weight"].shape[-1])
    for i, (rho, line) in enumerate(zip(numbers["rho"], picture.SERIES, strict=False)):
        axes.plot(ages, rho**ages, color="0.5", linestyle="--", linewidth=1)
        weights, points = mean(numbers["weight"][:, i]), line._replace(linestyle="")
        picture.points(axes, ages, weights, points, f"ρ = {rho:g}")
    axes.plot([], [], color="0.5", linestyle="--", linewidth=1, label="ρ^k")
    axes.set(xlabel="age k of the gradient, in steps", ylabel="its weight in the velocity")
    style.legend(axes, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


WEIGHTED_SUM = Claim(
    name="momentum-weighted-sum",
    section="7-1-3",
    statement="The velocity is the sum of all past gradients, with weights that decay as ρ^k.",
    experiment=weights_of_gradients,
    verdict=are_powers,
    figure=weights_figure,
    draw=weights_picture,
)

# Both forms of Nesterov momentum.


class Objective(NamedTuple):
    """A function of parameters and a batch of row numbers, with its random starts and a rate."""

    init: Callable[[jax.Array], Any]
    loss: Callable[[Any, jax.Array], jax.Array]
    learning_rate: float


def on_landscape(landscape: landscapes.Landscape, learning_rate: float) -> Objective:
    """The function of two variables, from starts between -1.5 and 1.5."""
    return Objective(
        lambda key: jax.random.uniform(key, (2,), jnp.float32, -1.5, 1.5),
        lambda x, rows: landscape.fun(x),
        learning_rate,
    )


def batch_loss(params: Any, rows: jax.Array) -> jax.Array:
    """The loss of the perceptron on some of the digits."""
    return loss(params, rows_of(training_set(), rows))


OBJECTIVES = {
    "Rosenbrock's function": on_landscape(landscapes.rosenbrock(2), 2e-4),
    "Himmelblau's function": on_landscape(landscapes.himmelblau(), 2e-3),
    "Beale's function": on_landscape(landscapes.beale(), 2e-3),
    "the loss of a perceptron": Objective(NET.init, batch_loss, 0.02),
}
PRECISIONS = ("float32", "float64")


def difference_of_forms(objective: Objective, key: jax.Array, num_steps: int = 200) -> jax.Array:
    """The largest distance between the iterates of both forms, over the norm of the iterate.

    In units of the rounding error, in the precision that JAX has as its default.
    """
    start, order = jax.random.split(key)
    dtype = jnp.result_type(float)
    params = jax.tree.map(lambda leaf: leaf.astype(dtype), objective.init(start))
    rho, alpha = 0.9, objective.learning_rate
    tx = cs231n_optax.nesterov(alpha, rho)

    def step(carry: Any, rows: jax.Array) -> Any:
        x, v, changed, state = carry
        look_ahead = jax.tree.map(lambda x, v: x + rho * v, x, v)
        grads = jax.grad(objective.loss)(look_ahead, rows)
        v = jax.tree.map(lambda v, g: rho * v - alpha * g, v, grads)
        x = optax.apply_updates(x, v)

        updates, state = tx.update(jax.grad(objective.loss)(changed, rows), state)
        changed = optax.apply_updates(changed, updates)
        apart = optax.tree.sub(cs231n_optax.nesterov_iterate(state, changed), x)
        return (x, v, changed, state), optax.tree.norm(apart) / optax.tree.norm(x)

    carry = params, optax.tree.zeros_like(params), params, tx.init(params)
    rows = jax.random.randint(order, (num_steps, BATCH_SIZE), 0, len(training_set()[0]))
    return jnp.max(jax.lax.scan(step, carry, rows)[1]) / jnp.finfo(dtype).eps


def differences_of_forms(quick: bool) -> dict[str, Any]:
    """`nesterov` against the form of the page with the gradient at x + ρ v, over 200 steps.

    On three functions and a perceptron by batches of 32 digits, from random starts, with ρ = 0.9.
    Measured: the largest distance between both x over the norm of x, in units of the rounding error
    ε, in float32 and in float64.
    """

    def measure(objective):
        keys = jax.random.split(jax.random.key(3), 4 if quick else 20)
        return for_each(partial(difference_of_forms, objective), keys)

    single = [measure(objective) for objective in OBJECTIVES.values()]
    with jax.enable_x64(True):
        double = [measure(objective) for objective in OBJECTIVES.values()]
    return {"apart": np.moveaxis(np.array([single, double]), 2, 0)}


def forms_agree(numbers: Numbers) -> Verdict:
    """Holds for the functions on which the distance is below 10⁴ ε, in both precisions."""
    agree = is_below(mean(numbers["apart"]), 1e4).all(axis=0)
    return by_case((f"f is {name}" for name in OBJECTIVES), agree)


def forms_figure(numbers: Numbers) -> str:
    """The distances."""
    columns = zip(OBJECTIVES, *mean(numbers["apart"]), strict=True)
    each = (f"{single} and {double} on {name}" for name, single, double in columns)
    return f"largest relative distance in float32 and in float64, in ε: {', '.join(each)}"


def forms_picture(numbers: Numbers) -> Figure:
    """Two bars for each function."""
    figure, axes = picture.new_picture()
    apart, rows = mean(numbers["apart"]), np.arange(len(OBJECTIVES))
    for i, (name, color) in enumerate(zip(PRECISIONS, (style.BLUE, style.ORANGE), strict=True)):
        place, bar = rows + 0.4 * i - 0.2, apart[i]
        axes.barh(place, bar.value, 0.36, xerr=bar.error, color=color, capsize=3, label=name)
    axes.set_yticks(rows, list(OBJECTIVES))
    axes.invert_yaxis()
    picture.log_axes(axes, "x")
    axes.set(xlabel="largest relative distance / ε")
    style.legend(axes, loc="lower center", bbox_to_anchor=(0.4, 1), ncols=2)
    return figure


FORMS = Claim(
    name="nesterov-forms",
    section="7-1-3",
    statement="A change of variables leaves the iterates of Nesterov momentum as they are.",
    experiment=differences_of_forms,
    verdict=forms_agree,
    figure=forms_figure,
    draw=forms_picture,
)

# How far they overshoot.


class Well(NamedTuple):
    """A function of one variable, its minimiser, the starts, and the largest curvature there."""

    fun: Function
    minimizer: float
    starts: tuple[float, float]
    curvature: float


WELLS = {
    "x²/2": Well(lambda x: jnp.sum(x**2) / 2, 0, (0.5, 1.5), 1),
    "log cosh x": Well(lambda x: jnp.sum(jnp.logaddexp(x, -x)), 0, (1, 4), 1),
    "x⁴/4 - x³/3 - x²": Well(local_minimum, 2, (2.1, 2.6), 13.08),
}
# How to make each method, and what its iterate is.
METHODS: dict[str, tuple[Any, Callable[[Any, Any], Any]]] = {
    "momentum": (cs231n_optax.momentum, lambda state, x: x),
    "nesterov": (cs231n_optax.nesterov, cs231n_optax.nesterov_iterate),
}
PARTS = np.array([0.01, 0.03, 0.1, 0.3, 1])
TYPICAL = np.array([0.9, 0.99])


def overshoot(well: Well, method: str, rho: Any, part: Any, key: jax.Array) -> jax.Array:
    """How far x comes on the other side of the minimum, over the distance of the start."""
    make, iterate = METHODS[method]
    start = jax.random.uniform(key, (1,), minval=well.starts[0], maxval=well.starts[1])
    path = descend(well.fun, start, make(part / well.curvature, rho), 400)
    points = jax.vmap(iterate)(path.states, path.points)
    beyond = (well.minimizer - points) / (start - well.minimizer)
    return jnp.maximum(jnp.max(beyond), 0)


def overshoots(quick: bool) -> dict[str, Any]:
    """Momentum and Nesterov momentum with the same α and ρ, in three wells, from random starts.

    α is a part of 1/L, where L is the largest curvature between start and minimum. Measured over
    400 steps: how far x comes on the other side of the minimum, over the distance of the start.
    """
    keys = jax.random.split(jax.random.key(4), 20 if quick else 100)

    def measure(well, method):
        run = partial(overshoot, well, method)
        over_parts = jax.vmap(run, (None, 0, None))
        over_rhos = jax.vmap(over_parts, (0, None, None))
        return jax.jit(jax.vmap(over_rhos, (None, None, 0)))(TYPICAL, PARTS, keys)

    found = [[measure(well, name) for name in METHODS] for well in WELLS.values()]
    return {"part": PARTS, "rho": TYPICAL, "overshoot": np.moveaxis(np.array(found), 2, 0)}


def less_by_nesterov(numbers: Numbers) -> Verdict:
    """Holds for the wells and ρ with a lower overshoot by Nesterov at each of the rates."""
    found = numbers["overshoot"]
    lower = is_below(mean(found[:, :, 1] - found[:, :, 0]), 0).all(axis=-1)
    cases = (f"f is {name} and ρ = {rho:g}" for name in WELLS for rho in numbers["rho"])
    return by_case(cases, lower.ravel())


def overshoot_figure(numbers: Numbers) -> str:
    """The overshoots at the middle rate."""
    middle = len(numbers["part"]) // 2
    found = mean(numbers["overshoot"][..., middle])
    each = (
        f"{row[1, i]} against {row[0, i]} ({name}, ρ = {rho:g})"
        for name, row in zip(WELLS, found, strict=True)
        for i, rho in enumerate(numbers["rho"])
    )
    part = numbers["part"][middle]
    return f"overshoot of Nesterov against momentum with α = {part:g} / L: {', '.join(each)}"


def overshoot_picture(numbers: Numbers) -> Figure:
    """The overshoots over the rate, one panel for each well."""
    figure, panels = picture.new_picture(3, sharey=True)
    for i, (axes, name) in enumerate(zip(panels, WELLS, strict=True)):
        for j, method in enumerate(METHODS):
            for k, (rho, dash) in enumerate(zip(numbers["rho"], ("-", ":"), strict=True)):
                line = style.METHOD_STYLES[method]._replace(linestyle=dash)
                found = mean(numbers["overshoot"][:, i, j, k])
                picture.points(axes, numbers["part"], found, line, f"{method}, ρ = {rho:g}")
        axes.set(xscale="log", xlabel="α L", xlim=(0.006, 1.7), title=name)
        axes.set_xticks([0.01, 0.1, 1], ["0.01", "0.1", "1"])
    panels[0].set(ylabel="overshoot", ylim=(-0.05, 1.45))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    return figure


OVERSHOOT = Claim(
    name="nesterov-overshoot",
    section="7-1-3",
    statement="Nesterov momentum overshoots a minimum less than momentum does.",
    experiment=overshoots,
    verdict=less_by_nesterov,
    figure=overshoot_figure,
    draw=overshoot_picture,
)

# A good ρ. Also what the claims of AdaGrad need: problems, and steps to match tuned SGD.

Losses = Callable[[optax.GradientTransformation, jax.Array], jax.Array]


class Task(NamedTuple):
    """A problem with random starts, and the largest rate that is worth a try.

    ``losses(tx, key)`` are the losses above the minimum, at even distances up to the last step.
    """

    losses: Losses
    largest_rate: float


def quadratic(kappa: float, num_steps: int = 500, *, turned: bool = False) -> Losses:
    """Random quadratics in ten dimensions, along the axes or not, with curvatures from 1 to κ."""

    def losses(tx: optax.GradientTransformation, key: jax.Array) -> jax.Array:
        spread, turn, start = jax.random.split(key, 3)
        exponents = jax.random.uniform(spread, (10,)).at[:2].set(jnp.array([0, 1]))
        vectors = jnp.linalg.qr(jax.random.normal(turn, (10, 10)))[0] if turned else jnp.eye(10)

        def fun(x):
            return jnp.sum(kappa**exponents * (vectors.T @ x) ** 2) / 2

        return descend(fun, jax.random.normal(start, (10,)), tx, num_steps).values[1:]

    return losses


def valley(tx: optax.GradientTransformation, key: jax.Array) -> jax.Array:
    """Rosenbrock's function, 1000 steps from starts between -1.5 and 1.5."""
    start = jax.random.uniform(key, (2,), minval=-1.5, maxval=1.5)
    return descend(landscapes.rosenbrock(2).fun, start, tx, 1000).values[1:]


def digits(model: Model, minimum: float, num_epochs: int) -> Losses:
    """A model of the digits by random batches of 32.

    The loss is that on all examples, every eleven steps, four times per epoch.
    """

    def losses(tx: optax.GradientTransformation, key: jax.Array) -> jax.Array:
        start, order = jax.random.split(key)
        data, params = training_set(), model.init(start)

        def step(carry: Any, rows: jax.Array) -> Any:
            params, state = carry
            grads = jax.grad(model.loss)(params, rows_of(data, rows))
            updates, state = tx.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        def quarter(carry: Any, rows: jax.Array) -> Any:
            carry, _ = jax.lax.scan(step, carry, rows)
            return carry, model.loss(carry[0], data) - minimum

        shape = 4 * num_epochs, EPOCH // 4, BATCH_SIZE
        rows = jax.random.randint(order, shape, 0, len(data[0]))
        return jax.lax.scan(quarter, (params, tx.init(params)), rows)[1]

    return losses


def lowest(problem: landscapes.Landscape) -> float:
    """The minimum of a convex problem, by SciPy."""
    from scipy import optimize  # its import takes a second

    fun = jax.jit(jax.value_and_grad(problem.fun))
    return optimize.minimize(fun, problem.x0, jac=True, method="L-BFGS-B", tol=1e-9).fun


def steps_to(losses: Any, target: Any) -> np.ndarray:
    """The part of the steps until a loss is as low as the target; 1 if none is."""
    reached = np.asarray(losses) <= np.asarray(target)[..., None]
    first = (1 + reached.argmax(axis=-1)) / reached.shape[-1]
    return np.where(reached.any(axis=-1), first, 1)


def steps_to_match(losses: np.ndarray, num_tuning: int) -> tuple[np.ndarray, np.ndarray]:
    """The part of the steps that each method needs to come as low as the last loss of the first.

    All with their best rates: of the first method that with the least last loss, of the others
    those with the fewest steps, in the (geometric) mean of the first ``num_tuning`` repeats.

    Args:
      losses: (repeats, methods, rates, points).
      num_tuning: the repeats that are not in the result.

    Returns:
      (repeats - num_tuning, methods), and the numbers of the rates, (methods,).
    """
    logs = np.log(losses[:num_tuning, 0, :, -1]).mean(axis=0)
    first = np.nanargmin(np.where(np.isfinite(logs), logs, np.nan))
    steps = steps_to(losses, losses[:, 0, first, -1][:, None, None])
    best = steps[:num_tuning].mean(axis=0).argmin(axis=-1)
    best[0] = first
    return steps[num_tuning:, np.arange(len(best)), best], best


NUM_RATES, NUM_TUNING = 14, 3


def steps_with_each_rho(quick: bool) -> dict[str, Any]:
    """Six values of ρ, each with 14 rates of a ratio of 2, on quadratics, a valley and digits.

    500 or 1000 steps, and on the digits ten epochs by batches of 32 (with `--quick`, three). The
    best rate of SGD, ρ = 0, is that with the least last loss in three tuning seeds. That of another
    ρ is that with the fewest steps to come as low. Measured with other seeds: the steps until the
    loss is as low as SGD's last one, over all steps; 1 if it never is.
    """
    tasks = good_rho_tasks(num_epochs=3 if quick else 10)
    keys = jax.random.split(jax.random.key(5), NUM_TUNING + (3 if quick else 10))

    def measure(task):
        rates = task.largest_rate * 0.5 ** jnp.arange(NUM_RATES)

        def run(key):
            by_rate = jax.vmap(
                lambda rho, rate: task.losses(cs231n_optax.momentum(rate, rho), key), (None, 0)
            )
            return jax.vmap(by_rate, (0, None))(jnp.asarray(RHOS), rates)

        return steps_to_match(for_each(run, keys), NUM_TUNING)

    steps, best = zip(*(measure(task) for task in tasks.values()), strict=True)
    return {"rho": RHOS, "steps": np.stack(steps, axis=1), "best": np.stack(best)}


GOOD_RHO_TASKS = (
    "a quadratic, κ = 100",
    "a quadratic, κ = 10,000",
    "Rosenbrock's function",
    "softmax regression",
    "a perceptron",
)


def good_rho_tasks(num_epochs: int) -> dict[str, Task]:
    """The problems by name."""
    regression, perceptron = MODELS.values()
    tasks = (
        Task(quadratic(100), 4 / 100),
        Task(quadratic(10_000), 4 / 10_000),
        Task(valley, 4e-3),
        Task(digits(regression, lowest(regressions.softmax_regression(L2)), num_epochs), 8),
        Task(digits(perceptron, 0, num_epochs), 4),
    )
    return dict(zip(GOOD_RHO_TASKS, tasks, strict=True))


def typical_rho(numbers: Numbers) -> list[tuple[int, Any, Any]]:
    """For each problem the better of 0.9 and 0.99, its steps, and these over the fewest of all."""
    steps, rhos = numbers["steps"], numbers["rho"].tolist()
    typical, found = [rhos.index(rho) for rho in TYPICAL], []
    for i in range(steps.shape[1]):
        means = steps[:, i].mean(axis=0)
        better, best = min(typical, key=lambda j: means[j]), int(means.argmin())
        over = (ratio(steps[:, i, better], steps[:, i, j]) for j in (0, best))
        found.append((better, *over))
    return found


def is_good(numbers: Numbers) -> Verdict:
    """Holds for the problems on which the better of ρ = 0.9 and 0.99 is good.

    Good: its steps are below those of SGD, and below 1.5 times those of the best ρ.
    """
    held = [is_below(sgd, 1) & is_below(best, 1.5) for _, sgd, best in typical_rho(numbers)]
    return by_case((f"the problem is {name}" for name in GOOD_RHO_TASKS), held)


def good_rho_figure(numbers: Numbers) -> str:
    """For each problem the better one, and its steps."""
    rhos = numbers["rho"]
    each = (
        f"{sgd} with {rhos[better]:g} ({best} of the best ρ's) on {name}"
        for name, (better, sgd, best) in zip(GOOD_RHO_TASKS, typical_rho(numbers), strict=True)
    )
    return f"steps / SGD's with the better of ρ = 0.9 and 0.99: {', '.join(each)}"


def good_rho_picture(numbers: Numbers) -> Figure:
    """The steps over ρ."""
    figure, axes = picture.new_picture()
    places = np.arange(len(numbers["rho"]))
    for i, (name, line) in enumerate(zip(GOOD_RHO_TASKS, picture.SERIES, strict=False)):
        picture.points(axes, places, mean(numbers["steps"][:, i]), line, name)
    axes.set_xticks(places, ["0 (SGD)", *(f"{rho:g}" for rho in numbers["rho"][1:])])
    picture.log_axes(axes, "y")
    axes.set(xlabel="ρ", ylabel="steps to SGD's loss / all")
    style.legend(axes, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


GOOD_RHO = Claim(
    name="momentum-rho",
    section="7-1-3",
    statement="ρ = 0.9 or 0.99 is a good choice.",
    experiment=steps_with_each_rho,
    verdict=is_good,
    figure=good_rho_figure,
    draw=good_rho_picture,
)

CLAIMS = (LEAVES, TERMINAL, WEIGHTED_SUM, FORMS, OVERSHOOT, GOOD_RHO)
