"""Make ``pytorch_reference.json``: iterates of PyTorch's optimisers on one small problem.

Run in an environment of its own; the tests read only the JSON, never PyTorch::

    pip install torch==2.13.0 numpy && python tests/data/make_pytorch_reference.py

The problem, in float64, is a least-squares fit with a small quartic term::

    f(w) = mean((A w - b)^2) / 2 + quartic * sum(w^4) / 4

``A``, ``b`` and the first ``w`` are written into the file, so nothing has to be drawn again. They
are multiples of 1/1024 (closed formula below), hence exact in float32 too, and the same whatever
sine the machine has.

The file: ``problem``, and ``runs`` by name, one run a line, each with

- ``optimizer``: the class, and ``arguments``: what its constructor was called with;
- ``settings``: every setting of the optimiser as PyTorch then reports it, its own defaults too;
- ``schedule``: null, or the factor and the period of a step decay driven by ``LambdaLR``;
- ``learning_rates``: the one used by each step, ``num_steps`` numbers;
- ``iterates``: w_0 ... w_num_steps, where w_t is the parameter *as PyTorch holds it* after t steps
  and the gradient of step t + 1 is taken at w_t. Numbers are shortest-repr: they read back exactly.
"""

import json
import math
import os
import pathlib

import torch

OUTPUT = pathlib.Path(__file__).with_name("pytorch_reference.json")
NUM_STEPS = 50
QUARTIC = 0.1
STEP_DECAY = {"every": 10, "factor": 0.5}


def _grid(x):
    """Round to a multiple of 1/1024."""
    return round(1024 * x) / 1024


def make_problem():
    """Return the problem as plain lists and floats."""
    return {
        "A": [[_grid(math.sin(i * j + 2 * i + j + 1)) for j in range(5)] for i in range(8)],
        "b": [_grid(2 * math.cos(3 * i + 1)) for i in range(8)],
        "formula": "f(w) = mean((A w - b)^2) / 2 + quartic * sum(w^4) / 4",
        "quartic": QUARTIC,
        "w0": [_grid(1.5 * math.sin(2 * j + 1)) for j in range(5)],
    }


def run(problem, optimizer, arguments, schedule=None):
    """Run one optimiser for ``NUM_STEPS`` steps and return its record."""
    a, b, w = (torch.tensor(problem[k], dtype=torch.float64) for k in ("A", "b", "w0"))
    w.requires_grad_(True)
    opt = getattr(torch.optim, optimizer)([w], foreach=False, **arguments)
    settings = dict(opt.defaults)
    scheduler = None
    if schedule is not None:
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            opt, lambda t: schedule["factor"] ** (t // schedule["every"])
        )

    learning_rates, iterates = [], [w.tolist()]
    for _ in range(NUM_STEPS):
        opt.zero_grad()
        value = ((a @ w - b) ** 2).mean() / 2 + problem["quartic"] * (w**4).sum() / 4
        value.backward()
        learning_rates.append(opt.param_groups[0]["lr"])
        opt.step()
        if scheduler is not None:
            scheduler.step()
        iterates.append(w.tolist())
    return {
        "arguments": {"foreach": False, **arguments},
        "iterates": iterates,
        "learning_rates": learning_rates,
        "optimizer": f"torch.optim.{optimizer}",
        "schedule": schedule,
        "settings": settings,
    }


def make_runs(problem):
    """Return all records by name."""
    heavy_ball = {"lr": 0.1, "momentum": 0.9, "dampening": 0.0, "nesterov": False}
    sgd_family = {
        "sgd": {"lr": 0.5},
        "momentum": heavy_ball,
        "nesterov": {**heavy_ball, "nesterov": True},
    }
    runs = {}
    for name, arguments in sgd_family.items():
        runs[name] = run(problem, "SGD", arguments)
        runs[f"{name}_step_decay"] = run(problem, "SGD", arguments, STEP_DECAY)

    adagrad = {"lr": 0.5, "eps": 1e-7, "initial_accumulator_value": 0.0}
    rmsprop = {"lr": 0.05, "alpha": 0.9, "eps": 1e-7, "centered": False, "momentum": 0.0}
    adam = {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-7}
    runs["adagrad"] = run(problem, "Adagrad", adagrad)
    runs["rmsprop"] = run(problem, "RMSprop", rmsprop)
    runs["rmsprop_pytorch_defaults"] = run(problem, "RMSprop", {"lr": 0.05})
    runs["adam"] = run(problem, "Adam", adam)
    runs["adam_pytorch_defaults"] = run(problem, "Adam", {"lr": 0.1})
    return runs


def dumps(reference):
    """Return JSON with sorted keys, one entry a line two levels deep: a run is a line."""

    def compact(value):
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)

    def entry(key, value):
        if not isinstance(value, dict):
            return f"{compact(key)}: {compact(value)}"
        lines = ",\n".join(f"  {compact(k)}: {compact(v)}" for k, v in sorted(value.items()))
        return f"{compact(key)}: {{\n{lines}\n }}"

    return "{\n" + ",\n".join(f" {entry(k, v)}" for k, v in sorted(reference.items())) + "\n}\n"


def main():
    """Run everything and write the file, whole or not at all."""
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    problem = make_problem()
    text = dumps(
        {
            "generator": "tests/data/make_pytorch_reference.py",
            "num_steps": NUM_STEPS,
            "problem": problem,
            "runs": make_runs(problem),
            "torch_version": str(torch.__version__),
        }
    )
    temporary = OUTPUT.with_suffix(".json.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, OUTPUT)
    print(f"{OUTPUT}: {len(text)} bytes, torch {torch.__version__}")


if __name__ == "__main__":
    main()
