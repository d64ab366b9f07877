"""Run one problem and one solver at a time, in a process that can be killed.

The parent (`Worker`) writes a job as one line of JSON. The child (`serve`) answers with events, one
a line: one at the beginning of each phase, with what has been measured so far, and `done` at the
end. If a phase exceeds its limit the parent kills the child and records a timeout in that phase.

A record holds
- `f0`, `g0`: value and max|g| at the start;
- `vg_compile`, `vg_call`: seconds of the first and of a later value-and-gradient;
- `loose`, `tight`: value `f` and max|g| `g` at the returned point, as the harness evaluates them;
  the solver's counters `n_fun` and `n_grad`; what it says about convergence; its extras;
- `t_first`, `t_tight1`: seconds of the first loose call, compilation included, and of the first
  tight call;
- with --timed, the medians `t_loose` and `t_tight`.
"""

import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import problems
import registry
from interface import MAX_ITERS, TOL, Solver, extras

LOCK = os.path.join(tempfile.gettempdir(), "solver-bench.lock")  # one timed solve at a time
LIMIT = {"check": 40.0, "first": 50.0, "tight": 40.0, "wait": 900.0, "timed": 60.0}  # seconds
STARTUP_LIMIT = 120.0


def set_up_jax(dtype: str) -> None:
    """Use the CPU, in float64 or in float32. Call this before any array is made."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", dtype == "f64")


# ------------------------------------------------------------------------------------- the child


def max_abs(x: Any) -> float:
    """max|x|."""
    return float(jnp.max(jnp.abs(x)))


class Loaded:
    """A problem, its compiled value-and-gradient, and what was measured at its start."""

    def __init__(self, name: str, module: str, dtype: Any) -> None:
        self.name, self.dtype = name, dtype
        self.fun, y0 = problems.load(name, module)
        self.y0 = jnp.asarray(y0, dtype)
        self.value_and_grad = jax.jit(jax.value_and_grad(self.fun))
        start = time.perf_counter()
        f0, g0 = jax.block_until_ready(self.value_and_grad(self.y0))
        compiled = time.perf_counter()
        for _ in range(20):
            jax.block_until_ready(self.value_and_grad(self.y0))
        called = time.perf_counter()
        self.measured = {
            "f0": float(f0),
            "g0": max_abs(g0),
            "vg_compile": compiled - start,
            "vg_call": (called - compiled) / 20,
            "y_dtype": str(self.y0.dtype),
            "f_dtype": str(f0.dtype),
        }

    def judge(self, result: tuple[Any, ...]) -> dict[str, Any]:
        """Value and gradient at the point that a solver returned, and what the solver says."""
        value, grad = self.value_and_grad(jnp.asarray(result[0], self.dtype))
        return {
            "f": float(value),
            "g": max_abs(grad),
            "n_fun": int(result[1]),
            "n_grad": int(result[2]),
            "conv": bool(result[3]),
            **{k: v if isinstance(v, str) else int(v) for k, v in extras(result).items()},
        }


def serve(dtype: str, timed: bool, plugin: str) -> None:
    """Answer jobs from standard input until it ends."""
    # events have a channel of their own; whatever a solver prints goes to standard error
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def emit(event: str, **fields: Any) -> None:
        channel.write(json.dumps({"ev": event, **fields}) + "\n")

    warnings.filterwarnings("ignore")
    set_up_jax(dtype)
    solvers, _ = registry.load(plugin)
    loaded = None
    emit("ready")
    for line in sys.stdin:
        job = json.loads(line)
        try:
            if loaded is None or loaded.name != job["problem"]:
                loaded = None
                jax.clear_caches()
                emit("check")
                want = jnp.float64 if dtype == "f64" else jnp.float32
                loaded = Loaded(job["problem"], job["module"], want)
            if job["solver"] is None:
                finite = np.isfinite([loaded.measured["f0"], loaded.measured["g0"]]).all()
                emit("done", ok=bool(finite), **loaded.measured)
            else:
                measured = measure(loaded, solvers[job["solver"]], dtype, timed, emit)
                emit("done", ok=True, **measured)
        except Exception as error:
            emit("done", ok=False, error=f"{type(error).__name__}: {error}"[:300])


def measure(loaded: Loaded, solver: Solver, dtype: str, timed: bool, emit: Any) -> dict[str, Any]:
    """Call a solver with the loose and with the tight tolerance, and again for its times."""
    solve = solver.build(loaded.fun, MAX_ITERS)
    scale = max(1.0, loaded.measured["g0"])
    tol = {k: jnp.asarray(v * scale, loaded.dtype) for k, v in TOL[dtype].items()}
    out = dict(loaded.measured)

    def run(which: str) -> tuple[Any, float]:
        start = time.perf_counter()
        result = jax.block_until_ready(solve(loaded.y0, tol[which]))
        return result, time.perf_counter() - start

    emit("first")
    result, out["t_first"] = run("loose")
    out["loose"] = loaded.judge(result)
    emit("tight", part=out)
    result, out["t_tight1"] = run("tight")
    out["tight"] = loaded.judge(result)
    if timed:
        emit("wait", part=out)
        with open(LOCK, "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            emit("timed", part=out)
            quick = out["t_tight1"] < 2.0
            repeats = 3 if quick else 1
            out["t_loose"] = float(np.median([run("loose")[1] for _ in range(repeats)]))
            out["t_tight"] = (
                float(np.median([run("tight")[1] for _ in range(repeats)]))
                if quick
                else out["t_tight1"]
            )
    return out


# ------------------------------------------------------------------------------------ the parent


class Worker:
    """A child process that runs jobs."""

    def __init__(self, dtype: str, timed: bool, plugin: str) -> None:
        script = str(Path(__file__).with_name("bench.py"))
        command = [sys.executable, script, "worker", "--dtype", dtype]
        command += ["--timed"] if timed else []
        command += ["--plugin", plugin] if plugin else []
        one_thread = {
            "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "PYTHONWARNINGS": "ignore",
        }
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | one_thread,
            start_new_session=True,
            bufsize=0,
        )
        self.unread = b""
        try:
            ready = (self.read(STARTUP_LIMIT) or {}).get("ev") == "ready"
        except BaseException:
            self.kill()
            raise
        if not ready:
            self.kill()
            raise RuntimeError(f"no worker: try `{' '.join(command)}` by hand")

    def alive(self) -> bool:
        """Whether the child is running."""
        return self.process.poll() is None

    def read(self, limit: float) -> dict[str, Any] | None:
        """The next event; None after `limit` seconds without one."""
        assert self.process.stdout is not None
        end = time.monotonic() + limit
        while b"\n" not in self.unread:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                return None
            chunk = os.read(self.process.stdout.fileno(), 65536)
            if not chunk:
                return {"ev": "crash"}
            self.unread += chunk
        line, self.unread = self.unread.split(b"\n", 1)
        return json.loads(line)

    def job(self, **job: Any) -> dict[str, Any]:
        """What a job measured; after an error or a timeout, what it had measured until then."""
        assert self.process.stdin is not None
        self.process.stdin.write((json.dumps(job) + "\n").encode())
        phase: str = "check"
        part: dict[str, Any] = {}
        while True:
            event = self.read(LIMIT[phase])
            if event is None or event["ev"] == "crash":
                self.kill()
                how = "timeout" if event is None else "crash"
                return {**part, "ok": False, "error": f"{how} in {phase}"}
            name = event.pop("ev")
            if name == "done":
                return event if event["ok"] else {**part, **event}
            phase, part = name, event.get("part", part)

    def kill(self) -> None:
        """Kill the child and its process group."""
        if self.alive():
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
