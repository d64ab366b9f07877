"""The command ``race``: exit statuses, messages, files."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import cs231n_optax
from cs231n_optax import cli
from cs231n_optax.experiments.race import experiment, report
from cs231n_optax.experiments.sweep import experiment as sweep_experiment

FILES = {"race.csv", "race.json", "race.png"}


@pytest.fixture
def small_race(tiny, tmp_path):
    """The command of a small race with further options; it writes to tmp_path / "out"."""

    def command(*options):
        small = ["--steps", "4", "--batch-size", "8", "--seeds", "2", "--model", "softmax"]
        where = ["--data", tiny, "--out", str(tmp_path / "out")]
        return ["race", *where, *small, "--methods", "sgd,adam", *options]

    return command


@pytest.fixture
def start(small_race):
    return lambda *options: cli.main(small_race(*options))


def test_a_race(start, tiny, tmp_path, capsys):
    assert start("--decay", "step", "--learning-rate", "sgd=0.25") == 0
    out, err = capsys.readouterr()
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    assert "Data: tiny, 16 examples to train on and 8 to test." in out
    assert "Learning rates: sgd 0.25, adam " in out
    assert "Decay: step (every = 1, factor = 0.5)." in out
    assert " wins" in out
    for name in FILES:
        assert str(tmp_path / "out" / name) in out
    assert [line.split(":")[0] for line in err.splitlines()] == ["sgd", "adam"]
    assert not any(ord(c) < 32 and c != "\n" for c in out + err)
    configuration = json.loads((tmp_path / "out" / "race.json").read_text())["configuration"]
    assert configuration["learning_rates"]["sgd"] == 0.25
    assert configuration["decay_parameters"] == {"every": 1, "factor": 0.5}
    assert configuration["source"] == tiny


def test_a_quiet_race_on_images(start, tmp_path, capsys):
    x, y = np.random.default_rng(0).normal(size=(16, 4, 4)), np.arange(16) % 2
    images = tmp_path / "images.npz"
    np.savez(images, x_train=x, y_train=y, x_test=x, y_test=y)
    options = ["--data", str(images), "--model", "cnn", "--methods", "sgd", "--seeds", "1"]
    assert start("--quiet", *options) == 0
    assert capsys.readouterr() == ("", "")
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES


@pytest.fixture
def no_race(monkeypatch):
    """Bad input must be found out before anything is trained."""

    def run(*_):
        raise AssertionError("the race began")

    monkeypatch.setattr(experiment, "run", run)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--methods", "sgd,newton_cg"],
            "--methods: newton-cg needs the same data for every trial of a step, but here each "
            "step has another mini-batch; instead: cs231n-optax solve softmax-regression --method "
            "newton-cg",
        ),
        (["--methods", "sgd,lion"], "invalid choice: 'lion' (choose from sgd, momentum, nesterov"),
        (["--methods", ""], "invalid choice: ''"),
        (["--methods", "sgd,adam,sgd"], "sgd is named twice"),
        (["--steps", "0"], "--steps: must be a whole number >= 1 and < 2^31, got '0'"),
        (["--steps", "-5"], "--steps: must be a whole number >= 1 and < 2^31, got '-5'"),
        (["--steps", str(2**31)], "--steps: must be a whole number >= 1 and < 2^31"),
        (["--steps", 5000 * "1"], f"and < 2^31, got '{40 * '1'}'"),
        (
            ["--steps", str(2**31 - 1)],
            "--steps 2147483647 with --seeds 2 and 2 methods: a model of 8 parameters with "
            "--batch-size 8 takes arrays of 154,618,823,160 bytes, more than 4,294,967,296",
        ),
        (["--seeds", "2000000000"], "--seeds 2000000000 and 2 methods: a model of 8 parameters"),
        (["--tune", "2000000000"], "--tune 2000000000 with --steps 4: a model of 8 parameters"),
        (["--steps", "1e3"], "--steps: must be a whole number >= 1 and < 2^31, got '1e3'"),
        (["--seeds", "0"], "--seeds: must be a whole number >= 1"),
        (["--batch-size", "0"], "--batch-size: must be a whole number >= 1"),
        (["--batch-size", "17"], "--batch-size 17 is more than the 16 training examples of tiny"),
        (["--learning-rate", "sgd"], "expected METHOD=α, such as sgd=0.1; got 'sgd'"),
        (["--learning-rate", "sgd="], "α must be a finite number > 0 in float32, got ''"),
        (["--learning-rate", "sgd=-0.1"], "α must be a finite number > 0 in float32, got '-0.1'"),
        (["--learning-rate", "sgd=0"], "α must be a finite number > 0"),
        (["--learning-rate", "sgd=nan"], "α must be a finite number > 0"),
        (["--learning-rate", "sgd=1e39"], "α must be a finite number > 0 in float32, got '1e39'"),
        (["--learning-rate", "sgd=1e-39"], "α must be a finite number > 0 in float32"),
        (["--learning-rate", "sgd=inf"], "α must be a finite number > 0"),
        (["--learning-rate", "sgd=fast"], "α must be a finite number > 0 in float32, got 'fast'"),
        (["--learning-rate", "newton=1"], "newton needs the same data for every trial of a step"),
        (["--learning-rate", "rmsprop=1"], "--learning-rate rmsprop: this method does not race"),
        (["--learning-rate", "sgd=1", "--learning-rate", "sgd=2"], "names a method twice"),
        (["--accuracy", "95"], "--accuracy: must be a number in (0, 1], got '95'"),
        (["--accuracy", "nan"], "--accuracy: must be a number in (0, 1]"),
        (["--decay", "linear"], "--decay: invalid choice: 'linear'"),
        (["--model", "transformer"], "--model: invalid choice: 'transformer'"),
        (["--model", "cnn"], "--model cnn does not suit tiny: "),
        (["--data", "imagenet"], "no such data: imagenet is not digits, mnist5k or a path"),
        (["--data", os.devnull], "not a regular file"),
        (["--data", "caf\udce9.npz"], "'caf\\udce9.npz': its name is not UTF-8"),
        (["--data", "."], "no data_batch_*.bin here"),
        (["--tune", "1"], "--tune: must be a whole number >= 2 and < 2^31, got '1'"),
        (["--tune", "4", "--learning-rate", "sgd=1"], "leave out --learning-rate, or --tune"),
        (["--rate", "guess"], "--rate: invalid choice: 'guess' (choose from default, search)"),
        (["--rate", "search", "--tune", "4"], "leave out --learning-rate and --tune, or --rate"),
        (["--rate", "search", "--learning-rate", "sgd=1"], "leave out --learning-rate and --tune"),
        (["--rate", "search"], "--rate search takes 80 of the steps: --steps 4 must be more"),
        (["--out", os.devnull], f"can't write to --out {os.devnull}"),
        (["--out", f"{os.devnull}/race"], f"can't write to --out {os.devnull}/race"),
        (["--out", "/proc/race"], "can't write to --out /proc/race"),
        (["--step", "3"], "No such option: --step"),
    ],
)
def test_bad_input_is_one_line(options, message, small_race, no_race, assert_refused):
    assert_refused(small_race(*options), message)


def test_bad_data_is_one_line(small_race, no_race, assert_refused, tmp_path):
    x, y = np.ones((4, 2)), np.array([0, 1, 0, 1])
    unlabelled, broken = str(tmp_path / "unlabelled.npz"), str(tmp_path / "broken.npz")
    np.savez(unlabelled, x_train=x, x_test=x)
    x[1, 1] = np.nan
    np.savez(broken, x_train=x, y_train=y, x_test=x, y_test=y)
    for path, message in ((unlabelled, "no array y_train"), (broken, "NaN")):
        assert_refused(small_race("--data", path), message)
        assert_refused(small_race("--data", path), path)


def test_a_folder_in_the_place_of_a_result(start, no_race, tmp_path, capsys):
    (tmp_path / "out" / "race.png").mkdir(parents=True)
    assert start() == 2
    assert "race.png is a folder there" in capsys.readouterr().err


def pretend(entrant, task, budget, progress):
    """A race without training."""
    every, ends = np.ones((budget.seeds, budget.steps)), np.ones((budget.seeds, 2))
    finished = np.full(budget.seeds, -1)
    at = np.array([0, budget.steps])
    return experiment.Track(entrant, every, every, every, at, ends, ends, finished, 1.0, 1.0)


def interrupt_at(monkeypatch, call):
    """Let the race of the method with this number be interrupted."""
    calls = []

    def run(*args):
        calls.append(args)
        if len(calls) == call:
            raise KeyboardInterrupt
        return pretend(*args)

    monkeypatch.setattr(experiment, "run", run)


def test_ctrl_c_keeps_what_has_finished(start, monkeypatch, tmp_path, capsys):
    interrupt_at(monkeypatch, 2)
    assert start("--methods", "sgd,adam,momentum") == 130
    out, err = capsys.readouterr()
    assert "Only sgd finished" in out
    assert err.splitlines()[-1] == (
        "cs231n-optax: interrupted; finished and written: sgd; not finished: adam, momentum"
    )
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    document = json.loads((tmp_path / "out" / "race.json").read_text())
    assert [result["method"] for result in document["results"]] == ["sgd"]
    assert document["unfinished"] == ["adam", "momentum"]


def test_ctrl_c_before_anything_has_finished(start, monkeypatch, tmp_path, capsys):
    interrupt_at(monkeypatch, 1)
    assert start() == 130
    assert capsys.readouterr().err == "cs231n-optax: interrupted, nothing is written\n"
    assert not (tmp_path / "out").exists()


def test_a_real_ctrl_c_in_a_real_process(tiny, tmp_path):
    command = [sys.executable, "-m", "cs231n_optax", "race", "--data", tiny]
    command += ["--steps", "40", "--batch-size", "8", "--model", "softmax"]
    with subprocess.Popen(
        [*command, "--out", str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr.readline().startswith("sgd: train loss ")
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)  # a second one does no harm
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "interrupted; finished and written: sgd" in err
    assert "Traceback" not in err
    assert not any(ord(c) < 32 and c != "\n" for c in out + err)
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    assert json.loads((tmp_path / "out" / "race.json").read_text())["complete"] is False


def test_rates_by_a_range_test(start, monkeypatch, tmp_path, capsys):
    """What it takes of the budget is counted, and each race starts at the suggested rate."""
    monkeypatch.setattr(experiment, "run", pretend)
    assert start("--rate", "search", "--steps", "84", "--decay", "step") == 0
    out = capsys.readouterr().out
    assert "Budget: 4 steps of 8 examples" in out
    assert "from seed 2, which does not race: each is an order of magnitude." in out
    assert "Its 80 evaluations are counted: of 84 steps 4 are left." in out
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES | {"race-rates.png"}
    configuration = json.loads((tmp_path / "out" / "race.json").read_text())["configuration"]
    assert configuration["budget"]["steps"] == 4
    assert configuration["decay_parameters"] == {"every": 1, "factor": 0.5}
    search = {"rates": 40, "lowest": 1e-4, "highest": 10.0, "seed": 2, "evaluations": 80}
    assert configuration["search"] == search
    for rate in configuration["learning_rates"].values():
        assert np.isclose(rate, np.geomspace(1e-4, 10, 40), rtol=1e-4).any()
    # A race without it leaves no picture of it.
    assert start() == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES


def test_every_method_is_tuned_alike(start, monkeypatch, tmp_path, capsys):
    grids = []

    def sweep(run, grid, **options):
        grids.append(grid["learning_rate"].tolist())
        return cs231n_optax.sweep(run, grid, **options)

    monkeypatch.setattr(sweep_experiment, "sweep", sweep)
    monkeypatch.setattr(experiment, "run", pretend)
    assert start("--tune", "3") == 0
    assert grids == [pytest.approx([1e-4, 10**-1.5, 10])] * 2
    out, err = capsys.readouterr()
    assert "Tuned: each is the best of 3 from 0.0001 to 10, from seed 2, which does not race" in out
    assert err.splitlines()[-3].startswith("tuning: 6 of 6, adam")
    configuration = json.loads((tmp_path / "out" / "race.json").read_text())["configuration"]
    assert configuration["tuning"] == {"runs": 3, "lowest": 1e-4, "highest": 10.0, "seed": 2}
    assert configuration["learning_rates"].keys() == {"sgd", "adam"}
    for method, rate in configuration["learning_rates"].items():
        assert rate in grids[0]
        end = f"The rate of {method} is an end of the range" in out
        assert end == (rate in (grids[0][0], grids[0][-1]))


def test_ctrl_c_while_tuning(start, no_race, monkeypatch, tmp_path, capsys):
    def tune(*_):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)

    monkeypatch.setattr(sweep_experiment, "tune", tune)
    assert start("--tune", "3") == 130
    assert capsys.readouterr() == ("", "cs231n-optax: interrupted, nothing is written\n")
    assert not (tmp_path / "out").exists()


def test_results_that_cant_be_written_are_shown(start, monkeypatch, capsys):
    def write(*_):
        raise OSError(28, "No space left on device", "out/race.csv")

    monkeypatch.setattr(experiment, "run", pretend)
    monkeypatch.setattr(report, "write", write)
    assert start("--methods", "sgd") == 1
    out, err = capsys.readouterr()
    assert "Only sgd finished" in out
    assert "No space left on device" in err.splitlines()[-1]
