"""What each framework's training is asked, one row of the methods' table at a time.

A module of ``tests/frameworks`` brings a ``Training``: a model of two linear layers, one on x and
one on cos x, and a step as the framework's users write it, in which the transformation is the one
line of ours. The loss is convex, so that pure Newton descends as well.

``Training(tx, dtype=..., param_dtype=...)`` starts it; ``step()`` makes an update in place and
returns the loss before it; ``params()`` and ``arrays()`` list the leaves of the parameters and of
all that a step changes; ``save(path)`` and ``restore(path)`` are the framework's own checkpoints.
``traces`` grows by one whenever a step is traced, and is shared by the trainings that share a
compiled step.
"""

import importlib

import jax.numpy as jnp
import numpy as np
import pytest
import sample
from methods import METHODS, descending

every_method_in_every_framework = sample.product(
    framework={name: name for name in ("flax_linen", "flax_nnx", "haiku", "equinox")},
    method={method.name: method for method in METHODS},
)


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
    assert {leaf.dtype for leaf in run.params()} == {jnp.dtype(wanted)}
    assert len(run.traces) == 1
