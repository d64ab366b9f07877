"""The command ``sweep``: what it searches, how it resumes, exit statuses, messages, files."""

import csv
import json
import os
import re
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

import cs231n_optax
from cs231n_optax import cli
from cs231n_optax.experiments.sweep import experiment
from cs231n_optax.problems import datasets, networks

FILES = {"sweep.csv", "sweep.json", "sweep.png", "rows"}
PAIR = ["--method", "momentum", "--learning-rate", "0.01:1:log", "--rho", "0:0.9"]


@pytest.fixture
def small_sweep(tiny, tmp_path):
    """The command of a small sweep with further options; it writes to tmp_path / "out"."""

    def command(*options):
        small = ["--steps", "4", "--batch-size", "8", "--model", "softmax", "--num", "6"]
        where = ["--data", tiny, "--out", str(tmp_path / "out")]
        return ["sweep", *where, *small, *options]

    return command


@pytest.fixture
def start(small_sweep):
    return lambda *options: cli.main(small_sweep(*options))


def rows_of(path):
    with open(path, newline="") as file:
        return [{name: float(x) for name, x in row.items()} for row in csv.DictReader(file)]


def test_a_sweep_and_how_it_goes_on(start, tiny, tmp_path, capsys):
    options = [*PAIR, "--lane-batch", "1"]
    assert start(*options) == 0
    out, err = capsys.readouterr()
    folder = tmp_path / "out"
    assert {path.name for path in folder.iterdir()} == FILES
    assert "Ranges: learning_rate from 0.01 to 1 on a log scale, rho from 0 to 0.9." in out
    assert "Configurations: 6, a random search" in out
    assert f"Devices: {jax.device_count()} (cpu)." in out
    assert "Found" not in out
    assert err.splitlines()[-1].startswith("momentum: 6 of 6, best train loss 0.")
    assert not any(ord(c) < 32 and c != "\n" for c in out + err)
    rows = rows_of(folder / "sweep.csv")
    assert len(rows) == 6

    best = min(rows, key=lambda row: row["train_loss"])
    line = next(line.split() for line in out.splitlines() if line.split()[:1] == ["1"])
    shown = [best["learning_rate"], best["rho"], best["train_loss"], 100 * best["test_accuracy"]]
    assert [float(x) for x in line[1:]] == pytest.approx(shown, rel=1e-3)
    data = datasets.load_npz(tiny)
    network = networks.softmax_regression((3,), 2)
    init_key, batch_key = jax.random.split(jax.random.key(0))
    result = cs231n_optax.fit(
        lambda params, batch: networks.cross_entropy(network.apply(params, batch[0]), batch[1]),
        network.init(init_key),
        cs231n_optax.momentum(best["learning_rate"], best["rho"]),
        (data.x_train, data.y_train),
        steps=4,
        batch_size=8,
        key=batch_key,
    )
    loss = networks.cross_entropy(network.apply(result.params, data.x_train), data.y_train)
    assert best["train_loss"] == pytest.approx(float(loss), rel=1e-5)

    saved = sorted((folder / "rows").iterdir())
    assert len(saved) == 6 // jax.device_count()
    saved[1].unlink()
    times = {path.name: path.stat().st_mtime_ns for path in saved if path != saved[1]}
    assert start(*options) == 0
    assert f"Found in {folder / 'rows'}: 4 of 6 are finished already." in capsys.readouterr().out
    assert rows_of(folder / "sweep.csv") == rows
    assert saved[1].exists()
    assert all((folder / "rows" / name).stat().st_mtime_ns == at for name, at in times.items())

    assert start(*options, "--steps", "5") == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"{folder / 'rows'} belongs to another sweep" in err
    assert "give another --out, or remove that folder" in err


@pytest.mark.parametrize(
    ("options", "columns", "fixed"),
    [
        ([], ["learning_rate"], {}),
        (
            ["--method", "adam", "--b1", "0:0.9", "--b2", "0.9:0.99", "--grid", "--num", "8"],
            ["b1", "b2"],
            {"eps": 1e-7, "learning_rate": 0.001},
        ),
        (
            ["--method", "rmsprop", "--beta", "0.5:0.9", "--decay", "exponential", "--seeds", "2"],
            ["beta"],
            {"eps": 1e-7, "decay_rate": pytest.approx(np.log(10) / 4), "learning_rate": 0.0007},
        ),
        (
            ["--decay", "step", "--decay-every", "1:4", "--decay-factor", "0.1", "--quiet"],
            ["decay_every"],
            {"decay_factor": 0.1, "learning_rate": 0.03},
        ),
    ],
)
def test_what_varies_and_what_is_fixed(options, columns, fixed, start, tmp_path, capsys):
    assert start(*options) == 0
    assert (capsys.readouterr() == ("", "")) == ("--quiet" in options)
    rows = rows_of(tmp_path / "out" / "sweep.csv")
    assert list(rows[0]) == [*columns, "train_loss", "test_accuracy", "diverged_at"]
    configuration = json.loads((tmp_path / "out" / "sweep.json").read_text())["configuration"]
    assert configuration["fixed"] == fixed
    assert len(rows) == configuration["num"] == (4 if "--grid" in options else 6)
    assert len({tuple(row[name] for name in columns) for row in rows}) == len(rows)
    assert len({row["train_loss"] for row in rows}) > 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "newton"], "--method: newton needs the same data for every trial of a step"),
        (["--method", "lion"], "--method: invalid choice: 'lion'"),
        (
            ["--num", "50000000"],
            "--num 50000000 with --steps 4, --seeds 1: a model of 8 parameters takes arrays of ",
        ),
        (["--num", "9", "--steps", str(2**31 - 1)], "bytes, more than 4,294,967,296"),
        (["--seeds", "2000000000", "--lane-batch", "9"], "--seeds 2000000000 and --lane-batch 9: "),
        (["--rho", "0:0.9"], "--rho is for --method momentum or nesterov, not for sgd"),
        (["--decay-every", "1:4"], "--decay-every is for --decay step, not for constant"),
        (["--decay", "step", "--decay-every", "0:4"], "--decay-every: every must be a finite"),
        (["--learning-rate", "fast"], "--learning-rate: must be X, A:B or A:B:log with numbers"),
        (["--learning-rate", "1:2:3"], "--learning-rate: must be X, A:B or A:B:log with numbers"),
        (["--learning-rate", "0.1:log"], "--learning-rate: must be X, A:B or A:B:log with numbers"),
        (["--learning-rate", "1:nan"], "--learning-rate: must be X, A:B or A:B:log with numbers"),
        (["--learning-rate", "1:1e39"], "--learning-rate: must be X, A:B or A:B:log with numbers"),
        (["--learning-rate", ":"], "--learning-rate: must be X, A:B or A:B:log with numbers"),
        (["--learning-rate", "1:0.1"], "A must be less than B in A:B, got '1:0.1'"),
        (["--learning-rate", "0:1:log"], "A must be > 0 in float32 in A:B:log, got '0:1:log'"),
        (["--learning-rate", "1e-39:1:log"], "A must be > 0 in float32 in A:B:log"),
        (["--learning-rate=-1:1"], "--learning-rate: learning_rate must be a finite number >= 0"),
        (["--learning-rate", "0.1"], "nothing varies: give a range A:B or A:B:log"),
        ([*PAIR, "--rho", "0:1"], "--rho: rho must be a number in [0, 1), got 1.0"),
        (["--method", "rmsprop", "--beta", "1"], "--beta: decay must be a number in [0, 1)"),
        (["--method", "adam", "--b2", "0.9:1"], "--b2: b2 must be a number in [0, 1), got 1.0"),
        (["--method", "adam", "--eps", "0:1"], "--eps: eps must be a finite number >= 1.175e-38"),
        (["--num", "1"], "--num: must be a whole number >= 2 and < 2^31, got '1'"),
        (["--seed", "1"], "--seed is for the random search of several ranges"),
        ([*PAIR, "--grid", "--seed", "1"], "--seed is for the random search of several ranges"),
        ([*PAIR, "--grid", "--num", "3"], "--grid of 2 ranges needs --num 4"),
        (["--lane-batch", "0"], "--lane-batch: must be a whole number >= 1"),
        (["--batch-size", "17"], "--batch-size 17 is more than the 16 training examples of tiny"),
        (["--out", os.devnull], f"can't write to --out {os.devnull}"),
    ],
)
def test_bad_input_is_one_line(options, message, small_sweep, assert_refused, monkeypatch):
    monkeypatch.setattr(experiment, "run", None)
    assert_refused(small_sweep(*options), message)


def test_a_file_in_the_place_of_the_rows(start, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "rows").write_text("")
    assert start() == 2
    assert "rows is a file there" in capsys.readouterr().err


def test_a_real_ctrl_c_in_a_real_sweep(tiny, tmp_path, capsys):
    options = ["sweep", "--data", tiny, "--steps", "300", "--batch-size", "8", "--model"]
    options += ["softmax", "--num", "200", "--lane-batch", "1", "--out", str(tmp_path / "out")]
    with subprocess.Popen(
        [sys.executable, "-m", "cs231n_optax", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr.readline().startswith("sgd: 2")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert f"Devices: {os.cpu_count()} (cpu)." in out
    assert "Traceback" not in err
    rows = tmp_path / "out" / "rows"
    saved = sum(len(np.load(path)["rows"]) for path in rows.iterdir())
    last = re.fullmatch(
        r"cs231n-optax: interrupted; (\d+) of 200 configurations are finished and kept in (.*): "
        "the same command goes on from there",
        err.splitlines()[-1],
    )
    assert last[2] == str(rows)
    assert saved - os.cpu_count() <= int(last[1]) <= saved  # one may be saved and not counted yet
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["rows"]
    assert cli.main(options) == 0
    assert f"Found in {rows}: {saved} of 200 are finished already." in capsys.readouterr().out
    assert len(rows_of(tmp_path / "out" / "sweep.csv")) == 200
