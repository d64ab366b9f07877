"""All solvers by name: this library's, the installed peers and those of a plugin.

`ours.py` and `peers.py` each hold a dict. Only a plugin, a file from outside, adds its solvers
while it is imported: with `from bench import register`.
"""

import argparse
import importlib.util
from collections.abc import Callable
from pathlib import Path

from interface import Build, Solver
from ours import OURS
from peers import PEERS

PLUGIN: dict[str, Solver] = {}


def register(
    name: str, family: str, order: int = 1, max_n: int = 10**9
) -> Callable[[Build], Build]:
    """For plugins: a decorator that adds a builder under a name. `Solver` explains the rest."""

    def enter(build: Build) -> Build:
        PLUGIN[name] = Solver(build, family, order, max_n)
        return build

    return enter


def load(plugin: str = "") -> tuple[dict[str, Solver], list[str]]:
    """The solvers by name, and the packages of the peers that are not installed.

    Args:
      plugin: the path of a Python file that registers solvers; "" for none. A plugin's solver
        replaces one of the same name.
    """
    missing = {peer.family for peer in PEERS.values() if not importlib.util.find_spec(peer.family)}
    if plugin:
        _run_file(plugin)
    peers = {name: peer for name, peer in PEERS.items() if peer.family not in missing}
    return OURS | peers | PLUGIN, sorted(missing)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `chosen` reads."""
    parser.add_argument("--solvers", type=comma_separated, default=[], help="default: all")
    parser.add_argument("--plugin", default="", help="a Python file that registers solvers")


def chosen(
    parser: argparse.ArgumentParser, options: argparse.Namespace, *, orders: tuple[int, ...]
) -> dict[str, Solver]:
    """The solvers that the options name, or all of the given orders; exits if one is unknown."""
    solvers, missing = load(options.plugin)
    if missing:
        print("not installed, left out:", *missing)
    if unknown := set(options.solvers) - solvers.keys():
        parser.error(f"unknown: {sorted(unknown)}; known: {', '.join(solvers)}")
    names = options.solvers or [name for name in solvers if solvers[name].order in orders]
    return {name: solvers[name] for name in names}


def comma_separated(text: str) -> list[str]:
    """An argparse type: names separated by commas."""
    return [name for name in text.split(",") if name]


def _run_file(path: str) -> None:
    spec = importlib.util.spec_from_file_location(f"plugin_{Path(path).stem}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"not a Python file: {path}")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
