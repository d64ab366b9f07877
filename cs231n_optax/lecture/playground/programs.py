"""The programs of the playground: landscapes, decays, and one step of every method.

A step of the loop is a landscape's value and gradient, ``tx.update`` and ``apply_updates``. The
landscape and the method are translated one by one, so that the size of the page is their sum.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import cs231n_optax
from cs231n_optax.experiments.catalog import DECAYS, METHODS
from cs231n_optax.lecture import landscapes as curves
from cs231n_optax.lecture.playground.translate import translate
from cs231n_optax.problems import landscapes

Numbers = Mapping[str, Any]


class Slider(NamedTuple):
    """A number that the reader may change: its name, symbol, range and default."""

    name: str
    symbol: str
    low: float
    high: float
    default: float
    is_log: bool = False


class Landscape(NamedTuple):
    """A function of two variables, and how it is shown.

    Attributes:
      title: its name on the page.
      fun: of a point (2,) and the numbers of its sliders.
      sliders: its parameters.
      start: the usual start.
      window: left, right, bottom, top of the map.
      minimizers: (k, 2), all global minimisers.
      minimum: the value there.
      rates: the tuned learning rate of each first-order method.
      rescaled: methods whose tuned rate belongs to the default κ, and is multiplied by
        (1 + default κ) / (1 + κ) at another, as the best rate of SGD on a quadratic, 2 / (1 + κ).
    """

    title: str
    fun: Callable[..., jax.Array]
    sliders: tuple[Slider, ...]
    start: tuple[float, float]
    window: tuple[float, float, float, float]
    minimizers: np.ndarray
    minimum: float
    rates: Mapping[str, float]
    rescaled: tuple[str, ...] = ()


class Arrow(NamedTuple):
    """A vector to be drawn: from a point, by a displacement; arrays (2,)."""

    origin: Any
    delta: Any


class Step(NamedTuple):
    """One update, as the drawing functions see it.

    Attributes:
      numbers: the hyperparameters.
      point, grads: where the gradient was evaluated, and the gradient.
      before, after: the states before and after the update.
      updates: the step to the next point.
    """

    numbers: Numbers
    point: Any
    grads: Any
    before: Any
    after: Any
    updates: Any


class Method(NamedTuple):
    """A method, and what is drawn of it.

    Attributes:
      title: its name on the page.
      rule: its formula, in a line.
      make: the transformation, from the numbers of its sliders.
      sliders: its hyperparameters.
      arrows: the vectors of a step by label.
      scale: the effective learning rate of each coordinate, (2,), if the method has one.
      radius: the radius of the trust region, if the method has one.
      needs_hessian: whether ``update`` takes the Hessian.
    """

    title: str
    rule: str
    make: Callable[[Numbers], optax.GradientTransformation]
    sliders: tuple[Slider, ...]
    arrows: Callable[[Step], dict[str, Arrow]]
    scale: Callable[[Step], Any] | None = None
    radius: Callable[[Step], Any] | None = None
    needs_hessian: bool = False


# Landscapes


def _on_a_line(curve: Callable[..., jax.Array], point: Any) -> jax.Array:
    """A curve of 7-1-2 B along x, in a valley: f(x) + y²."""
    return curve(point[0]) + point[1] ** 2


def _landscape(
    of: landscapes.Landscape, title: str, start: tuple[float, float], window: Any, rates: Numbers
) -> Landscape:
    return Landscape(title, of.fun, (), start, window, of.minimizers, of.minimum, rates)


FIRST_ORDER = tuple(METHODS)


def _rates(*rates: float) -> dict[str, float]:
    return dict(zip(FIRST_ORDER, rates, strict=True))


KAPPA = Slider("kappa", "κ", 1, 200, 25, is_log=True)

# The rates are the best of 1, 1.5, 2, 3, 5, 7 in each decade from 1e-4 to 2: the least mean of
# log₁₀ (f - f*) over 200 steps from the start, with all else at its default.
LANDSCAPES = {
    "taco-shell": Landscape(
        "Taco shell",
        lambda point, kappa: landscapes.taco_shell(kappa).fun(point),
        (KAPPA,),
        (-9.0, 1.6),
        (-10.5, 3.5, -4, 4),
        np.zeros((1, 2)),
        0.0,
        _rates(0.07, 0.03, 0.05, 2, 0.2, 0.3, 1.5),
        rescaled=("sgd", "momentum", "nesterov"),
    ),
    "saddle": _landscape(
        landscapes.saddle(),
        "Saddle",
        (-1.5, 0.02),
        (-2.4, 2.4, -2.1, 2.1),
        _rates(0.3, 0.2, 0.2, 1, 0.07, 0.15, 1),
    ),
    "rosenbrock": _landscape(
        landscapes.rosenbrock(),
        "Rosenbrock",
        (-1.2, 1.0),
        (-2, 2, -1, 3),
        _rates(5e-3, 3e-3, 1.5e-3, 2, 0.7, 0.15, 0.5),
    ),
    "beale": _landscape(
        landscapes.beale(),
        "Beale",
        (1.0, 1.0),
        (-1, 4.5, -1.5, 2),
        _rates(0.05, 0.015, 5e-3, 1, 0.05, 0.07, 0.3),
    ),
    "himmelblau": _landscape(
        landscapes.himmelblau(),
        "Himmelblau",
        (0.0, 0.0),
        (-5, 5, -5, 5),
        _rates(0.02, 0.015, 0.015, 2, 0.07, 0.3, 1.5),
    ),
    "local-minimum": Landscape(
        "Local minimum",
        partial(_on_a_line, curves.local_minimum),
        (),
        (-1.9, 0.8),
        (-2.4, 3.2, -2, 2),
        np.array([[2.0, 0.0]]),
        -8 / 3,
        _rates(0.3, 0.07, 0.2, 2, 0.7, 0.2, 1),
    ),
    "plateau": Landscape(
        "Plateau",
        partial(_on_a_line, curves.plateau),
        (),
        (-0.9, 0.8),
        (-1.6, 3, -1.7, 1.7),
        np.array([[2.0, 0.0]]),
        -4 / 3,
        _rates(0.5, 0.15, 0.3, 1, 0.3, 0.1, 0.7),
    ),
}


# Decays. The numbers suit 200 steps.

_EVERY = Slider("every", "every", 5, 200, 50)
_FACTOR = Slider("factor", "factor", 0.05, 1, 0.5)
DECAY_TITLES = {
    "constant": "constant",
    "step": "step: α · factor^⌊t / every⌋",
    "exponential": "exponential: α exp(−kt)",
    "inverse-time": "1/t: α / (1 + kt)",
    "cyclic-cosine": "cosine cycles (7-1-11)",
}
DECAY_SLIDERS: dict[str, tuple[Slider, ...]] = {
    "constant": (),
    "step": (_EVERY, _FACTOR),
    "exponential": (Slider("rate", "k", 1e-4, 0.5, 0.02, is_log=True),),
    "inverse-time": (Slider("rate", "k", 1e-4, 5, 0.05, is_log=True),),
    "cyclic-cosine": (Slider("cycle_length", "C", 5, 200, 50),),
}

# Methods


def _named(make: Callable[..., Any], *names: str) -> Callable[[Numbers], Any]:
    return lambda numbers: make(**{name: numbers[name] for name in names})


def _searching(make: Callable[..., Any], *names: str) -> Callable[[Numbers], Any]:
    """A method with a Wolfe search, from the numbers of `SEARCH` and others by name."""

    def method(numbers: Numbers) -> Any:
        search = cs231n_optax.wolfe(c1=numbers["c1"], c2=numbers["c2"])
        others = {name: numbers[name] for name in ("tol", *names)}
        return make(search=search, **others)

    return method


def _find(state: Any, name: str) -> Any:
    return optax.tree.get(state, name)


def _sgd_arrows(step: Step) -> dict[str, Arrow]:
    return {"step, −αg": Arrow(step.point, step.updates)}


def _momentum_arrows(step: Step) -> dict[str, Arrow]:
    rate, rho = step.numbers["learning_rate"], step.numbers["rho"]
    velocity = -rate * rho * _find(step.before, "velocity")
    return {
        "velocity, −αρv": Arrow(step.point, velocity),
        "gradient, −αg": Arrow(step.point, -rate * step.grads),
        "step": Arrow(step.point, step.updates),
    }


def _nesterov_arrows(step: Step) -> dict[str, Arrow]:
    """Between the iterates x = x̃ - ρ v."""
    start = cs231n_optax.nesterov_iterate(step.before, step.point)
    after: Any = step.point + step.updates
    end = cs231n_optax.nesterov_iterate(step.after, after)
    gradient = -step.numbers["learning_rate"] * step.grads
    return {
        "velocity, ρv": Arrow(start, _find(step.before, "look_ahead")),
        "gradient there, −αg(x+ρv)": Arrow(step.point, gradient),
        "step": Arrow(start, jax.tree.map(jnp.subtract, end, start)),
    }


def _adaptive_arrows(step: Step) -> dict[str, Arrow]:
    rate = step.numbers["learning_rate"]
    return {
        "gradient, −g scaled": Arrow(
            step.point, -rate * step.grads / (jnp.max(jnp.abs(step.grads)) + 1e-30)
        ),
        "step": Arrow(step.point, step.updates),
    }


def _moment_scale(step: Step) -> Any:
    second = _find(step.after, "grad_squared")
    return step.numbers["learning_rate"] / (jnp.sqrt(second) + step.numbers["eps"])


def _adam_scale(correct: bool, step: Step) -> Any:
    second, b2 = _find(step.after, "second_moment"), step.numbers["b2"]
    if correct:
        second = second / (1 - b2 ** jnp.asarray(_find(step.after, "count"), float))
    return step.numbers["learning_rate"] / (jnp.sqrt(second) + step.numbers["eps"])


TRIAL_GRADIENT = "trial step, −tg"


def _line_arrows(label: str, step: Step) -> dict[str, Arrow]:
    """The line of the search, and steepest descent of the same length."""
    anchor = cs231n_optax.accepted_params(step.after)
    along = step.after.search_state.step * step.after.direction
    grads = step.after.trial.grad
    size = jnp.linalg.norm(along) / jnp.maximum(jnp.linalg.norm(grads), 1e-300)
    steepest = {"steepest descent": Arrow(anchor, -size * grads)}
    return {label: Arrow(anchor, along)} | (steepest if label != TRIAL_GRADIENT else {})


def _region_arrows(step: Step) -> dict[str, Arrow]:
    return {
        "trial step": Arrow(cs231n_optax.accepted_params(step.after), step.after.step),
    }


def _radius(step: Step) -> Any:
    return step.after.region.radius


ALPHA = Slider("learning_rate", "α", 1e-4, 2, 0.1, is_log=True)
RHO = Slider("rho", "ρ", 0, 0.99, 0.9)
EPS = Slider("eps", "ε", 1e-8, 1, 1e-7, is_log=True)
B1, B2 = Slider("b1", "β₁", 0, 0.99, 0.9), Slider("b2", "β₂", 0.5, 0.9999, 0.999)
TOL = Slider("tol", "tol", 1e-12, 1e-2, 1e-8, is_log=True)
SEARCH = (
    Slider("c1", "c₁", 1e-6, 0.5, 1e-4, is_log=True),
    Slider("c2", "c₂", 0.1, 0.99, 0.7),
    TOL,
)
_ADAM = (ALPHA, B1, B2, EPS)
_ADAM_NAMES = ("learning_rate", "b1", "b2", "eps")

PROGRAMS = {
    "sgd": Method(
        "SGD",
        "x ← x − αg",
        _named(METHODS["sgd"], "learning_rate"),
        (ALPHA,),
        _sgd_arrows,
    ),
    "momentum": Method(
        "Momentum",
        "v ← ρv + g;  x ← x − αv",
        _named(METHODS["momentum"], "learning_rate", "rho"),
        (ALPHA, RHO),
        _momentum_arrows,
    ),
    "nesterov": Method(
        "Nesterov",
        "v′ = ρv − αg(x + ρv);  x ← x + v′",
        _named(METHODS["nesterov"], "learning_rate", "rho"),
        (ALPHA, RHO),
        _nesterov_arrows,
    ),
    "adagrad": Method(
        "AdaGrad",
        "s ← s + g²;  x ← x − αg / (√s + ε)",
        _named(METHODS["adagrad"], "learning_rate", "eps"),
        (ALPHA, EPS),
        _adaptive_arrows,
        scale=_moment_scale,
    ),
    "rmsprop": Method(
        "RMSProp",
        "s ← βs + (1−β)g²;  x ← x − αg / (√s + ε)",
        _named(METHODS["rmsprop"], "learning_rate", "decay", "eps"),
        (ALPHA, Slider("decay", "β", 0, 0.999, 0.9), EPS),
        _adaptive_arrows,
        scale=_moment_scale,
    ),
    "adam-uncorrected": Method(
        "Adam, uncorrected",
        "m ← β₁m + (1−β₁)g;  s ← β₂s + (1−β₂)g²;  x ← x − αm / (√s + ε)",
        _named(METHODS["adam-uncorrected"], *_ADAM_NAMES),
        _ADAM,
        _adaptive_arrows,
        scale=partial(_adam_scale, False),
    ),
    "adam": Method(
        "Adam",
        "m and s as without the correction;  x ← x − α m/(1−β₁ᵗ) / (√(s/(1−β₂ᵗ)) + ε)",
        _named(METHODS["adam"], *_ADAM_NAMES),
        _ADAM,
        _adaptive_arrows,
        scale=partial(_adam_scale, True),
    ),
    "gd": Method(
        "Gradient descent",
        "x ← x − tg, with t from a Wolfe search",
        _searching(partial(cs231n_optax.with_line_search, optax.identity())),
        SEARCH,
        partial(_line_arrows, TRIAL_GRADIENT),
    ),
    "bfgs": Method(
        "BFGS",
        "x ← x − tHg, with H ≈ the inverse Hessian, from all steps",
        _searching(cs231n_optax.bfgs, "damping"),
        (*SEARCH, Slider("damping", "damping μ", 0, 0.9, 0)),
        partial(_line_arrows, "trial step, −tHg"),
    ),
    "lbfgs": Method(
        "L-BFGS",
        "x ← x − tHg, with H from the last 15 steps, never formed",
        _searching(cs231n_optax.lbfgs),
        SEARCH,
        partial(_line_arrows, "trial step, −tHg"),
    ),
    "lbfgs-1": Method(
        "L-BFGS with one pair",
        "x ← x − tHg, with H from the last step alone",
        _searching(partial(cs231n_optax.lbfgs, 1)),
        SEARCH,
        partial(_line_arrows, "trial step, −tHg"),
    ),
    "newton": Method(
        "Newton",
        "x ← x + p,  p = argmin g·p + ½ p·Hp,  ‖p‖ ≤ Δ",
        _named(cs231n_optax.newton, "tol"),
        (TOL,),
        _region_arrows,
        radius=_radius,
        needs_hessian=True,
    ),
    "newton-cg": Method(
        "Newton-CG",
        "x ← x + p,  Hp = −g by conjugate gradients from products Hv,  ‖p‖ ≤ Δ",
        _named(cs231n_optax.newton_cg, "tol"),
        (TOL,),
        _region_arrows,
        radius=_radius,
        needs_hessian=True,
    ),
}


# Translations

_POINT = jax.ShapeDtypeStruct((2,), np.float64)
_NUMBER = jax.ShapeDtypeStruct((), np.float64)
_HESSIAN = jax.ShapeDtypeStruct((2, 2), np.float64)
_COUNT = jax.ShapeDtypeStruct((), np.int32)


def landscape_program(landscape: Landscape) -> dict[str, str]:
    """``evaluate(x, ...sliders) -> [value, gradient]`` and ``hessian(x, ...sliders)``."""
    numbers = [_NUMBER for _ in landscape.sliders]

    def hessian(point: Any, *numbers: Any) -> Any:
        return cs231n_optax.hessian_matrix(lambda x: landscape.fun(x, *numbers), point)

    evaluate = jax.value_and_grad(landscape.fun)
    return {
        "evaluate": translate("evaluate", evaluate, _POINT, *numbers),
        "hessian": translate("hessian", hessian, _POINT, *numbers),
    }


def decay_program(name: str) -> str:
    """``rate(α, t, ...parameters)``: the learning rate of a decay at a step."""
    names = [slider.name for slider in DECAY_SLIDERS[name]]

    def rate(alpha: Any, count: Any, *parameters: Any) -> Any:
        schedule = DECAYS[name].schedule(alpha, **dict(zip(names, parameters, strict=True)))
        return jnp.asarray(schedule(count), float)

    return translate("rate", rate, _NUMBER, _COUNT, *[_NUMBER for _ in names])


class Output(NamedTuple):
    """What a step returns, but for the new state.

    Attributes:
      point: the next point to evaluate.
      accepted: whether the point of this step is accepted.
      status: of the run.
      anchor: the last accepted point.
      scale, radius: see `Method`; None where there is none.
      arrows: see `Method`.
    """

    point: Any
    accepted: Any
    status: Any
    anchor: Any
    scale: Any
    radius: Any
    arrows: dict[str, Arrow]


def take_step(
    method: Method, numbers: Numbers, point: Any, value: Any, grads: Any, hessian: Any, state: Any
) -> tuple[Output, Any]:
    """``tx.update`` and ``apply_updates``, and what is drawn of the step."""
    tx = optax.with_extra_args_support(method.make(numbers))
    keywords = {}
    if method.needs_hessian:
        # Newton-CG takes products with the Hessian from an objective: that of the quadratic model.
        keywords = {
            "hessian": hessian,
            "value_fn": lambda x: jnp.vdot(x - point, hessian @ (x - point)) / 2,
        }
    updates, new = tx.update(grads, state, point, value=value, **keywords)
    after = optax.apply_updates(point, updates)
    has_trial = bool(optax.tree.get_all_with_path(new, "trial"))
    step = Step(numbers, point, grads, state, new, updates)
    output = Output(
        point=after,
        accepted=cs231n_optax.accepted(new),
        status=cs231n_optax.status(new) if has_trial else jnp.int32(0),
        anchor=cs231n_optax.accepted_params(new) if has_trial else point,
        scale=method.scale(step) if method.scale else None,
        radius=method.radius(step) if method.radius else None,
        arrows=method.arrows(step),
    )
    return output, new


def method_program(method: Method) -> dict[str, Any]:
    """``init(x)`` and ``step``, and where the parts of what ``step`` returns lie.

    ``step(x, value, gradient, hessian, [...numbers], ...state)`` returns the leaves of `Output`,
    then those of the new state.
    """
    names = [slider.name for slider in method.sliders]
    state = jax.eval_shape(init_of(method), _POINT)

    def step(point: Any, value: Any, grads: Any, hessian: Any, *rest: Any) -> Any:
        numbers = dict(zip(names, rest, strict=False))
        state = jax.tree.unflatten(structure, rest[len(names) :])
        return take_step(method, numbers, point, value, grads, hessian, state)

    leaves, structure = jax.tree.flatten(state)
    arguments = _POINT, _NUMBER, _POINT, _HESSIAN, *[_NUMBER for _ in names], *leaves
    output, _ = jax.eval_shape(step, *arguments)
    return {
        "init": translate("init", init_of(method), _POINT),
        "step": translate("step", step, *arguments),
        "hasScale": output.scale is not None,
        "hasRadius": output.radius is not None,
        "arrows": list(output.arrows),
    }


def init_of(method: Method) -> Callable[[Any], Any]:
    """``init`` of a method, which does not depend on its numbers."""
    return method.make({slider.name: slider.default for slider in method.sliders}).init
