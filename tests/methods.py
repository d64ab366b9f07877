"""The table of methods: one row per transformation, and all that the contract needs to know of it.

The oracles are transcriptions in NumPy of the lecture's listings for the first-order methods, with
the corrections that DESIGN gives. Each takes the hyperparameters and returns a step: gradient in,
update out, with the state in the closure.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import optax

import cs231n_optax
from cs231n_optax import testing


class Method(NamedTuple):
    """A row.

    Attributes:
      name: of the row.
      make: the factory.
      hyperparams: the numeric hyperparameters, all of which may be traced.
      oracle: ``oracle(**hyperparams)`` -> step (gradient of one leaf -> its update); None where
        an update needs more than the gradients: those have tests of their own.
      optax: the configuration of Optax with the same rule; None where there is none.
      static: hyperparameters that can't be traced.
      dtypes: those that it supports.
      unsupported: checks of `cs231n_optax.testing` that do not apply, each with the reason.
    """

    name: str
    make: Callable[..., optax.GradientTransformationExtraArgs]
    hyperparams: Mapping[str, float]
    oracle: Callable[..., Callable[[Any], Any]] | None
    optax: optax.GradientTransformation | None
    static: Mapping[str, Any] = {}
    dtypes: tuple[str, ...] = testing.DTYPES
    unsupported: Mapping[str, str] = {}

    @property
    def factory(self) -> Callable[..., optax.GradientTransformationExtraArgs]:
        """The factory of the numeric hyperparameters alone."""
        return functools.partial(self.make, **self.static)


def identity():
    return lambda g: g


def momentum_velocity(rho):
    vx = 0.0

    def step(dx):
        nonlocal vx
        vx = rho * vx + dx
        return vx

    return step


def nesterov_lookahead(rho):
    v = 0.0

    def step(u):  # u stands where the listing has - learning_rate * dx
        nonlocal v
        old_v = v
        v = rho * v + u
        return -rho * old_v + (1 + rho) * v

    return step


def adagrad_direction(eps):
    grad_squared = 0.0

    def step(dx):
        nonlocal grad_squared
        grad_squared = grad_squared + np.abs(dx) ** 2
        return dx / (np.sqrt(grad_squared) + eps)

    return step


def rmsprop_direction(decay, eps):
    grad_squared = 0.0

    def step(dx):
        nonlocal grad_squared
        grad_squared = decay * grad_squared + (1 - decay) * np.abs(dx) ** 2
        return dx / (np.sqrt(grad_squared) + eps)

    return step


def adam_direction(b1, b2, eps, bias_correction=True):
    first_moment = second_moment = 0.0
    t = 0

    def step(dx):
        nonlocal first_moment, second_moment, t
        t += 1
        first_moment = b1 * first_moment + (1 - b1) * dx
        second_moment = b2 * second_moment + (1 - b2) * np.abs(dx) ** 2
        first_unbias, second_unbias = first_moment, second_moment
        if bias_correction:
            first_unbias = first_moment / (1 - b1**t)
            second_unbias = second_moment / (1 - b2**t)
        return first_unbias / (np.sqrt(second_unbias) + eps)

    return step


def adam_uncorrected_direction(b1, b2, eps):
    return adam_direction(b1, b2, eps, bias_correction=False)


def descend(direction):
    """The oracle of x -= learning_rate * direction."""

    def oracle(learning_rate, **hyperparams):
        step = direction(**hyperparams)
        return lambda g: -learning_rate * step(g)

    return oracle


def nesterov_oracle(learning_rate, rho):
    step = nesterov_lookahead(rho)
    return lambda g: step(-learning_rate * g)


def halving(t):
    """Half the rate every ten steps, from 0.1."""
    return 0.1 * 0.5 ** (t // 10)


def scheduled(step_of_rate):
    """The oracle of a method under `halving`: ``step_of_rate(**hyperparams)(g, rate)``."""

    def oracle(**hyperparams):
        inner, t = step_of_rate(**hyperparams), -1

        def step(g):
            nonlocal t
            t += 1
            return inner(g, halving(t))

        return step

    return oracle


def momentum_at_rate(rho):
    step = momentum_velocity(rho)
    return lambda g, rate: -rate * step(g)


def nesterov_at_rate(rho):
    step = nesterov_lookahead(rho)
    return lambda g, rate: step(-rate * g)


# Two rules have no plain configuration in Optax. These schedules bring them about, and so make an
# oracle that is neither our code nor NumPy's.


def optax_adagrad_eps_outside(learning_rate, eps):
    """RMSProp with decay n / (n + 1) is the mean of the squares: AdaGrad's sum over n + 1."""

    def count(n):
        return jnp.asarray(n, float)

    return optax.chain(
        optax.inject_hyperparams(optax.scale_by_rms)(
            decay=lambda n: count(n) / (count(n) + 1),
            eps=lambda n: eps / jnp.sqrt(count(n) + 1),
            eps_in_sqrt=False,
        ),
        optax.scale_by_schedule(lambda n: 1 / jnp.sqrt(count(n) + 1)),
        optax.scale_by_learning_rate(learning_rate),
    )


def optax_adam_uncorrected(learning_rate, b1, b2, eps):
    """Optax's corrected Adam, its eps and its length scheduled so that the corrections cancel."""

    def c1(n):
        return 1 - b1 ** (jnp.asarray(n, float) + 1)

    def c2(n):
        return jnp.sqrt(1 - b2 ** (jnp.asarray(n, float) + 1))

    return optax.chain(
        optax.inject_hyperparams(optax.scale_by_adam)(b1=b1, b2=b2, eps=lambda n: eps / c2(n)),
        optax.scale_by_schedule(lambda n: c1(n) / c2(n)),
        optax.scale_by_learning_rate(learning_rate),
    )


def optax_halving():
    # Not optax.exponential_decay(staircase=True): that is float32 arithmetic even under x64.
    return optax.piecewise_constant_schedule(0.1, {10 * k: 0.5 for k in range(1, 7)})


EPS = 1e-7
ADAM = {"b1": 0.9, "b2": 0.999, "eps": EPS}

WOLFE = {"c1": 1e-4, "c2": 0.7}


def _lbfgs(c1, c2):
    return cs231n_optax.lbfgs(memory_size=4, search=cs231n_optax.wolfe(c1=c1, c2=c2))


def _bfgs(c1, c2):
    return cs231n_optax.bfgs(search=cs231n_optax.wolfe(c1=c1, c2=c2, strong=True))


def _gradient_descent(c1, decrease):
    search = cs231n_optax.backtracking(c1=c1, decrease=decrease)
    return cs231n_optax.with_line_search(optax.identity(), search)


# Momentum with an average behind it, which leaves the updates as they are.


def _polyak(decay=0.995, bias_correction=False, uniform=False):
    average = cs231n_optax.polyak_average(decay, bias_correction=bias_correction, uniform=uniform)
    return optax.chain(cs231n_optax.momentum(0.1), average)


def _snapshots(every):
    return optax.chain(cs231n_optax.momentum(0.1), cs231n_optax.snapshots(3, every))


def averaged_oracle(**hyperparams):
    del hyperparams
    return descend(momentum_velocity)(0.1, rho=0.9)


METHODS = (
    Method(
        "sgd",
        cs231n_optax.sgd,
        {"learning_rate": 0.1},
        descend(identity),
        optax.sgd(0.1),
    ),
    Method(
        "momentum",
        cs231n_optax.momentum,
        {"learning_rate": 0.1, "rho": 0.9},
        descend(momentum_velocity),
        optax.sgd(0.1, momentum=0.9),
    ),
    Method(
        "nesterov",
        cs231n_optax.nesterov,
        {"learning_rate": 0.1, "rho": 0.9},
        nesterov_oracle,
        optax.sgd(0.1, momentum=0.9, nesterov=True),
    ),
    Method(
        "adagrad",
        cs231n_optax.adagrad,
        {"learning_rate": 0.1, "eps": EPS},
        descend(adagrad_direction),
        optax_adagrad_eps_outside(0.1, EPS),
    ),
    Method(
        "rmsprop",
        cs231n_optax.rmsprop,
        {"learning_rate": 0.1, "decay": 0.9, "eps": EPS},
        descend(rmsprop_direction),
        optax.rmsprop(0.1, decay=0.9, eps=EPS, eps_in_sqrt=False),
    ),
    Method(
        "adam",
        cs231n_optax.adam,
        {"learning_rate": 0.1, **ADAM},
        descend(adam_direction),
        optax.adam(0.1, **ADAM),
    ),
    Method(
        "adam_uncorrected",
        cs231n_optax.adam,
        {"learning_rate": 0.1, **ADAM},
        descend(adam_uncorrected_direction),
        optax_adam_uncorrected(0.1, **ADAM),
        static={"bias_correction": False},
    ),
    Method(
        "momentum_halving",
        lambda rho: cs231n_optax.momentum(cs231n_optax.step_decay(0.1, every=10), rho),
        {"rho": 0.9},
        scheduled(momentum_at_rate),
        optax.sgd(optax_halving(), momentum=0.9),
    ),
    Method(
        "nesterov_halving",
        lambda rho: cs231n_optax.nesterov(cs231n_optax.step_decay(0.1, every=10), rho),
        {"rho": 0.9},
        scheduled(nesterov_at_rate),
        optax.chain(optax.scale_by_learning_rate(optax_halving()), optax.trace(0.9, nesterov=True)),
    ),
    Method(
        "scale_by_momentum",
        cs231n_optax.scale_by_momentum,
        {"rho": 0.9},
        momentum_velocity,
        optax.trace(0.9),
    ),
    Method(
        "scale_by_nesterov",
        cs231n_optax.scale_by_nesterov,
        {"rho": 0.9},
        nesterov_lookahead,
        optax.trace(0.9, nesterov=True),
    ),
    Method(
        "scale_by_adagrad",
        cs231n_optax.scale_by_adagrad,
        {"eps": EPS},
        adagrad_direction,
        None,
    ),
    Method(
        "scale_by_rmsprop",
        cs231n_optax.scale_by_rmsprop,
        {"decay": 0.9, "eps": EPS},
        rmsprop_direction,
        optax.scale_by_rms(0.9, EPS, eps_in_sqrt=False),
    ),
    Method(
        "scale_by_adam",
        cs231n_optax.scale_by_adam,
        ADAM,
        adam_direction,
        optax.scale_by_adam(**ADAM),
    ),
    *(
        Method(name, make, hyperparams, averaged_oracle, optax.sgd(0.1, momentum=0.9), static)
        for name, make, hyperparams, static in (
            ("polyak_average", _polyak, {"decay": 0.995}, {}),
            ("polyak_average_corrected", _polyak, {"decay": 0.995}, {"bias_correction": True}),
            ("polyak_average_uniform", _polyak, {}, {"uniform": True}),
            ("snapshots", _snapshots, {"every": 2}, {}),
        )
    ),
    Method(
        "scale_by_lbfgs",
        cs231n_optax.scale_by_lbfgs,
        {},
        None,
        None,
        static={"memory_size": 4},
    ),
    Method("scale_by_bfgs", cs231n_optax.scale_by_bfgs, {"damping": 0.2}, None, None),
    *(
        Method(
            name,
            cs231n_optax.scale_by_newton,
            {"damping": 0.1},
            None,
            None,
            static={"saddle_free": saddle_free},
            unsupported={"multi_steps": "hands on no value_fn="},
        )
        for name, saddle_free in (
            ("scale_by_newton", False),
            ("scale_by_newton_saddle_free", True),
        )
    ),
    *(
        Method(
            name,
            make,
            hyperparams,
            None,
            None,
            dtypes=("float32", "float64", "complex64"),
            unsupported={
                "multi_steps": "hands on neither value= nor a trial point that stays for its "
                "microbatches: average the value and the gradients in the loop instead"
            },
        )
        for name, make, hyperparams in (
            ("lbfgs", _lbfgs, WOLFE),
            ("bfgs", _bfgs, WOLFE),
            ("newton", cs231n_optax.newton, {}),
            ("newton_cg", cs231n_optax.newton_cg, {}),
            ("gradient_descent", _gradient_descent, {"c1": 1e-4, "decrease": 0.5}),
        )
    ),
)


@functools.cache
def descending(name: str) -> optax.GradientTransformationExtraArgs:
    """The transformation of a row; a direction of ascent with a small rate behind it."""
    method = next(method for method in METHODS if method.name == name)
    tx = method.factory(**method.hyperparams)
    return optax.chain(tx, optax.scale(-0.05)) if name.startswith("scale_by_") else tx
