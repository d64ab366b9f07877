"""What each framework's training is asked, one row of the methods' table at a time.

A module of ``tests/frameworks`` brings a ``Training``: a model of two linear layers, one on x and
one on cos x, and a step as the framework's users write it, in which the transformation is the one
line of ours. The loss is convex, so that pure Newton descends as well.

``Training(tx, dtype=..., param_dtype=...)`` starts it; ``step()`` makes an update in place and
returns the loss before it; ``tree()`` is the parameters' tree, and ``opt_state()`` the state of the
transformation; ``arrays()`` lists the leaves of all that a step changes; ``save(path)`` and
``restore(path)`` are the framework's own checkpoints.
``traces`` grows by one whenever a step is traced, and is shared by the trainings that share a
compiled step.
"""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import sample
from methods import METHODS, descending

import cs231n_optax as co

FRAMEWORKS = ("flax_linen", "flax_nnx", "haiku", "equinox")
every_method_in_every_framework = sample.product(
    framework={name: name for name in FRAMEWORKS},
    method={method.name: method for method in METHODS},
)

every_framework = pytest.mark.parametrize("framework", FRAMEWORKS)


@pytest.fixture
def training(framework):
    """The framework's ``Training``."""
    pytest.importorskip(framework.split("_")[0], reason="needs pip install -e '.[integration]'")
    return importlib.import_module(f"frameworks.{framework}").Training


@every_method_in_every_framework
def test_trains_and_goes_on(training, method, tmp_path):
    """It descends, in one compile, reusing its buffers; a checkpoint goes on to the same bits."""
    run = training(descending(method.name))
    losses = [float(run.step()) for _ in range(3)]
    run.save(tmp_path / "checkpoint")
    old = run.arrays()
    losses += [float(run.step()) for _ in range(5)]
    assert all(array.is_deleted() for array in old if array.ndim)  # the rate is never read
    assert min(losses) < 0.9 * losses[0]
    assert np.isfinite(losses).all()

    other = training(descending(method.name))
    other.restore(tmp_path / "checkpoint")
    assert [float(other.step()) for _ in range(5)] == losses[3:]
    for one, same in zip(other.arrays(), run.arrays(), strict=True):
        np.testing.assert_array_equal(one, same)
    assert len(run.traces) == 1


@every_method_in_every_framework
def test_mixed_precision(training, method):
    """bfloat16 parameters where the method takes them, and else bfloat16 computation."""
    tx = descending(method.name)
    if "bfloat16" in method.dtypes:
        run = training(tx, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
        wanted = jnp.bfloat16
    else:
        with pytest.raises(TypeError, match="bfloat16"):
            training(tx, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
        run = training(tx, dtype=jnp.bfloat16)
        wanted = jnp.float32
    losses = [float(run.step()) for _ in range(8)]
    assert min(losses) < losses[0]
    assert np.isfinite(losses).all()
    assert {leaf.dtype for leaf in jax.tree.leaves(run.tree())} == {jnp.dtype(wanted)}
    assert len(run.traces) == 1


def is_frozen(path):
    """Whether a parameter belongs to the second layer, by its name in the framework."""
    return any(name in jax.tree_util.keystr(path) for name in ("waves", "Dense_1", "linear_1"))


def labels(params):
    return jax.tree.map_with_path(lambda path, _: "freeze" if is_frozen(path) else "train", params)


def frozen_of(tree):
    return [np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(tree) if is_frozen(path)]


@every_framework
@pytest.mark.parametrize("make", [co.lbfgs, co.bfgs, co.adam], ids=lambda make: make.__name__)
def test_frozen_parameters(training, make):
    """One layer stays as it came, and the accepted point is the whole tree."""
    train = make(0.1) if make is co.adam else make()
    tx = optax.partition({"train": train, "freeze": optax.set_to_zero()}, labels)
    run = training(tx)
    start = run.tree()
    frozen = frozen_of(start)
    losses = [float(run.step()) for _ in range(8)]
    assert len(frozen) == 1
    assert min(losses) < 0.9 * losses[0]
    trees = [run.tree()]
    if make is not co.adam:
        trees.append(co.accepted_params(run.opt_state(), run.tree()))
    for tree in trees:
        np.testing.assert_array_equal(frozen_of(tree), frozen)
        assert [leaf.shape for leaf in jax.tree.leaves(tree)] == [
            leaf.shape for leaf in jax.tree.leaves(run.tree())
        ]


@every_framework
def test_accessors_give_plain_arrays(training):
    """Flax NNX wraps the arrays of a state."""
    run = training(co.lbfgs())
    while not co.accepted(run.opt_state()):
        run.step()
    assert co.Status(int(co.status(run.opt_state()))) == co.Status.RUNNING
    read = [co.accepted(run.opt_state()), co.status(run.opt_state())]
    read += unwrapped(co.accepted_params(run.opt_state()))
    read += unwrapped(co.accepted_params(run.opt_state(), run.tree()))

    run = training(optax.chain(co.nesterov(0.01), co.polyak_average()))
    read += unwrapped(co.averaged_params(run.opt_state()))
    read += unwrapped(co.nesterov_iterate(run.opt_state(), run.tree()))
    run = training(optax.chain(co.momentum(0.01), co.snapshots(2, every=1)))
    read += unwrapped(co.snapshot_params(run.opt_state()))
    read.append(co.snapshots_filled(run.opt_state()))
    for array in read:
        assert isinstance(array, jax.Array), type(array)


def unwrapped(tree):
    """The leaves, with NNX's variables as leaves if there are any."""
    return jax.tree.leaves(tree, is_leaf=lambda node: hasattr(node, "get_value"))
