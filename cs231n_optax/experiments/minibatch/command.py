"""The command ``minibatch``."""

from pathlib import Path
from typing import Annotated

from cs231n_optax.experiments import options
from cs231n_optax.experiments.minibatch.run import run

EXAMPLES = """Examples:
  cs231n-optax minibatch --quick
      two workloads and few evaluations, in two minutes
  cs231n-optax minibatch
      the eight workloads with three batch sizes, in about three hours of a CPU core; one of
      them needs the mnist extra
"""

_QUICK = "Two workloads and few evaluations, for which there is no verdict."


def minibatch(
    quick: Annotated[bool, options.switch("--quick", _QUICK)] = False,
    out: options.Out = Path("minibatch"),
    quiet: options.Quiet = False,
) -> int:
    """Measure whether L-BFGS transfers to mini-batches (7-1-10).

    Three forms of it against tuned first-order methods, with equal evaluations; the verdict
    follows by a rule. The folder --out gets minibatch.md, minibatch.json and minibatch.png, which
    are replaced, and the results one by one. After Ctrl-C the same command goes on.
    """
    return run(out, quick=quick, quiet=quiet)
