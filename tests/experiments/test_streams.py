"""What surrounds a command: streams that fail, warnings, and flags of JAX."""

import errno
import hashlib
import json
import logging
import os
import subprocess
import sys
import warnings

import jax
import pytest

from cs231n_optax import cli
from cs231n_optax._files import locked
from cs231n_optax.experiments.solve import experiment, report

RESULTS = {report.CSV, report.JSON, report.PATH}


@pytest.fixture
def solve(tmp_path):
    return lambda *options: cli.main(["solve", "beale", "--out", str(tmp_path / "out"), *options])


@pytest.fixture
def race(tiny, tmp_path):
    command = ["race", "--data", tiny, "--out", str(tmp_path / "out"), "--steps", "2", "--quiet"]
    command += ["--batch-size", "8", "--seeds", "2", "--model", "softmax", "--methods", "sgd"]
    return lambda: cli.main(command)


class Failing:
    """A stream whose every use raises an OSError."""

    encoding, closed = "utf-8", False

    def __init__(self, number):
        self.error = OSError(number, os.strerror(number))

    def write(self, text):
        raise self.error

    def flush(self):
        raise self.error

    def isatty(self):
        return False


@pytest.mark.parametrize(
    ("stream", "number", "status"),
    [
        ("stdout", errno.EPIPE, 0),  # as of `| head -1`
        ("stdout", errno.ENOSPC, 1),
        ("stderr", errno.ENOSPC, 0),
        ("stderr", errno.EPIPE, 0),
    ],
)
def test_a_stream_that_fails_costs_no_result(
    stream, number, status, solve, monkeypatch, tmp_path, capsys
):
    with monkeypatch.context() as patch:
        patch.setattr(sys, stream, Failing(number))
        assert solve() == status
    assert {path.name for path in (tmp_path / "out").iterdir()} == RESULTS
    out, err = capsys.readouterr()
    assert ("Written: " in out) == (stream == "stderr")
    assert [line for line in err.splitlines() if "cs231n-optax: " in line] == (
        ["cs231n-optax: can't write to stdout: No space left on device"] if status else []
    )


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="has no full disk")
@pytest.mark.parametrize(
    ("redirection", "status"),
    [("| head -1", 0), ("> /dev/full", 1), ("2> /dev/full", 0), (">&-", 0), ("2>&-", 0)],
)
def test_in_a_shell(redirection, status, tmp_path):
    command = f"set -o pipefail; {sys.executable} -m cs231n_optax solve beale {redirection}"
    ended = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == status
    assert {path.name for path in (tmp_path / "solve").iterdir()} == RESULTS
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr


def test_nothing_is_wrapped_in_a_pipe(solve, monkeypatch, capsys):
    texts = []
    for columns in ("80", "20"):
        monkeypatch.setenv("COLUMNS", columns)
        assert solve() == 0
        texts.append(capsys.readouterr())
    assert texts[0] == texts[1]


@pytest.mark.parametrize("quiet", [False, True])
def test_a_warning_is_one_line_and_none_if_quiet(quiet, solve, monkeypatch, capsys):
    def write(*_):
        warnings.warn("glyph missing\nfrom the font", UserWarning, stacklevel=1)
        logging.getLogger("matplotlib.font_manager").warning("no such font")
        return []

    monkeypatch.setattr(report, "write", write)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert solve(*["--quiet"] * quiet) == 0
    _, err = capsys.readouterr()
    expected = [] if quiet else ["cs231n-optax: warning: glyph missing from the font"]
    assert [line for line in err.splitlines() if not line.startswith("lbfgs: ")] == expected


def test_flags_of_jax_are_overridden(race):
    with jax.disable_jit(), jax.numpy_rank_promotion("raise"):
        assert race() == 0


def test_a_platform_that_is_missing_is_named(solve, monkeypatch, capsys):
    def fail(*_):
        raise AssertionError

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(experiment, "run", fail)
    with pytest.raises(AssertionError):  # JAX has started: it is another error
        solve("--quiet")
    monkeypatch.setattr(jax, "devices", fail)
    assert solve("--quiet") == 2
    message = "cs231n-optax: JAX can't start with JAX_PLATFORMS=cuda: no such device is found\n"
    assert capsys.readouterr() == ("", message)


def test_a_record_names_the_files_that_belong_to_it(solve, tmp_path):
    assert solve("--quiet") == 0
    files = json.loads((tmp_path / "out" / report.JSON).read_text())["files"]
    assert files == {
        name: f"sha256:{hashlib.sha256((tmp_path / 'out' / name).read_bytes()).hexdigest()}"
        for name in RESULTS - {report.JSON}
    }


def test_what_a_killed_run_left_is_removed(solve, tmp_path):
    left = tmp_path / "out" / ".solve.csv.a1b2_c3d.cs231n_optax.tmp"
    left.mkdir(parents=True)
    assert solve("--quiet") == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == RESULTS


def test_a_second_sweep_to_the_same_folder_is_refused(tiny, tmp_path, capsys):
    rows = tmp_path / "out" / "rows"
    rows.mkdir(parents=True)
    command = ["sweep", "--data", tiny, "--out", str(tmp_path / "out"), "--steps", "2"]
    command += ["--batch-size", "8", "--model", "softmax", "--num", "2"]
    with locked(rows):
        assert cli.main(command) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"another sweep to {rows} is running" in err
    assert list(rows.iterdir()) == []
