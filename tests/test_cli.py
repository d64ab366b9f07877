"""The command line as a whole: its help, its imports, and what it says without its extra."""

import subprocess
import sys

import pytest

import cs231n_optax
from cs231n_optax import cli
from cs231n_optax.experiments import catalog, options


@pytest.mark.parametrize("command", [[], ["sprint"], ["race", "sgd"], ["race", "--steps"]])
def test_bad_usage_is_one_line(command, capsys):
    assert cli.main(command) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("cs231n-optax: ")


def help_of(command, capsys):
    assert cli.main([*command, "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert max(map(len, out.splitlines())) <= 100
    return out


def test_help_names_everything(capsys):
    flags = [options.flag(name) for name in catalog.HYPERPARAMETERS]
    named = {
        "race": (*catalog.METHODS, *catalog.DATASETS, *catalog.MODELS, *catalog.DECAYS, "--tune"),
        "sweep": (*catalog.METHODS, *catalog.DECAYS, *flags, "--num", "--grid", "--lane-batch"),
        "minibatch": ("--quick",),
        "solve": (*catalog.SEARCHES, *catalog.METHODS, *catalog.PROBLEMS, "--start"),
    }
    text = help_of([], capsys)
    for command, words in named.items():
        assert command in text
        of_command = help_of([command], capsys)
        for word in (*words, "--out", "--quiet", f"cs231n-optax {command} "):
            assert word in of_command
        assert "🅱" not in of_command  # Rich takes :b: for an emoji


def test_the_help_says_what_becomes_of_older_results(capsys):
    words = {"race": "are replaced", "solve": "are replaced", "sweep": "another one is refused"}
    for command, words_of in words.items():
        text = " ".join(help_of([command], capsys).replace("│", " ").split())
        assert words_of in text
        assert ("are replaced" in text) == (command != "sweep")


def test_the_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("cs231n-optax 0.")


@pytest.mark.parametrize("package", ["rich", "matplotlib", "typer"])
def test_without_the_gallery_extra(package, monkeypatch, capsys):
    monkeypatch.setattr(cs231n_optax, "experiments", cs231n_optax.experiments)
    for name in list(sys.modules):
        if name.split(".")[0] == package or name.startswith("cs231n_optax.experiments"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    assert cli.main(["race"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"{package} is not installed" in err
    assert "pip install '.[gallery]' in a clone" in err
    assert "pip install 'cs231n_optax[gallery] @ git+URL'" in err
    assert "pip install 'cs231n_optax[gallery]'" not in err  # no index has it


def test_what_is_imported_and_started():
    """No extra by the module, no pyplot by the commands; JAX is not started by either."""
    code = (
        "import sys, cs231n_optax.cli, jax\n"
        "extras = {'matplotlib', 'rich', 'typer', 'sklearn', 'mlxtend'}\n"
        "assert not extras & set(sys.modules)\n"
        "cs231n_optax.cli.main(['race', '--help'])\n"
        "assert {'matplotlib', 'rich', 'typer'} <= set(sys.modules)\n"
        "assert not {'matplotlib.pyplot', 'sklearn', 'mlxtend', 'scipy'} & set(sys.modules)\n"
        "jax.config.update('jax_num_cpu_devices', 3)\n"
        "assert jax.device_count() == 3\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True)
