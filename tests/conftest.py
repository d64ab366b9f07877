"""Two host devices in every test process, and one cache of compiled programs for all of them."""

import atexit
import os
import shutil
import tempfile

CACHE = "JAX_COMPILATION_CACHE_DIR"

if CACHE not in os.environ:  # in the first process: xdist's workers and other children inherit it
    os.environ[CACHE] = tempfile.mkdtemp(prefix="compiled-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    atexit.register(shutil.rmtree, os.environ[CACHE], ignore_errors=True)

import jax  # noqa: E402 - which reads them when it is imported

# Scripts, run by hand or by a test, and what needs a package that may be missing.
collect_ignore_glob = ["data/*", "frameworks/*", "sharded_run.py"]

jax.config.update("jax_num_cpu_devices", 2)
