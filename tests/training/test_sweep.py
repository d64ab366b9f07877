"""`sweep`: rows against their single runs, what is saved, and what is refused."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.model_selection import ParameterSampler
from trials import assert_same_bits

import cs231n_optax as co

X = np.random.default_rng(0).standard_normal((32, 3)).astype(np.float32)
DATA = {"x": X, "y": X @ np.array([1.0, -2.0, 0.5], np.float32)}
GRID = {"learning_rate": [0.01, 0.1, 1e10], "rho": [0.0, 0.9]}


def loss(params, batch):
    return jnp.mean((batch["x"] @ params - batch["y"]) ** 2)


def train(hparams):
    schedule = co.step_decay(hparams["learning_rate"], every=hparams.get("every", 8))
    tx = co.momentum(schedule, hparams["rho"])
    return co.fit(
        loss, jnp.zeros(3), tx, DATA, steps=20, batch_size=8, key=jax.random.key(0), chunk_size=20
    )


def run(hparams):
    result = train(hparams)
    return {
        "loss": loss(result.params, DATA),
        "curve": result.history.loss,
        "died": result.state.nonfinite_step,
    }


run_alone = jax.jit(run)


@pytest.fixture(scope="module")
def result():
    return co.sweep(run, GRID, batch_size=2)


class TestRows:
    def test_a_grid_is_every_combination_the_last_name_fastest(self, result):
        rates, rhos = result.hparams["learning_rate"], result.hparams["rho"]
        assert list(result.hparams) == ["learning_rate", "rho"]
        np.testing.assert_allclose(rates, [0.01, 0.01, 0.1, 0.1, 1e10, 1e10])
        np.testing.assert_allclose(rhos, [0, 0.9, 0, 0.9, 0, 0.9])
        assert rates.dtype == np.float32

    @pytest.mark.parametrize("row", range(4))
    def test_each_is_what_its_run_alone_gives(self, result, row):
        alone = run_alone({name: column[row] for name, column in result.hparams.items()})
        for name, expected in alone.items():
            np.testing.assert_allclose(result.outputs[name][row], expected, rtol=1e-5)

    def test_diverging_row_leaves_the_others_alone(self, result):
        np.testing.assert_array_equal(result.outputs["died"] >= 0, [0, 0, 0, 0, 1, 1])
        died = result.outputs["died"][4]
        assert np.isfinite(result.outputs["curve"][4, :died]).all()
        assert not np.isfinite(result.outputs["curve"][4, died:]).any()
        others = co.sweep(run, GRID | {"learning_rate": [0.01, 0.1]}, batch_size=2)
        assert_same_bits(others.outputs["loss"], result.outputs["loss"][:4])

    def test_second_run_has_the_same_bits(self, result):
        assert_same_bits(co.sweep(run, GRID, batch_size=2), result)

    @pytest.mark.parametrize("batch_size", [None, 1, 5])
    def test_the_batch_size_changes_rounding_only(self, result, batch_size):
        other = co.sweep(run, GRID, batch_size=batch_size)
        for name in ("curve", "loss"):
            np.testing.assert_allclose(other.outputs[name], result.outputs[name], rtol=1e-5)

    def test_one_device_gives_what_two_give(self, result):
        assert len(jax.devices()) == 2
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("here",))
        other = co.sweep(run, GRID, batch_size=2, mesh=mesh)
        np.testing.assert_allclose(other.outputs["loss"], result.outputs["loss"], rtol=1e-5)

    def test_a_mesh_of_several_axes_is_used_whole(self, result):
        mesh = jax.make_mesh((1, 2), ("a", "b"))
        assert_same_bits(co.sweep(run, GRID, batch_size=2, mesh=mesh), result)

    def test_a_list_of_rows_as_scikit_learn_samples_them(self):
        sampler = ParameterSampler(
            {"learning_rate": [0.01, 0.02, 0.05], "rho": [0.0, 0.5], "every": [5, 10]},
            n_iter=5,
            random_state=0,
        )
        result = co.sweep(run, sampler, batch_size=2)
        assert [dict(row) for row in sampler] == [
            {name: pytest.approx(column[i]) for name, column in result.hparams.items()}
            for i in range(5)
        ]
        assert result.hparams["every"].dtype == np.int32
        expected = run({"learning_rate": 0.02, "rho": 0.5, "every": 5})
        rows = co.sweep(run, [{"learning_rate": 0.02, "rho": 0.5, "every": 5}]).outputs
        np.testing.assert_allclose(rows["loss"], expected["loss"][None], rtol=1e-5)

    def test_integers_stay_exact(self):
        seeds = [0, 1, 2**24 + 1]
        result = co.sweep(lambda h: h["seed"], {"seed": seeds})
        assert result.outputs.dtype == np.int32
        assert result.outputs.tolist() == seeds

    @pytest.mark.parametrize("batch_size", [1, 2])
    def test_it_is_traced_twice_however_many_rows_there_are(self, batch_size, tmp_path):
        traces = 0

        def counted(hparams):
            nonlocal traces
            traces += 1
            return hparams["x"] ** 2

        for num in (4, 40):
            traces, grid = 0, {"x": np.arange(num, dtype=float)}
            result = co.sweep(counted, grid, batch_size=batch_size, path=tmp_path / str(num))
            assert traces == 2  # by itself, for the shapes, and for the devices
            np.testing.assert_array_equal(result.outputs, np.arange(num) ** 2)

    def test_any_dtype_and_any_tree_comes_back(self):
        def run(hparams):
            x = hparams["x"]
            return {
                "half": x.astype(jnp.bfloat16),
                "flag": x > 1,
                "complex": x * (1 + 2j),
                "none": None,
                "nested": [x[None], (jnp.arange(2),)],
            }

        outputs = co.sweep(run, {"x": [0.5, 1.5, 2.5]}).outputs
        assert outputs["half"].dtype == jnp.bfloat16
        assert outputs["flag"].tolist() == [False, True, True]
        assert outputs["complex"].tolist() == [0.5 + 1j, 1.5 + 3j, 2.5 + 5j]
        assert outputs["nested"][0].shape == (3, 1)
        assert outputs["nested"][1][0].tolist() == [[0, 1]] * 3
        assert co.sweep(lambda hparams: {}, {"x": [1.0]}).outputs == {}

    def test_in_float64(self):
        with jax.enable_x64(True):
            result = co.sweep(lambda h: h["x"] / 3, {"x": [1.0, 2.0]})
        assert result.outputs.tolist() == [1 / 3, 2 / 3]

    def test_callback_after_each_batch(self):
        reports = []
        result = co.sweep(lambda h: h["x"], {"x": range(7)}, batch_size=1, callback=reports.append)
        assert [report.num_finished for report in reports] == [0, 2, 4, 6, 7]
        assert reports[2].result.hparams["x"].tolist() == [0, 1, 2, 3]
        assert reports[2].result.outputs.tolist() == [0, 1, 2, 3]
        assert_same_bits(reports[-1].result, result)

    def test_timed_batch_sizes_each_do_their_share(self):
        reports = []

        def run(hparams):  # a fixed cost for each call, so that larger batches are faster a row
            return jax.lax.fori_loop(0, 20_000, lambda _, y: jnp.sin(y), hparams["x"])

        co.sweep(run, {"x": np.zeros(6000)}, callback=lambda p: reports.append(p.num_finished))
        sizes = np.diff(reports)
        assert sizes.sum() == 6000
        assert sizes[0] == 2
        assert 8 in sizes


# What is saved.

CRASHING = """
import json, os, signal, sys, traceback
import numpy as np, jax, jax.numpy as jnp
import cs231n_optax as co
folder, log, *moments = sys.argv[1:]
save, replace = np.savez, os.replace

def run(hparams):
    def note(x):
        with open(log, "a") as file:
            file.write(f"{int(x)}\\n")
    jax.debug.callback(note, hparams["x"])
    return {"square": hparams["x"] ** 2}

def die(): os.kill(os.getpid(), signal.SIGKILL)

def sweep(moment):
    def savez(file, **arrays):
        if moment == "half-written":
            file.write(b"PK half of it"); file.flush(); die()
        save(file, **arrays)
    def rename(*names):
        if moment == "written": die()
        replace(*names)
        if moment == "renamed": die()
    np.savez, os.replace = savez, rename
    result = co.sweep(run, {"x": range(8)}, batch_size=2, path=folder)
    assert result.outputs["square"].tolist() == [x**2 for x in range(8)], result

stories = []
for moment in moments:  # each in a process of its own, which need not import everything again
    open(log, "w").close()
    process = os.fork()
    if not process:
        try:
            sweep(moment)
        except BaseException:
            traceback.print_exc(); os._exit(1)
        os._exit(0)
    ended = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    stories.append([ended, sorted(int(line) for line in open(log))])
print(json.dumps(stories))
"""


class TestSaved:
    def test_a_finished_batch_is_not_computed_again_after_kill_9(self, tmp_path):
        stories = {  # when it is killed, and the rows that it computes
            "renamed": [-signal.SIGKILL, [0, 1]],  # saved
            "half-written": [-signal.SIGKILL, [2, 3]],  # lost
            "written": [-signal.SIGKILL, [2, 3]],  # lost
            "renamed again": [-signal.SIGKILL, [2, 3]],  # saved
            "never": [0, [4, 5, 6, 7]],
            "never again": [0, []],
        }
        moments = [moment.removesuffix(" again") for moment in stories]
        command = [sys.executable, "-c", CRASHING, tmp_path / "rows", tmp_path / "log", *moments]
        ended = subprocess.run(command, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        assert json.loads(ended.stdout) == list(stories.values()), ended.stderr
        files = sorted(os.listdir(tmp_path / "rows"))
        assert files == [f"rows-{first:06d}.npz" for first in (0, 2, 4, 6)]

    def test_going_on_gives_the_same_bits(self, result, tmp_path):
        def stop(progress):
            if progress.num_finished:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            co.sweep(run, GRID, batch_size=2, path=tmp_path, callback=stop)
        assert len(os.listdir(tmp_path)) == 1
        assert_same_bits(co.sweep(run, GRID, batch_size=2, path=tmp_path), result)

    def test_another_batch_size_or_mesh_may_go_on(self, tmp_path):
        grid, expected = {"x": range(10)}, [x + 1 for x in range(10)]

        def run(hparams):
            return hparams["x"] + 1

        co.sweep(run, grid, batch_size=1, path=tmp_path)
        for first in (0, 6):
            (tmp_path / f"rows-{first:06d}.npz").unlink()
        reports = []
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("here",))
        result = co.sweep(
            run, grid, batch_size=3, mesh=mesh, path=tmp_path, callback=reports.append
        )
        assert [report.num_finished for report in reports] == [6, 9, 10]
        assert result.outputs.tolist() == expected
        assert co.sweep(run, grid, path=str(tmp_path)).outputs.tolist() == expected

    @pytest.mark.parametrize("damage", [b"", b"no archive", None])
    def test_a_broken_file_is_computed_again(self, tmp_path, damage):
        def run(hparams):
            return hparams["x"].astype(jnp.bfloat16)

        co.sweep(run, {"x": [1.0, 2.0, 3.0, 4.0]}, batch_size=1, path=tmp_path)
        file = tmp_path / "rows-000002.npz"
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
        with pytest.warns(RuntimeWarning, match=file.name):
            result = co.sweep(run, {"x": [1.0, 2.0, 3.0, 4.0]}, batch_size=1, path=tmp_path)
        outputs = result.outputs
        assert outputs.tolist() == [1, 2, 3, 4]
        assert outputs.dtype == jnp.bfloat16
        assert np.load(file)["rows"].tolist() == [2, 3]

    def test_another_sweep_in_the_folder_is_refused(self, tmp_path):
        numbers = np.arange(3.0)

        def run(hparams):
            return hparams["x"] * numbers

        co.sweep(run, {"x": [1.0, 2.0]}, path=tmp_path)
        message = "belongs to another sweep"
        with pytest.raises(ValueError, match=message):
            co.sweep(run, {"x": [1.0, 3.0]}, path=tmp_path)
        with pytest.raises(ValueError, match=message):
            co.sweep(lambda h: h["x"] * numbers + 1, {"x": [1.0, 2.0]}, path=tmp_path)
        numbers = np.array([0.0, 1.0, 5.0])  # the same program, other data
        with pytest.raises(ValueError, match=message):
            co.sweep(run, {"x": [1.0, 2.0]}, path=tmp_path)
        assert len(os.listdir(tmp_path)) == 1


# What is refused.


def square(hparams):
    return hparams["x"] ** 2


@pytest.mark.parametrize(
    ("grid", "error", "named"),
    [
        ([], ValueError, "grid"),
        ([{}], ValueError, "grid"),
        ("x", TypeError, "grid"),
        ([3], TypeError, "grid"),
        ({"x": [1j]}, TypeError, "x"),
        ({"x": 3.0}, ValueError, "x"),
        ({"x": [[1.0]]}, ValueError, "x"),
        ({"x": [[1.0], [1.0, 2.0]]}, ValueError, "x"),
        ({"x": [2**40]}, ValueError, "x"),
    ],
)
def test_bad_grid_is_named(grid, error, named):
    with pytest.raises(error, match=rf"\b{named}\b"):
        co.sweep(square, grid)


def test_batches_of_no_row():
    with pytest.raises(ValueError, match="batch_size"):
        co.sweep(square, {"x": [1.0]}, batch_size=0)


def test_error_of_the_run_itself_passes():
    with pytest.raises(KeyError, match="y"):
        co.sweep(lambda h: h["y"], {"x": [1]})


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError, match="file"):
        co.sweep(square, {"x": [1.0]}, path=tmp_path / "file")


# The table.

TABLE = co.SweepResult(
    {"rate": np.float32([0.1, 1, 10, 100])},
    {
        "loss": np.float32([3, 2, np.nan, -np.inf]),
        "curve": np.zeros((4, 5)),
        "rate": np.arange(4),
        "deep": (np.array([True, False, True, False]),),
    },
)


class TestTable:
    def test_the_best_is_finite(self):
        assert co.best_row(TABLE, lambda out: out["loss"]) == 1
        assert co.best_row(TABLE, lambda out: out["loss"], largest=True) == 0
        assert co.best_row(TABLE, lambda out: -out["rate"] % 2) == 0

    def test_csv(self, tmp_path):
        co.write_csv(TABLE, tmp_path / "table.csv")
        assert pathlib.Path(tmp_path, "table.csv").read_text().splitlines() == [
            "rate,deep.0,loss,output.rate",
            "0.1,True,3.0,0",
            "1.0,False,2.0,1",
            "10.0,True,nan,2",
            "100.0,False,-inf,3",
        ]

    def test_csv_of_one_array(self, tmp_path):
        co.write_csv(co.sweep(square, {"x": [1.0, 3.0]}), tmp_path / "table.csv")
        assert (tmp_path / "table.csv").read_text() == "x,output\n1.0,1.0\n3.0,9.0\n"
