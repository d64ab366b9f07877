"""What the README and the benchmarks' page say to do, done."""

import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from methods import METHODS

import cs231n_optax as co
from cs231n_optax import testing

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)

IDS = ["the loop", "the sweep", "ensembles", "minimize", "newton"]


@pytest.mark.parametrize("snippet", SNIPPETS, ids=IDS)
def test_snippet_runs(snippet, capsys):
    exec(snippet, {})


def test_the_loop_has_eight_lines_and_converges():
    loop = SNIPPETS[0].strip().split("\n\n")[-1]
    assert len(loop.splitlines()) == 8
    names = {}
    exec(SNIPPETS[0], names)
    assert names["loss"](names["params"]) < 1e-2


def test_every_public_function_is_in_the_table():
    for name in co.__all__:
        if not name.startswith(("Fit", "Minimize", "Sweep")):
            assert f"`{name}`" in README, name


def test_every_link_leads_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_parameters_kept_flat_take_the_same_path(method):
    """The way to run a tree of very many leaves: one vector, unravelled where the loss needs it."""
    params = testing.default_params()
    flat, unravel = ravel_pytree(params)
    tx = method.factory(**method.hyperparams)

    def run(params, loss):
        def step(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(loss)(params)
            updates, state = tx.update(grads, state, params, value=value, value_fn=loss)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), length=5)[0][0]

    expected = jax.jit(lambda x: run(x, testing.default_loss))(params)
    actual = jax.jit(lambda x: run(x, lambda flat: testing.default_loss(unravel(flat))))(flat)
    for x, y in zip(jax.tree.leaves(unravel(actual)), jax.tree.leaves(expected), strict=True):
        # Inner products over a tree are summed in another order.
        np.testing.assert_allclose(x, y, rtol=1e-6 if method.oracle else 1e-4)
    assert actual.shape == (sum(leaf.size for leaf in jax.tree.leaves(params)),)
    assert jnp.isfinite(actual).all()
