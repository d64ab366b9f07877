"""What all tests share: two host devices, compiled programs kept between runs, and float64.

Fixtures:
  x64: 64-bit types while the tests of a class, or a test outside of one, run. A module asks for it
    with ``pytestmark = pytest.mark.usefixtures("x64")``.
"""

import hashlib
import importlib.metadata
import os
import pathlib

import pytest

COMPILED = pathlib.Path(__file__).parents[1] / ".pytest_cache" / "compiled"


def compiled_programs() -> pathlib.Path:
    """The folder for this jaxlib and this CPU: a compiled program suits no other."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        cpu = sorted({line for line in lines if line.startswith(("model name", "flags"))})
    except OSError:
        cpu = list(os.uname())
    key = hashlib.sha256("\n".join(cpu).encode()).hexdigest()[:12]
    return COMPILED / f"jaxlib-{importlib.metadata.version('jaxlib')}-{key}"


# JAX reads these when it is imported; xdist's workers and other child processes inherit them.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(compiled_programs()))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import jax  # noqa: E402 - see above

# Scripts, run by hand or by a test, and what needs a package that may be missing.
collect_ignore_glob = ["data/*", "frameworks/*", "sharded_run.py"]

jax.config.update("jax_num_cpu_devices", 2)


@pytest.fixture(scope="class")
def x64():
    """64-bit types, in a class or in one test."""
    with jax.enable_x64(True):
        yield
