"""The house: imports run downwards only, and a folder's own __init__ is empty."""

import ast
import inspect
import pathlib
import subprocess
import sys

import pytest

import cs231n_optax

ROOT = pathlib.Path(cs231n_optax.__file__).parent

# A module may import from the floors below its own, and inside its own folder.
FLOORS = {
    name: floor
    for floor, names in enumerate(
        (
            "_batching _checks _eager _files _precision _tree",
            "schedules first_order globalization",
            "averaging",
            "second_order",
            "training diagnostics problems testing",
            "__init__",  # the public names, for the rooms above
            "experiments",
            "lecture",
            "cli __main__",
        )
    )
    for name in names.split()
}


def room(parts):
    return parts[0] if parts else "__init__"


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "cs231n_optax":
                yield room(parts[1:])


def test_imports_run_downwards():
    for path in ROOT.rglob("*.py"):
        inside = path.relative_to(ROOT).with_suffix("").parts
        here = room(inside)
        if here == "__init__":
            continue
        for there in imported_rooms(path):
            if there == here and (len(inside) > 1 or FLOORS[here] == 0):
                continue
            if here in ("cli", "__main__"):
                continue  # the top of the house sees every room
            assert there in FLOORS, f"{path}: {there} is on no floor"
            lower = FLOORS[there] < FLOORS[here] or FLOORS[there] == FLOORS[here] == 0
            assert lower, f"{path} imports {there}, which is not below it"


def test_every_module_is_on_a_floor():
    rooms = {room(p.relative_to(ROOT).with_suffix("").parts) for p in ROOT.rglob("*.py")}
    assert rooms - {"__init__"} <= FLOORS.keys()


def test_folders_own_inits_are_empty():
    for path in ROOT.rglob("__init__.py"):
        assert path.parent == ROOT or path.read_text() == "", path


def test_the_core_imports_without_its_extras():
    """Nothing but jax, optax and numpy, and nothing of the floor above."""
    code = (
        "import sys, cs231n_optax\n"
        "extras = {'matplotlib', 'rich', 'tqdm', 'typer', 'sklearn', 'mlxtend', 'chex', 'pytest'}\n"
        "print(sorted(extras & set(sys.modules)),"
        " sorted(m for m in sys.modules if m.startswith('cs231n_optax.experiments')))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[] []", result.stderr


@pytest.mark.parametrize("name", cs231n_optax.__all__)
def test_public_names_are_documented(name):
    """An example for every function, and its arguments if it has any."""
    thing = getattr(cs231n_optax, name)
    assert thing.__doc__
    if not isinstance(thing, type):
        assert "Example:" in thing.__doc__
        assert "Args:" in thing.__doc__ or not inspect.signature(thing).parameters
