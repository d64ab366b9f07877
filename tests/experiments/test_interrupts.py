"""Ctrl-C and SIGTERM: no moment of a command loses them, and none turns into a traceback."""

import gc
import os
import signal
import subprocess
import sys

import pytest

from cs231n_optax import cli
from cs231n_optax.experiments import interrupts
from cs231n_optax.experiments.race import experiment
from cs231n_optax.experiments.solve import experiment as solve_experiment
from cs231n_optax.experiments.solve import report as solve_report

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
NOTHING = "cs231n-optax: interrupted, nothing is written\n"


@pytest.fixture
def solve(tmp_path):
    return lambda: cli.main(["solve", "beale", "--quiet", "--out", str(tmp_path / "out")])


def before(function, action):
    def call(*args, **options):
        action()
        return function(*args, **options)

    return call


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_a_signal_while_it_runs(number, status, solve, monkeypatch, capsys, tmp_path):
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    kill = before(solve_experiment.run, lambda: os.kill(os.getpid(), number))
    monkeypatch.setattr(solve_experiment, "run", kill)
    assert solve() == status
    assert capsys.readouterr() == ("", NOTHING)
    assert not (tmp_path / "out").exists()
    assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_a_signal_while_it_writes(number, status, solve, monkeypatch, capsys, tmp_path):
    kill = before(solve_report.write, lambda: os.kill(os.getpid(), number))
    monkeypatch.setattr(solve_report, "write", kill)
    assert solve() == status
    assert capsys.readouterr().err == "cs231n-optax: interrupted, but everything is written\n"
    names = {solve_report.CSV, solve_report.JSON, solve_report.PATH}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names


def kill_in_a_garbage_collection():
    """Python discards what a callback of the garbage collector raises."""

    def callback(phase, info):
        if phase == "start":
            gc.callbacks.remove(callback)
            os.kill(os.getpid(), signal.SIGINT)

    gc.callbacks.append(callback)
    gc.collect()


def test_a_signal_that_python_discards(solve, monkeypatch, capsys, tmp_path):
    kill = before(solve_experiment.run, kill_in_a_garbage_collection)
    monkeypatch.setattr(solve_experiment, "run", kill)
    assert solve() == 130
    assert capsys.readouterr() == ("", NOTHING)
    assert not (tmp_path / "out").exists()


def test_a_discarded_signal_in_the_last_method_of_a_race(tiny, monkeypatch, capsys, tmp_path):
    def summarize(*args):
        kill_in_a_garbage_collection()
        return summary(*args)

    summary = experiment.summarize
    monkeypatch.setattr(experiment, "summarize", summarize)
    options = ["--steps", "2", "--batch-size", "8", "--model", "softmax", "--methods", "sgd"]
    assert cli.main(["race", "--data", tiny, "--out", str(tmp_path / "out"), *options]) == 130
    assert capsys.readouterr().err.endswith("interrupted, but everything is written\n")
    assert (tmp_path / "out" / "race.json").exists()


def test_an_interrupt_that_jax_wraps(solve, monkeypatch, capsys):
    def run(*_):
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt as error:
            raise RuntimeError("INTERNAL: KeyboardInterrupt") from error

    monkeypatch.setattr(solve_experiment, "run", run)
    assert solve() == 130
    assert capsys.readouterr().err == NOTHING


def test_a_later_signal_does_no_harm():
    with interrupts.handled(by_exit=False):
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.exit_status() == 143
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()


# Kills itself at the first instruction of `main`, while a package is imported, while a command
# runs and another thread compiles, or at the last instruction of `main`.
PROCESS = """
import os, signal, sys, threading
import cs231n_optax.cli as cli
number, moment = getattr(signal, sys.argv.pop(1)), sys.argv.pop(1)

def kill(*_):
    os.kill(os.getpid(), number)

def wrap(owner, name, action):
    function = getattr(owner, name)
    def call(*args, **options):
        action()
        return function(*args, **options)
    setattr(owner, name, call)

class Finder:
    def find_spec(self, name, *_):
        if name == "rich":
            kill()

def run():
    import jax, jax.numpy as jnp
    def compile():
        for i in range(1000):
            jax.jit(lambda x: jnp.linalg.eigh(x @ x + i)).lower(jnp.eye(9)).compile()
    threading.Thread(target=compile, daemon=True).start()
    kill()

if moment == "first":
    wrap(cli, "_application", kill)
elif moment == "import":
    sys.meta_path.insert(0, Finder())
elif moment == "run":
    from cs231n_optax.experiments.solve import experiment
    wrap(experiment, "run", run)
elif moment == "last":
    end = cli._run
    cli._run = lambda *args: (end(*args), kill())[0]
sys.exit(cli.main())
"""


@pytest.mark.parametrize(
    ("name", "moment"),
    [
        ("SIGINT", "import"),
        ("SIGTERM", "run"),
        *(
            pytest.param(name, moment, marks=pytest.mark.slow)
            for name, moment in (
                ("SIGINT", "first"),
                ("SIGINT", "run"),
                ("SIGINT", "last"),
                ("SIGTERM", "first"),
                ("SIGTERM", "import"),
                ("SIGTERM", "last"),
            )
        ),
    ],
)
def test_a_process_of_its_own_ends_in_one_line(name, moment, tmp_path):
    command = [sys.executable, "-c", PROCESS, name, moment, "solve", "beale", "--quiet"]
    ended = subprocess.run([*command, "--out", tmp_path / "out"], capture_output=True, text=True)
    assert ended.returncode == 128 + getattr(signal, name)
    assert ended.stdout == ""
    everything = "cs231n-optax: interrupted, but everything is written\n"
    assert ended.stderr == (everything if moment == "last" else NOTHING)
    assert (tmp_path / "out").exists() == (moment == "last")


WHILE_JAX_IS_IMPORTED = """
import os, signal, sys
class Finder:
    def find_spec(self, name, *_):
        if name == "jax":
            os.kill(os.getpid(), getattr(signal, sys.argv[1]))
sys.meta_path.insert(0, Finder())
import cs231n_optax_command
cs231n_optax_command.main()
"""


@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_the_script_is_interrupted_while_jax_is_imported(number, status):
    command = [sys.executable, "-c", WHILE_JAX_IS_IMPORTED, number.name]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (status, "", NOTHING)
