"""The fixture `example`: the script of ``examples/`` that a test file here is named after.

A file for several scripts passes their names: ``parametrize("example", names, indirect=True)``.
"""

import importlib.util
import pathlib

import pytest

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def example(request):
    own = pathlib.Path(request.path).stem.removeprefix("test_")
    name = getattr(request, "param", own)
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
