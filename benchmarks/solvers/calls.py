"""What a small solve costs beside its evaluations, and how much there is to compile.

    python calls.py [f64|f32] [--solvers a,b] [--sizes 2,10,50] [--rounds 200]

The chained Rosenbrock function from the origin. The tolerance of `call` is infinite, so that a run
ends at its first test: after one evaluation, for Optimistix's after one step. `solve` ends at
max|g| <= 1e-5 (float32: 1e-3). Both are medians in µs; the solvers take turns. `lines` is the
number of lines of StableHLO, `HLO` the number of compiled HLO instructions, and `computing` that
without parameters, constants, tuples and their elements.
"""

import argparse
import functools
import math
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import registry
import score
from interface import MAX_ITERS, TOL
from vmapped import is_scipy, rosenbrock

sys.path.insert(0, str(Path(__file__).parents[1]))
import timing

PLUMBING = {"parameter", "constant", "tuple", "get-tuple-element"}
INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.-]+ = .*? ([a-z][\w-]*)\(", re.MULTILINE)


def main() -> None:
    """Print a row for each size and solver."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dtype", nargs="?", choices=list(TOL), default="f64")
    registry.add_options(parser)
    parser.add_argument("--sizes", default="2,10,50", help="numbers of variables")
    parser.add_argument("--rounds", type=int, default=200, help="timed calls (default: 200)")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", options.dtype == "f64")
    chosen = registry.chosen(parser, options, orders=(1,))
    solvers = {name: solver for name, solver in chosen.items() if not is_scipy(solver)}

    rows = []
    for n in map(int, options.sizes.split(",")):
        start = jnp.zeros(n)
        gtols = {"call": math.inf, "solve": TOL[options.dtype]["loose"]}
        calls, program = {}, {}
        for name, solver in solvers.items():
            lowered = jax.jit(solver.build(rosenbrock, MAX_ITERS)).lower(start, start[0])
            compiled = lowered.compile()
            for kind, gtol in gtols.items():
                gtol = jnp.asarray(gtol, start.dtype)
                calls[f"{name} {kind}"] = functools.partial(compiled, start, gtol)
            opcodes = INSTRUCTION.findall(compiled.as_text())
            computing = [opcode for opcode in opcodes if opcode not in PLUMBING]
            program[name] = map(len, (lowered.as_text().splitlines(), opcodes, computing))
        seconds = timing.medians(calls, options.rounds)
        for name in solvers:
            times = [f"{1e6 * seconds[f'{name} {kind}']:.0f}" for kind in gtols]
            evals = calls[f"{name} solve"]()[1]
            rows.append([str(n), name, *times, str(evals), *map(str, program[name])])
    header = ["n", "solver", "call", "solve", "evals", "lines", "HLO", "computing"]
    print(f"{options.dtype}; {timing.versions()}\n\n{score.table(header, rows)}")


if __name__ == "__main__":
    main()
