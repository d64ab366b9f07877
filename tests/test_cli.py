"""The command line from outside: exit statuses, messages, files."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import cs231n_optax
from cs231n_optax import cli
from cs231n_optax.gallery import race, solve, sweep_study
from cs231n_optax.problems import datasets, networks

FILES = {"race.csv", "race.json", "race.png"}
SWEEP_FILES = {"sweep.csv", "sweep.json", "sweep.png", "rows"}


def save(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def assert_one_line(message, capsys, tmp_path):
    """One line on stderr says what is wrong, and nothing is written."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("cs231n-optax: ")
    assert message in err
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.fixture
def tiny(tmp_path):
    """A data set of 16 feature vectors to train on and 8 to test."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(24, 3))
    y = (x[:, 0] > 0).astype(int)
    parts = {"x_train": x[:16], "y_train": y[:16], "x_test": x[16:], "y_test": y[16:]}
    return save(tmp_path / "tiny.npz", **parts)


@pytest.fixture
def start(tiny, tmp_path):
    """Run a small race with further options; it writes to tmp_path / "out"."""

    def start(*options):
        small = ["--steps", "4", "--batch-size", "8", "--seeds", "2", "--model", "softmax"]
        where = ["--data", tiny, "--out", str(tmp_path / "out")]
        return cli.main(["race", *where, *small, "--methods", "sgd,adam", *options])

    return start


def test_a_race(start, tmp_path, capsys):
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
    assert configuration["source"] == str(tmp_path / "tiny.npz")


def test_a_quiet_race_on_images(start, tmp_path, capsys):
    x, y = np.random.default_rng(0).normal(size=(16, 4, 4)), np.arange(16) % 2
    images = save(tmp_path / "images.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    options = ["--data", images, "--model", "cnn", "--methods", "sgd", "--seeds", "1"]
    assert start("--quiet", *options) == 0
    assert capsys.readouterr() == ("", "")
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES


@pytest.fixture
def no_race(monkeypatch):
    """Bad input must be found out before anything is trained."""

    def run(*_):
        raise AssertionError("the race began")

    monkeypatch.setattr(race, "run", run)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "sgd,newton"], "unknown method 'newton'; known are sgd, momentum, nesterov"),
        (["--methods", ""], "unknown method ''"),
        (["--methods", "sgd,adam,sgd"], "sgd is named twice"),
        (["--steps", "0"], "--steps: must be a whole number >= 1 and < 2^31, got '0'"),
        (["--steps", "-5"], "--steps: must be a whole number >= 1 and < 2^31, got '-5'"),
        (["--steps", str(2**31)], "--steps: must be a whole number >= 1 and < 2^31"),
        (["--steps", "1e3"], "--steps: must be a whole number >= 1 and < 2^31, got '1e3'"),
        (["--seeds", "0"], "--seeds: must be a whole number >= 1"),
        (["--batch-size", "0"], "--batch-size: must be a whole number >= 1"),
        (["--batch-size", "17"], "--batch-size 17 is more than the 16 training examples of tiny"),
        (["--learning-rate", "sgd"], "α must be a finite number > 0, got ''"),
        (["--learning-rate", "sgd=-0.1"], "α must be a finite number > 0, got '-0.1'"),
        (["--learning-rate", "sgd=0"], "α must be a finite number > 0"),
        (["--learning-rate", "sgd=nan"], "α must be a finite number > 0"),
        (["--learning-rate", "sgd=inf"], "α must be a finite number > 0"),
        (["--learning-rate", "sgd=fast"], "α must be a finite number > 0, got 'fast'"),
        (["--learning-rate", "newton=1"], "expected METHOD=α"),
        (["--learning-rate", "rmsprop=1"], "--learning-rate rmsprop: this method does not race"),
        (["--learning-rate", "sgd=1", "--learning-rate", "sgd=2"], "names a method twice"),
        (["--accuracy", "95"], "--accuracy: must be a number in (0, 1], got '95'"),
        (["--accuracy", "nan"], "--accuracy: must be a number in (0, 1]"),
        (["--decay", "linear"], "--decay: invalid choice: 'linear'"),
        (["--model", "transformer"], "--model: invalid choice: 'transformer'"),
        (["--model", "cnn"], "--model cnn does not suit tiny: "),
        (["--data", "imagenet"], "no such data: imagenet is not digits, mnist5k or a path"),
        (["--data", os.devnull], "not a NumPy .npz archive"),
        (["--data", "."], "no data_batch_*.bin here"),
        (["--tune", "1"], "--tune: must be a whole number >= 2 and < 2^31, got '1'"),
        (["--tune", "4", "--learning-rate", "sgd=1"], "leave out --learning-rate, or --tune"),
        (["--out", os.devnull], f"can't write to --out {os.devnull}"),
        (["--out", f"{os.devnull}/race"], f"can't write to --out {os.devnull}/race"),
        (["--out", "/proc/race"], "can't write to --out /proc/race"),
        (["--step", "3"], "unrecognized arguments: --step 3"),
    ],
)
def test_bad_input_is_one_line(options, message, start, no_race, tmp_path, capsys):
    assert start(*options) == 2
    assert_one_line(message, capsys, tmp_path)


@pytest.mark.parametrize("command", [[], ["sprint"]])
def test_bad_command_is_one_line(command, capsys):
    assert cli.main(command) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)


def test_bad_data_is_one_line(start, no_race, tmp_path, capsys):
    x, y = np.ones((4, 2)), np.array([0, 1, 0, 1])
    unlabelled = save(tmp_path / "unlabelled.npz", x_train=x, x_test=x)
    x[1, 1] = np.nan
    broken = save(tmp_path / "broken.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    for path, message in ((unlabelled, "no array y_train"), (broken, "NaN")):
        assert start("--data", path) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert message in err
        assert path in err
    assert not (tmp_path / "out").exists()


def test_a_folder_in_the_place_of_a_result(start, no_race, tmp_path, capsys):
    (tmp_path / "out" / "race.png").mkdir(parents=True)
    assert start() == 2
    assert "race.png is a folder there" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["rich", "matplotlib"])
def test_without_the_gallery_extra(package, start, no_race, monkeypatch, tmp_path, capsys):
    for name in list(sys.modules):
        if name.split(".")[0] == package or name.startswith("cs231n_optax.gallery.race_"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    assert start() == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "pip install 'cs231n_optax[gallery]'" in err
    assert not (tmp_path / "out").exists()


def test_the_module_imports_without_extras():
    code = (
        "import sys, cs231n_optax.cli\n"
        "assert not {'matplotlib', 'rich', 'sklearn', 'mlxtend'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def help_of(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main([command, "--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 100
    return text


def test_help(capsys):
    text = help_of("race", capsys)
    for word in (*cli.METHODS, *cli.DATASETS, *cli.MODELS, *cli.DECAYS, "--out", "--quiet"):
        assert word in text
    text = help_of("sweep", capsys)
    flags = [cli._flag(name) for name in cli.HYPERPARAMETERS]
    for word in (*cli.METHODS, *cli.DECAYS, *flags, "--num", "--grid", "--seed", "--lane-batch"):
        assert word.rpartition("-")[0] in text
    text = help_of("solve", capsys)
    for word in (*cli.SEARCHES, *cli.METHODS, *cli.PROBLEMS, "--start", "--out", "--quiet"):
        assert word.partition("-")[0] in text


def test_the_module_does_not_start_jax():
    code = (
        "import cs231n_optax.cli, jax\n"
        "jax.config.update('jax_num_cpu_devices', 3)\n"
        "assert jax.device_count() == 3\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_every_default_rate_is_there():
    wanted = {(model, data) for model in cli.MODELS for data in cli.DATASETS}
    assert cli.LEARNING_RATES.keys() == wanted
    for rates in cli.LEARNING_RATES.values():
        assert rates.keys() == cli.METHODS.keys()
        assert all(0 < rate < 10 for rate in rates.values())


def test_decays_suit_the_length_of_the_race():
    for name, decay in cli.DECAYS.items():
        schedule = decay.schedule(0.5, **decay.parameters(1000))
        assert float(schedule(0)) == pytest.approx(0.5)
        end = float(schedule(999)) / 0.5
        wanted = {"constant": 1, "step": 1 / 8, "cyclic-cosine": 0}.get(name, 1 / 10)
        assert end == pytest.approx(wanted, abs=1e-3)


# Ctrl-C.


def pretend(entrant, problem, budget, progress):
    """A race without training."""
    every, ends = np.ones((budget.seeds, budget.steps)), np.ones((budget.seeds, 2))
    finished = np.full(budget.seeds, -1)
    at = np.array([0, budget.steps])
    return race.Track(entrant, every, every, every, at, ends, ends, finished, 1.0, 1.0)


def interrupt_at(monkeypatch, call):
    """Let the race of the method with this number be interrupted."""
    calls = []

    def run(*args):
        calls.append(args)
        if len(calls) == call:
            raise KeyboardInterrupt
        return pretend(*args)

    monkeypatch.setattr(race, "run", run)


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
    command += ["--steps", "3000", "--batch-size", "8", "--model", "softmax"]
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


# Tuning.


def test_every_method_is_tuned_alike(start, monkeypatch, tmp_path, capsys):
    grids = []

    def sweep(run, grid, **options):
        grids.append(grid["learning_rate"].tolist())
        return cs231n_optax.sweep(run, grid, **options)

    monkeypatch.setattr(sweep_study, "sweep", sweep)
    monkeypatch.setattr(race, "run", pretend)
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

    monkeypatch.setattr(sweep_study, "tune", tune)
    assert start("--tune", "3") == 130
    assert capsys.readouterr() == ("", "cs231n-optax: interrupted, nothing is written\n")
    assert not (tmp_path / "out").exists()


# A disk that fails after the race.


def test_results_that_cant_be_written_are_shown(start, monkeypatch, capsys):
    from cs231n_optax.gallery import race_report

    def write(*_):
        raise OSError(28, "No space left on device", "out/race.csv")

    monkeypatch.setattr(race, "run", pretend)
    monkeypatch.setattr(race_report, "write", write)
    assert start("--methods", "sgd") == 1
    out, err = capsys.readouterr()
    assert "Only sgd finished" in out
    assert "No space left on device" in err.splitlines()[-1]


# The sweep.


@pytest.fixture
def start_sweep(tiny, tmp_path):
    """Run a small sweep with further options; it writes to tmp_path / "out"."""

    def start(*options):
        small = ["--steps", "4", "--batch-size", "8", "--model", "softmax", "--num", "6"]
        where = ["--data", tiny, "--out", str(tmp_path / "out")]
        return cli.main(["sweep", *where, *small, *options])

    return start


PAIR = ["--method", "momentum", "--learning-rate", "0.01:1:log", "--rho", "0:0.9"]


def rows_of(path):
    with open(path, newline="") as file:
        return [{name: float(x) for name, x in row.items()} for row in csv.DictReader(file)]


def test_a_sweep_and_how_it_goes_on(start_sweep, tiny, tmp_path, capsys):
    options = [*PAIR, "--lane-batch", "1"]
    assert start_sweep(*options) == 0
    out, err = capsys.readouterr()
    folder = tmp_path / "out"
    assert {path.name for path in folder.iterdir()} == SWEEP_FILES
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
    assert start_sweep(*options) == 0
    assert f"Found in {folder / 'rows'}: 4 of 6 are finished already." in capsys.readouterr().out
    assert rows_of(folder / "sweep.csv") == rows
    assert saved[1].exists()
    assert all((folder / "rows" / name).stat().st_mtime_ns == at for name, at in times.items())

    assert start_sweep(*options, "--steps", "5") == 2
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
def test_what_varies_and_what_is_fixed(options, columns, fixed, start_sweep, tmp_path, capsys):
    assert start_sweep(*options) == 0
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
        (["--method", "newton"], "--method: invalid choice: 'newton'"),
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
        (["--learning-rate", "0:1:log"], "A must be > 0 in A:B:log, got '0:1:log'"),
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
def test_bad_input_to_sweep_is_one_line(
    options, message, start_sweep, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(sweep_study, "run", None)
    assert start_sweep(*options) == 2
    assert_one_line(message, capsys, tmp_path)


def test_a_file_in_the_place_of_the_rows(start_sweep, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "rows").write_text("")
    assert start_sweep() == 2
    assert "rows is a file there" in capsys.readouterr().err


def test_a_real_ctrl_c_in_a_real_sweep(tiny, tmp_path, capsys):
    options = ["sweep", "--data", tiny, "--steps", "3000", "--batch-size", "8", "--model"]
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


# The other command.


@pytest.fixture
def start_solve(tmp_path):
    """Solve; it writes to tmp_path / "out"."""

    def start(*options):
        return cli.main(["solve", *options, "--out", str(tmp_path / "out")])

    return start


@pytest.mark.parametrize(
    ("options", "status"),
    [
        (["rosenbrock"], "CONVERGED"),
        (["himmelblau", "--method", "gd", "--start", "-1,-1"], "CONVERGED"),
        (["beale", "--method", "bfgs", "--dtype", "float32"], "CONVERGED"),
        (["taco-shell", "--method", "adam", "--max-evals", "20"], "BUDGET"),
        (["rosenbrock", "--dim", "4", "--memory-size", "3"], "CONVERGED"),
        (["rosenbrock", "--method", "sgd", "--learning-rate", "1"], "FAILED"),
        (["logistic-regression", "--max-evals", "5"], "BUDGET"),
        (["rosenbrock", "--method", "newton"], "CONVERGED"),
        (["rosenbrock", "--method", "newton-cg", "--dim", "100"], "CONVERGED"),
        (["beale", "--method", "newton-cg", "--dtype", "float32"], "CONVERGED"),
        (["saddle", "--method", "newton", "--max-evals", "2"], "BUDGET"),
    ],
)
def test_a_solve(options, status, start_solve, tmp_path, capsys):
    assert start_solve(*options) == 0
    out, err = capsys.readouterr()
    document = json.loads((tmp_path / "out" / "solve.json").read_text())
    assert document["result"]["status"] == status
    assert f"\n{status}: " in out
    assert f": {status} after {document['result']['num_evals']} evaluations\n" in err
    files = {"solve.csv", "solve.json", "path.png"}
    if len(document["result"]["params"]) != 2:
        files.remove("path.png")
    assert {path.name for path in (tmp_path / "out").iterdir()} == files
    for name in files:
        assert str(tmp_path / "out" / name) in out
    assert not any(ord(c) < 32 and c != "\n" for c in out + err)


@pytest.mark.parametrize(("method", "value"), [("newton", -1.0), ("sgd", 0.0), ("lbfgs", 0.0)])
def test_only_newton_leaves_the_saddle_that_it_is_started_on(method, value, start_solve, tmp_path):
    assert start_solve("saddle", "--method", method) == 0
    result = json.loads((tmp_path / "out" / "solve.json").read_text())["result"]
    assert result["status"] == "CONVERGED"
    assert result["value"] == pytest.approx(value, abs=1e-8)
    expected = [0.0, 2**0.5] if value else [0.0, 0.0]
    assert [abs(x) for x in result["params"]] == pytest.approx(expected, abs=1e-4)
    assert (result["num_evals"] == 1) == (value == 0)


def test_a_quiet_solve(start_solve, tmp_path, capsys):
    assert start_solve("himmelblau", "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert (tmp_path / "out" / "path.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "the following arguments are required: PROBLEM"),
        (["eggholder"], "invalid choice: 'eggholder'"),
        (["beale", "--method", "simplex"], "--method: invalid choice: 'simplex'"),
        (["beale", "--dim", "2"], "--dim is for rosenbrock: beale has a fixed dimension"),
        (["rosenbrock", "--dim", "1"], "--dim must be from 2 to 1000000, got 1"),
        (["rosenbrock", "--dim", "1000001"], "--dim must be from 2 to 1000000"),
        (["rosenbrock", "--dim", "two"], "--dim: must be a whole number >= 1"),
        (
            ["rosenbrock", "--dim", "5001", "--method", "bfgs"],
            "--dim 5001 is too large for bfgs, which keeps N² numbers: at most 5000, or --method "
            "lbfgs",
        ),
        (
            ["rosenbrock", "--dim", "2001", "--method", "newton"],
            "--dim 2001 is too large for newton, which keeps N² numbers: at most 2000, or "
            "--method newton-cg",
        ),
        (["beale", "--start", "1"], "--start has 1 number, but beale has 2 variables"),
        (["beale", "--start", "-1,2,3"], "--start has 3 numbers, but beale has 2 variables"),
        (["rosenbrock", "--dim", "3", "--start", "1,2"], "but rosenbrock has 3 variables"),
        (["beale", "--start", "1,two"], "--start: must be finite numbers X,Y,..., got '1,two'"),
        (["beale", "--start", "1,nan"], "--start: must be finite numbers"),
        (["beale", "--start", "1,"], "--start: must be finite numbers"),
        (["beale", "--start", "1e39,1", "--dtype", "float32"], "too large for float32"),
        (["beale", "--tol", "-1"], "--tol: must be a finite number >= 0, got '-1'"),
        (["beale", "--tol", "nan"], "--tol: must be a finite number >= 0"),
        (["beale", "--max-evals", "0"], "--max-evals: must be a whole number >= 1"),
        (["beale", "--learning-rate", "1"], "--learning-rate: lbfgs chooses its steps by itself"),
        (
            ["beale", "--method", "newton", "--learning-rate", "1"],
            "--learning-rate: newton chooses its steps by itself",
        ),
        (
            ["beale", "--method", "newton-cg", "--learning-rate", "1"],
            "--learning-rate: newton-cg chooses its steps by itself",
        ),
        (
            ["beale", "--method", "newton", "--memory-size", "3"],
            "--memory-size is for --method lbfgs, not for newton",
        ),
        (["saddle", "--dim", "2"], "--dim is for rosenbrock: saddle has a fixed dimension"),
        (["beale", "--method", "sgd", "--learning-rate", "0"], "α must be a finite number > 0"),
        (["beale", "--method", "gd", "--memory-size", "3"], "--memory-size is for --method lbfgs"),
        (["beale", "--memory-size", "0"], "--memory-size: must be a whole number >= 1"),
        (["beale", "--dtype", "float16"], "--dtype: invalid choice: 'float16'"),
        (["beale", "--max", "3"], "unrecognized arguments: --max 3"),
    ],
)
def test_bad_input_to_solve_is_one_line(
    options, message, start_solve, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(solve, "run", None)
    assert start_solve(*options) == 2
    assert_one_line(message, capsys, tmp_path)


@pytest.mark.parametrize(
    ("method", "dim"),
    [("bfgs", 5000), ("newton", 2000), ("newton-cg", 5001), ("lbfgs", 5001), ("gd", 5001)],
)
def test_the_largest_dimension(method, dim, start_solve, monkeypatch):
    """It is not refused: the run begins."""
    begun = []

    def run(landscape, tx, setting, progress):
        begun.append(len(landscape.x0))
        raise KeyboardInterrupt

    monkeypatch.setattr(solve, "run", run)
    assert start_solve("rosenbrock", "--dim", str(dim), "--method", method) == 130
    assert begun == [dim]


def test_a_folder_in_the_place_of_a_solution(start_solve, tmp_path, capsys):
    (tmp_path / "out" / "path.png").mkdir(parents=True)
    assert start_solve("beale") == 2
    assert "path.png is a folder there" in capsys.readouterr().err


def test_ctrl_c_during_a_solve(start_solve, monkeypatch, tmp_path, capsys):
    def run(*_):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)

    monkeypatch.setattr(solve, "run", run)
    assert start_solve("beale") == 130
    assert capsys.readouterr().err == "cs231n-optax: interrupted, nothing is written\n"
    assert not (tmp_path / "out").exists()


def test_a_real_ctrl_c_in_a_real_solve(tmp_path):
    command = [sys.executable, "-m", "cs231n_optax", "solve", "rosenbrock", "--method", "sgd"]
    command += ["--learning-rate", "1e-9", "--max-evals", "1000000"]
    with subprocess.Popen(
        [*command, "--out", str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        text=True,
    ) as process:
        assert process.stdout.readline().startswith("Problem: Rosenbrock")
        time.sleep(2)  # by then it has compiled, or will hear of it when it has
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "cs231n-optax: interrupted, nothing is written\n"
    assert not (tmp_path / "out").exists()


def test_every_default_rate_of_solve_is_there():
    assert cli.SOLVE_RATES.keys() == cli.PROBLEMS.keys()
    for rates in cli.SOLVE_RATES.values():
        assert rates.keys() == cli.METHODS.keys()
        assert all(0 < rate <= 1 for rate in rates.values())
