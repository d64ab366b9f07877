"""A process that is really killed, and what is left of a checkpoint that was not finished."""

import shutil
import signal

import jax
import numpy as np
import pytest
from trials import assert_same_state

import cs231n_optax as co

ocp = pytest.importorskip("orbax.checkpoint", reason="needs pip install -e '.[examples]'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def comparisons(example, folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_NUM_CPU_DEVICES", str(jax.device_count()))  # the child, as this process
        return example.main(folder)


@pytest.mark.parametrize("method", ["adam", "lbfgs"])
def test_a_killed_and_resumed_run_ends_bit_for_bit_where_an_undisturbed_one_ends(
    comparisons, method
):
    undisturbed, resumed, returncode = comparisons[method]
    assert returncode == -signal.SIGKILL == -9
    first = int(resumed[0].step)
    assert 0 < first < 20
    assert [int(run.step) for run in undisturbed] == list(range(21))
    assert [int(run.step) for run in resumed] == list(range(first, 21))
    for run in resumed:
        assert_same_state(run, undisturbed[int(run.step)])
    # Not for want of movement.
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), resumed[0].params, resumed[-1].params)
    assert min(jax.tree.leaves(moved)) > 1e-3


def test_adam_is_resumed_with_other_batches_to_come_than_from_the_start(comparisons):
    resumed = comparisons["adam"].resumed
    keys = {jax.random.key_data(run.key).tobytes() for run in resumed}
    assert len(keys) == len(resumed)


def test_lbfgs_is_resumed_in_the_middle_of_a_line_search(comparisons):
    start, after = comparisons["lbfgs"].resumed[:2]
    assert not co.accepted(start.opt_state)
    search, anchor = start.opt_state.search_state, start.opt_state.trial
    assert search.num_evals >= 1
    assert np.isfinite(search.high.step) or search.low.step > 0  # a bracket
    # The parameters saved are a trial on the saved line, not the answer so far.
    for x, x0, d in zip(
        jax.tree.leaves(start.params),
        jax.tree.leaves(co.accepted_params(start.opt_state)),
        jax.tree.leaves(start.opt_state.direction),
        strict=True,
    ):
        np.testing.assert_allclose(x, x0 + search.step * d, rtol=1e-5, atol=1e-6)
        assert np.abs(x - x0).max() > 0
    assert after.opt_state.trial.anchor_value <= anchor.anchor_value


def test_a_checkpoint_that_was_not_finished_is_left_aside(example, comparisons, folder):
    """Under its temporary name, as a kill leaves it: the one before is taken, and nothing lost."""
    left = folder / "interrupted"
    shutil.copytree(folder / "lbfgs-killed", left)
    (left / "20").rename(left / "20.orbax-checkpoint-tmp")
    for file in (left / "20.orbax-checkpoint-tmp").rglob("manifest.ocdbt"):
        file.unlink()

    resumed = example.train(left, "lbfgs")

    assert int(resumed[0].step) == 18
    assert_same_state(resumed[-1], comparisons["lbfgs"].undisturbed[-1])
    assert not list(left.glob("*tmp*"))
    with ocp.CheckpointManager(left) as manager:
        assert manager.all_steps()[-2:] == [18, 20]
        restored = manager.restore(20, args=ocp.args.StandardRestore(example.begin("lbfgs")))
    assert_same_state(restored, comparisons["lbfgs"].undisturbed[-1])


def test_a_finished_run_is_read_and_goes_no_further(example, comparisons, folder):
    (only,) = example.train(folder / "adam-killed", "adam")
    assert_same_state(only, comparisons["adam"].undisturbed[-1])
