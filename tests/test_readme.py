"""What the README and the benchmarks' page say to do, done."""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sample
from jax.flatten_util import ravel_pytree
from methods import METHODS

import cs231n_optax as co
from cs231n_optax import testing

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)

IDS = ["the loop", "minimize"]


@functools.cache
def names_after(snippet):
    names = {}
    exec(snippet, names)
    return names


@pytest.mark.parametrize("snippet", SNIPPETS, ids=IDS)
def test_snippet_runs(snippet, capsys):
    names_after(snippet)


def test_the_loop_has_eight_lines_and_converges():
    loop = SNIPPETS[0].strip().split("\n\n")[-1]
    assert len(loop.splitlines()) == 8
    names = names_after(SNIPPETS[0])
    assert names["loss"](names["params"]) < 1e-2


def test_every_public_function_is_in_the_table():
    for name in co.__all__:
        if not name.startswith(("Fit", "Minimize", "Sweep")):
            assert f"`{name}`" in README, name


def test_every_link_leads_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize(
    "method",
    [pytest.param(method, marks=sample.marks(row)) for row, method in enumerate(METHODS)],
    ids=lambda method: method.name,
)
def test_parameters_kept_flat_take_the_same_path(method):
    """The way to run a tree of very many leaves: one vector, unravelled where the loss needs it."""
    params = testing.default_params()
    flat, unravel = ravel_pytree(params)
    tx = method.factory(**method.hyperparams)

    def run(x, loss):
        step, state = testing._compiled_step(tx, loss), tx.init(x)
        for _ in range(5):
            x, state = step(x, state)
        return x

    expected = run(params, testing.default_loss)
    actual = run(flat, lambda flat: testing.default_loss(unravel(flat)))
    for x, y in zip(jax.tree.leaves(unravel(actual)), jax.tree.leaves(expected), strict=True):
        # Inner products over a tree are summed in another order, which changes every coordinate by
        # rounding errors of the size of the largest, 1.
        rtol, atol = (1e-6, 0) if method.oracle else (1e-4, 1e-5)
        np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)
    assert actual.shape == (sum(leaf.size for leaf in jax.tree.leaves(params)),)
    assert jnp.isfinite(actual).all()
