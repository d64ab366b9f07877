"""The command ``solve``: exit statuses, messages, files."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from cs231n_optax import cli
from cs231n_optax.experiments.solve import experiment


@pytest.fixture
def solve_command(tmp_path):
    """The command of a solve; it writes to tmp_path / "out"."""
    return lambda *options: ["solve", *options, "--out", str(tmp_path / "out")]


@pytest.fixture
def start(solve_command):
    return lambda *options: cli.main(solve_command(*options))


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
        (["taco_shell", "--method", "newton_cg"], "CONVERGED"),  # as in Python
    ],
)
def test_a_solve(options, status, start, tmp_path, capsys):
    assert start(*options) == 0
    out, err = capsys.readouterr()
    document = json.loads((tmp_path / "out" / "solve.json").read_text())
    assert document["result"]["status"] == status
    assert f"\n{status}: " in out
    assert f": {status} after {document['result']['num_evals']} evaluations\n" in err
    picture = "path.png" if len(document["result"]["params"]) == 2 else "curves.png"
    files = {"solve.csv", "solve.json", picture}
    assert {path.name for path in (tmp_path / "out").iterdir()} == files
    for name in files:
        assert str(tmp_path / "out" / name) in out
    assert not any(ord(c) < 32 and c != "\n" for c in out + err)


@pytest.mark.parametrize(("method", "value"), [("newton", -1.0), ("sgd", 0.0), ("lbfgs", 0.0)])
def test_only_newton_leaves_the_saddle_that_it_is_started_on(method, value, start, tmp_path):
    assert start("saddle", "--method", method) == 0
    result = json.loads((tmp_path / "out" / "solve.json").read_text())["result"]
    assert result["status"] == "CONVERGED"
    assert result["value"] == pytest.approx(value, abs=1e-8)
    expected = [0.0, 2**0.5] if value else [0.0, 0.0]
    assert [abs(x) for x in result["params"]] == pytest.approx(expected, abs=1e-4)
    assert (result["num_evals"] == 1) == (value == 0)


def test_a_quiet_solve(start, tmp_path, capsys):
    assert start("himmelblau", "--quiet") == 0
    assert capsys.readouterr() == ("", "")
    assert (tmp_path / "out" / "path.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "Missing argument 'PROBLEM'"),
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
        (["beale", "--memory-size", "40000"], "memory_size=40000 takes a 40000 x 40000 matrix"),
        (
            ["rosenbrock", "--memory-size", "5000", "--dim", "1000000"],
            "lbfgs with --memory-size 5000 on 1000000 variables takes arrays of 80,",
        ),
        (["beale", "--tol", "1e39", "--dtype", "float32"], "--tol 1e+39 is too large for float32"),
        (["beale", "--method", "sgd", "--learning-rate", "1e39"], "α must be a finite number > 0"),
        (["beale", "--memory-size", "0"], "--memory-size: must be a whole number >= 1"),
        (["beale", "--dtype", "float16"], "--dtype: invalid choice: 'float16'"),
        (["beale", "--max", "3"], "No such option: --max"),
    ],
)
def test_bad_input_is_one_line(options, message, solve_command, assert_refused, monkeypatch):
    monkeypatch.setattr(experiment, "run", None)
    assert_refused(solve_command(*options), message)


@pytest.mark.parametrize(
    ("method", "dim"),
    [("bfgs", 5000), ("newton", 2000), ("newton-cg", 5001), ("lbfgs", 5001), ("gd", 5001)],
)
def test_the_largest_dimension(method, dim, start, monkeypatch):
    """It is not refused: the run begins."""
    begun = []

    def run(landscape, tx, setting, progress):
        begun.append(len(landscape.x0))
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "run", run)
    assert start("rosenbrock", "--dim", str(dim), "--method", method) == 130
    assert begun == [dim]


def test_a_folder_in_the_place_of_a_solution(start, tmp_path, capsys):
    (tmp_path / "out" / "path.png").mkdir(parents=True)
    assert start("beale") == 2
    assert "path.png is a folder there" in capsys.readouterr().err


def test_ctrl_c_during_a_solve(start, monkeypatch, tmp_path, capsys):
    def run(*_):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)

    monkeypatch.setattr(experiment, "run", run)
    assert start("beale") == 130
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
        time.sleep(1)  # by then it has compiled, or will hear of it when it has
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "cs231n-optax: interrupted, nothing is written\n"
    assert not (tmp_path / "out").exists()
