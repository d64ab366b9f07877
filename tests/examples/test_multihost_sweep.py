"""Two real processes on this machine, with JAX's own runtime between them."""

import pathlib
import socket
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import cs231n_optax as co

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "multihost_sweep.py"


def start_two(*arguments):
    """What each of the two processes printed and how it ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, EXAMPLE, "--coordinator", address, "--num-processes", "2"]
    processes = [
        subprocess.Popen(
            [*command, "--process-id", str(i), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=180) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, errors
    return [printed for printed, _ in outputs]


def test_two_processes_give_the_answer_of_one(example, tmp_path):
    """They also go on from the batches that one process has left, and agree on which."""
    rows = tmp_path / "rows"
    alone = co.sweep(example.run, example.GRID, batch_size=2, path=rows)
    saved = sorted(rows.iterdir())
    assert len(saved) == 4
    kept = {file: file.read_bytes() for file in saved[::2]}
    for file in saved[1::2]:
        file.unlink()

    first, second = start_two("--path", rows, "--csv", tmp_path / "table.csv")

    table = np.genfromtxt(tmp_path / "table.csv", delimiter=",", names=True)
    for name, column in (alone.hparams | alone.outputs).items():
        np.testing.assert_allclose(table[name], column, rtol=2e-5, err_msg=name)
    assert {file: file.read_bytes() for file in kept} == kept
    assert len(list(rows.iterdir())) > len(kept)

    batch = example.X, example.LABELS
    solution = co.minimize(example.loss, jnp.zeros(32), co.lbfgs(), args=(batch,))
    lines = first.splitlines()  # among them those of Gloo, which joins the processes
    words = lines[-1].split()
    assert words[:3] == ["L-BFGS:", "CONVERGED,", "loss"]
    assert float(words[3].rstrip(",")) == pytest.approx(float(solution.value), rel=1e-6)
    assert abs(int(words[4]) - int(solution.num_evals)) <= 2  # another order of adding up
    assert any(line.startswith("2 processes, ") for line in lines)
    assert "L-BFGS" not in second
