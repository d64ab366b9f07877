"""Lecture 7-1-9: first and second order, and what the second order costs."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

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
    slope,
)
from cs231n_optax.lecture.claims.experiment import for_each_pair
from cs231n_optax.problems import landscapes, regressions


def newton_step() -> optax.GradientTransformationExtraArgs:
    """The lecture's update, x - H⁻¹ g."""
    whole = optax.chain(cs231n_optax.scale_by_newton(), optax.scale(-1.0))
    return optax.with_extra_args_support(whole)


# Newton's method without a learning rate.

CASES = (
    "f is a quadratic",
    "f is logistic regression, from near 0",
    "f is logistic regression, from afar",
    "f is Rosenbrock's function",
    "f is Himmelblau's function",
)


def problems() -> list[tuple[landscapes.Landscape, list[float]]]:
    """The functions of the cases, and the standard deviations of the starts."""
    return [
        (landscapes.taco_shell(100.0), [2]),
        (regressions.logistic_regression(1e-2), [0.1, 2]),
        (landscapes.rosenbrock(2), [2]),
        (landscapes.himmelblau(), [2]),
    ]


def newton_successes(quick: bool) -> dict[str, Any]:
    """Newton's method from random starts, with the whole step and in a trust region.

    A start is normal, with a standard deviation of 2 in each coordinate, or of 0.1 near 0. Counted:
    the runs that end at a minimum, with no negative eigenvalue of the Hessian, within 100
    evaluations.
    """
    methods = newton_step(), cs231n_optax.newton()
    keys = jax.random.split(jax.random.key(0), 10 if quick else 60)

    def reaches(problem, key, scale):
        start = scale * jax.random.normal(key, (len(problem.x0),))
        reached = []
        for method in methods:
            found = cs231n_optax.minimize(problem.fun, start, method, max_evals=100)
            hessian = cs231n_optax.hessian_matrix(problem.fun, found.params)
            convex = jnp.linalg.eigvalsh(hessian)[0] >= -1e-4
            reached.append(convex & (found.status == cs231n_optax.Status.CONVERGED))
        return jnp.stack(reached)

    found = [
        for_each_pair(partial(reaches, problem), keys, jnp.array(scales))
        for problem, scales in problems()
    ]
    return {"reached": np.concatenate(found, axis=1)}


def always_reaches(numbers: Numbers) -> Verdict:
    """Holds for the functions on which whole steps reach a minimum in above 0.9 of the runs."""
    return by_case(CASES, is_above(mean(numbers["reached"])[:, 0], 0.9))


def newton_figure(numbers: Numbers) -> str:
    """The shares."""
    shares = zip(CASES, mean(numbers["reached"]), strict=True)
    each = (f"{whole} where {name} (in a trust region {safe})" for name, (whole, safe) in shares)
    return f"share of the runs that reach a minimum: {', '.join(each)}"


def newton_picture(numbers: Numbers) -> Figure:
    """Two bars for each function."""
    figure, axes = picture.new_picture()
    shares, rows = mean(numbers["reached"]), np.arange(len(CASES))
    for i, (label, color) in enumerate(
        [("whole steps", style.BLUE), ("in a trust region", style.VERMILION)]
    ):
        place, bar = rows + 0.4 * i - 0.2, shares[:, i]
        axes.barh(place, bar.value, 0.36, xerr=bar.error, color=color, capsize=3, label=label)
    axes.set_yticks(rows, [name.removeprefix("f is ") for name in CASES])
    axes.invert_yaxis()
    axes.set(xlabel="share of the runs that reach a minimum", xlim=(0, 1.02))
    style.legend(axes, loc="lower center", bbox_to_anchor=(0.4, 1), ncols=2)
    return figure


NO_LEARNING_RATE = Claim(
    name="newton-learning-rate",
    section="7-1-9",
    statement="Newton's method needs no learning rate.",
    experiment=newton_successes,
    verdict=always_reaches,
    figure=newton_figure,
    draw=newton_picture,
)

# One step on a quadratic.


def distances_after_one_step(quick: bool) -> dict[str, Any]:
    """One step of Newton's method on random quadratics in ten dimensions, in float32.

    The eigenvalues are log-uniform from 1 to κ and the eigenvectors, the minimum and the start
    random. Measured: the distance to the minimum after the step over that before.
    """
    kappas = 10.0 ** np.arange(1, 8)
    keys = jax.random.split(jax.random.key(1), 20 if quick else 100)

    def part_left(kappa, key):
        spread, turn, ends = jax.random.split(key, 3)
        exponents = jax.random.uniform(spread, (10,)).at[:2].set(jnp.array([0, 1]))
        vectors = jnp.linalg.qr(jax.random.normal(turn, (10, 10)))[0]
        start, minimum = jax.random.normal(ends, (2, 10))

        def quadratic(x):
            return jnp.sum(kappa**exponents * (vectors.T @ (x - minimum)) ** 2) / 2

        tx = newton_step()
        step: Any
        step, _ = tx.update(jax.grad(quadratic)(start), tx.init(start), start, value_fn=quadratic)
        return jnp.linalg.norm(start + step - minimum) / jnp.linalg.norm(start - minimum)

    over_kappas = jax.vmap(part_left, (0, None))
    return {"kappa": kappas, "left": jax.jit(jax.vmap(over_kappas, (None, 0)))(kappas, keys)}


def arrives(numbers: Numbers) -> Verdict:
    """Holds for the condition numbers at which below a hundredth of the distance is left."""
    return by_value(
        "the condition number κ, in float32,",
        numbers["kappa"],
        is_below(mean(numbers["left"]), 0.01),
    )


def one_step_figure(numbers: Numbers) -> str:
    """The parts at both ends and between."""
    rows = list(zip(numbers["kappa"], mean(numbers["left"]), strict=True))
    each = (f"{left} for κ = {kappa:.0e}" for kappa, left in rows[::3])
    return f"part of the distance left after one step: {', '.join(each)}"


def one_step_picture(numbers: Numbers) -> Figure:
    """The part over κ."""
    figure, axes = picture.new_picture()
    left = mean(numbers["left"])
    picture.points(axes, numbers["kappa"], left, style.METHOD_STYLES["newton"], "after one step")
    picture.target(axes, 0.01, "a hundredth of the distance")
    axes.set(xscale="log", yscale="log")
    axes.set(xlabel="condition number κ", ylabel="part of the distance left")
    style.legend(axes, loc="lower right")
    return figure


ONE_STEP = Claim(
    name="newton-one-step",
    section="7-1-9",
    statement="On a quadratic, Newton's method reaches the minimum in one step.",
    experiment=distances_after_one_step,
    verdict=arrives,
    figure=one_step_figure,
    draw=one_step_picture,
)

# What an update costs.


class Call(NamedTuple):
    """An update of a method, and what to call it with in turns."""

    tx: optax.GradientTransformationExtraArgs
    points: tuple[jax.Array, ...]
    grads: tuple[jax.Array, ...]
    extra: dict[str, jax.Array]


def make_call(make: Callable[[], optax.GradientTransformation], n: int, **extra: Any) -> Call:
    """Updates at two points of a convex quadratic of n parameters."""
    points = tuple(jax.random.normal(jax.random.key(n), (2, n)))
    grads = tuple(jnp.linspace(1, 2, n) * x for x in points)
    return Call(optax.with_extra_args_support(make()), points, grads, extra)


def newton_call(n: int) -> Call:
    """The lecture's update for a given Hessian, by an LU decomposition."""
    return make_call(newton_step, n, hessian=jnp.diag(jnp.linspace(1, 2, n)) + 1 / n)


def compiled(call: Call) -> Any:
    """The update as one program, which reuses the memory of the state."""

    def update(grads, state, params, extra):
        return call.tx.update(grads, state, params, **extra)

    state = call.tx.init(call.points[0])
    inputs = call.grads[0], state, call.points[0], call.extra
    return jax.jit(update, donate_argnums=1).lower(*inputs).compile()


def planned_bytes(program: Any) -> int:
    """The memory that XLA plans for a call: arguments, results and temporaries."""
    plan = program.memory_analysis()
    sizes = plan.argument_size_in_bytes, plan.output_size_in_bytes, plan.temp_size_in_bytes
    return sum(sizes) - plan.alias_size_in_bytes


def costs(calls: Sequence[Call], repeats: int) -> tuple[np.ndarray, np.ndarray]:
    """The seconds and the bytes of each call, (repeats, calls).

    The seconds are those of the processor, on all cores, so that other programs count little. The
    calls take turns; a time is the shortest of four or more, a tenth of a second in all, after two
    that are not counted. The bytes are the same in each repeat.
    """
    programs = [compiled(call) for call in calls]

    def seconds(program, call):
        times, state = [], call.tx.init(call.points[0])
        while len(times) < 6 or sum(times) < 0.1:
            i, start = len(times) % 2, time.process_time()
            updates, state = program(call.grads[i], state, call.points[i], call.extra)
            jax.block_until_ready(updates)
            times.append(time.process_time() - start)
        return min(times[2:])

    # LAPACK's threads would wait for each other in busy loops, which count.
    with threadpool_limits(1):
        rows = [
            [seconds(program, call) for program, call in zip(programs, calls, strict=True)]
            for _ in range(repeats)
        ]
    return np.array(rows), np.tile([planned_bytes(program) for program in programs], (repeats, 1))


def grows_with(numbers: Numbers, exponent: int, tolerance: float) -> Verdict:
    """Holds from the size on from which all fitted exponents are within the tolerance."""
    sizes, cost = numbers["size"], numbers["cost"]
    fits = [slope(sizes[i:], cost[:, i:]) for i in range(len(sizes) - 1)]
    near = [bool(is_within(fit, exponent, tolerance)) for fit in fits]
    return by_value(
        "the number of parameters N", sizes[:-1], [all(near[i:]) for i in range(len(near))]
    )


def cost_figure(numbers: Numbers, what: str) -> str:
    """The exponent over all sizes, and the cost of the largest."""
    sizes = numbers["size"]
    fit, last = slope(sizes, numbers["cost"]), mean(numbers["cost"])[-1]
    span = f"from N = {sizes[0]:g} to {sizes[-1]:g}"
    name, unit = what.split(", ")
    return f"{name} ∝ N^p with p = {fit} {span}, where it is {last} {unit}"


def cost_picture(numbers: Numbers, method: str, label: str, exponent: int, what: str) -> Figure:
    """The cost over N, with a line of the claimed slope through the largest."""
    figure, axes = picture.new_picture()
    sizes, cost = numbers["size"], mean(numbers["cost"])
    picture.points(axes, sizes, cost, style.METHOD_STYLES[method], label)
    claimed = cost.value[-1] * (sizes / sizes[-1]) ** exponent
    law = f"∝ N{'²' if exponent == 2 else '³'}"
    axes.plot(sizes, claimed, color="black", linestyle=":", linewidth=1, label=law)
    picture.log_axes(axes, "y")
    picture.log_axis_of(axes, sizes)
    axes.set(xlabel="parameters N", ylabel=what)
    style.legend(axes, loc="upper left")
    return figure


def newton_bytes(quick: bool) -> dict[str, Any]:
    """The memory that XLA plans for an update by the lecture's formula, the Hessian included."""
    del quick  # nothing is run
    sizes = np.array([256, 512, 1024, 2048])
    planned = [planned_bytes(compiled(newton_call(n))) for n in sizes.tolist()]
    return {"size": sizes, "cost": np.tile(np.array(planned) / 2**20, (2, 1))}


def quadratic_memory(numbers: Numbers) -> Verdict:
    """Holds from the N on from which all fitted exponents are within 0.1 of 2."""
    return grows_with(numbers, 2, 0.1)


NEWTON_MEMORY = Claim(
    name="newton-memory",
    section="7-1-9",
    statement="The Hessian takes O(N²) memory.",
    experiment=newton_bytes,
    verdict=quadratic_memory,
    figure=lambda numbers: cost_figure(numbers, "memory, MiB"),
    draw=lambda numbers: cost_picture(numbers, "newton", "Newton", 2, "memory, MiB"),
)


def newton_seconds(quick: bool) -> dict[str, Any]:
    """The time of an update by the lecture's formula for a given Hessian.

    The processor's time on one core, the shortest of some calls; the sizes take turns.
    """
    sizes = np.array([256, 512, 1024, 2048])
    calls = [newton_call(n) for n in sizes.tolist()]
    return {"size": sizes, "cost": costs(calls, 3 if quick else 10)[0] * 1e3}


def cubic_time(numbers: Numbers) -> Verdict:
    """Holds from the N on from which all fitted exponents are within 0.5 of 3."""
    return grows_with(numbers, 3, 0.5)


NEWTON_TIME = Claim(
    name="newton-time",
    section="7-1-9",
    statement="To solve with the Hessian takes O(N³) time.",
    experiment=newton_seconds,
    verdict=cubic_time,
    figure=lambda numbers: cost_figure(numbers, "time, ms"),
    draw=lambda numbers: cost_picture(numbers, "newton", "Newton", 3, "time, ms"),
)


def bfgs_seconds(quick: bool) -> dict[str, Any]:
    """The time of an update of the dense inverse Hessian by `scale_by_bfgs`.

    For N with matrices that do not fit in the caches. The processor's time on all cores, the
    shortest of some calls; the sizes take turns.
    """
    sizes = np.array([3072, 4096, 6144])
    calls = [make_call(cs231n_optax.scale_by_bfgs, n) for n in sizes.tolist()]
    return {"size": sizes, "cost": costs(calls, 3 if quick else 10)[0] * 1e3}


def quadratic_time(numbers: Numbers) -> Verdict:
    """Holds from the N on from which all fitted exponents are within 0.5 of 2."""
    return grows_with(numbers, 2, 0.5)


BFGS_TIME = Claim(
    name="bfgs-time",
    section="7-1-9",
    statement="An update of a quasi-Newton method takes O(N²) time.",
    experiment=bfgs_seconds,
    verdict=quadratic_time,
    figure=lambda numbers: cost_figure(numbers, "time, ms"),
    draw=lambda numbers: cost_picture(numbers, "bfgs", "BFGS", 2, "time, ms"),
)

# L-BFGS: O(m N).

LBFGS_COSTS = "time over N", "memory over N", "time over m", "memory over m"


def lbfgs_costs(quick: bool) -> dict[str, Any]:
    """The time and the memory of an update of `scale_by_lbfgs`.

    Over N for m = 16 pairs, and over m for N = 131,072. The processor's time on all cores, the
    shortest of some calls; the sizes take turns.
    """
    doublings = 2 ** np.arange(3 if quick else 4)
    sizes, pairs = 2**17 * doublings, 8 * doublings
    by_pairs, repeats = cs231n_optax.scale_by_lbfgs, 3 if quick else 10

    def call(m, n):
        return make_call(lambda: by_pairs(int(m)), int(n))

    over_n = costs([call(16, n) for n in sizes], repeats)
    over_m = costs([call(m, 2**17) for m in pairs], repeats)
    return {"size": sizes, "pairs": pairs, "cost": np.stack([*over_n, *over_m], axis=1)}


def lbfgs_exponents(numbers: Numbers) -> list[Estimate]:
    """The exponents of the four costs."""
    sizes = [numbers["size"]] * 2 + [numbers["pairs"]] * 2
    return [slope(x, numbers["cost"][:, i]) for i, x in enumerate(sizes)]


def linear(numbers: Numbers) -> Verdict:
    """Holds for the costs with an exponent below 1.5, as O(m N) is an upper bound."""
    cases = (f"the cost is the {name}" for name in LBFGS_COSTS)
    return by_case(cases, [is_below(fit, 1.5) for fit in lbfgs_exponents(numbers)])


def lbfgs_figure(numbers: Numbers) -> str:
    """The exponents."""
    fits = zip(LBFGS_COSTS, lbfgs_exponents(numbers), strict=True)
    return f"fitted exponents: {', '.join(f'{name} {fit}' for name, fit in fits)}"


def lbfgs_picture(numbers: Numbers) -> Figure:
    """The four costs, relative to the first."""
    figure, panels = picture.new_picture(2, sharey=True)
    for axes, sizes, cost, label in (
        (panels[0], numbers["size"], numbers["cost"][:, :2], "parameters N"),
        (panels[1], numbers["pairs"], numbers["cost"][:, 2:], "pairs m"),
    ):
        for i, name in enumerate(("time", "memory")):
            relative = mean(cost[:, i] / cost[:, i, :1].mean())
            picture.points(axes, sizes / sizes[0], relative, picture.SERIES[i], name)
        axes.plot(
            sizes / sizes[0], sizes / sizes[0], ":", color="black", linewidth=1, label="linear"
        )
        picture.log_axes(axes)
        axes.set(xlabel=f"{label} / {sizes[0]:g}")
    panels[0].set(ylabel="cost / the first")
    style.legend(panels[0], loc="upper left")
    return figure


LBFGS_COST = Claim(
    name="lbfgs-cost",
    section="7-1-9",
    statement="L-BFGS takes O(m N) time and memory, and never forms the inverse Hessian.",
    experiment=lbfgs_costs,
    verdict=linear,
    figure=lbfgs_figure,
    draw=lbfgs_picture,
)

CLAIMS = (NO_LEARNING_RATE, ONE_STEP, NEWTON_MEMORY, NEWTON_TIME, BFGS_TIME, LBFGS_COST)
