"""`check_transformation` finds planted faults, and names them."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest

from cs231n_optax.testing import CHECKS, check_transformation


def stateless(rule):
    return optax.stateless(lambda updates, _: jax.tree.map(rule, updates))


class Pair(NamedTuple):
    one: optax.Updates
    other: optax.Updates


def with_pair(init, rule):
    def update(updates, state, params=None):
        return updates, rule(updates, state)

    return optax.GradientTransformation(init, update)


def zeros(params):
    return jax.tree.map(jnp.zeros_like, params)


def shared_buffer(params):
    leaf = zeros(params)
    return Pair(leaf, leaf)


def growing(updates, state, params=None):
    return updates, jnp.append(state, 0.0)


def counts_in_python():
    count = itertools.count(1)
    return stateless(lambda g: -g * 0.1 / next(count))


def forgets_its_dtype():
    return with_pair(
        lambda params: Pair(zeros(params), zeros(params)),
        lambda g, state: Pair(jax.tree.map(lambda x: x.astype(jnp.float16), g), state.other),
    )


def holds_a_function():
    class State(NamedTuple):
        count: jax.Array
        function: object

    return optax.GradientTransformation(
        lambda params: State(jnp.zeros(()), jax.tree_util.Partial(lambda x: x)),
        lambda updates, state, params=None: (updates, state),
    )


FAULTS = {
    "a dtype that drifts": (forgets_its_dtype, "stable_dtypes"),
    "an update that widens": (lambda: stateless(lambda g: g * jnp.float32(-0.1)), "stable_dtypes"),
    "a state that aliases": (
        lambda: with_pair(shared_buffer, lambda g, state: state),
        "donation",
    ),
    "a retrace": (
        lambda: optax.GradientTransformation(lambda params: jnp.zeros(1), growing),
        "one_trace",
    ),
    "a NaN at zero gradient": (lambda: stateless(lambda g: -g / jnp.abs(g)), "zero_gradients"),
    "an overflow": (
        lambda: stateless(lambda g: -(g * 1e30) / (1 + jnp.abs(g) * 1e30)),
        "extreme_gradients",
    ),
    "a count in Python": (counts_in_python, "loops_agree"),
    "a state that can't be pickled": (holds_a_function, "pickling"),
    "a Python branch": (
        lambda: stateless(lambda g: -g if g.sum() > 0 else -0.5 * g),
        "one_trace",
    ),
}


@pytest.mark.parametrize(("fault", "check"), FAULTS.values(), ids=FAULTS.keys())
def test_finds_the_planted_fault(fault, check):
    others = {other.__name__: "not under test" for other in CHECKS if other.__name__ != check}
    with pytest.raises(AssertionError, match=rf"1 of {len(CHECKS)} checks failed\n{check}: "):
        check_transformation(fault(), skip=others)


def test_finds_a_factory_that_reads_its_hyperparameter():
    def clipped_sgd(learning_rate):
        return optax.sgd(learning_rate if learning_rate < 1 else 1.0)

    with pytest.raises(AssertionError, match="traced_hyperparams: TracerBoolConversionError"):
        check_transformation(
            clipped_sgd(0.1),
            make=clipped_sgd,
            hyperparams={"learning_rate": 0.1},
            skip={
                check.__name__: "not under test"
                for check in CHECKS
                if check.__name__ != "traced_hyperparams"
            },
        )


def test_a_good_transformation_passes():
    check_transformation(optax.sgd(0.1, momentum=0.9))


def test_names_every_failed_check_at_once():
    with pytest.raises(AssertionError) as caught:
        check_transformation(stateless(lambda g: -g / jnp.abs(g)), dtypes=("float32",))
    assert "zero_gradients: " in str(caught.value)
