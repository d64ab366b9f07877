"""The commands ``figures`` and ``claims``: their options, and their errors."""

from pathlib import Path
from typing import Annotated

import jax
import typer

from cs231n_optax.experiments import files, interrupts, options
from cs231n_optax.experiments.console import Bar, consoles, print_written
from cs231n_optax.experiments.errors import InputError, complain
from cs231n_optax.experiments.options import one_of
from cs231n_optax.lecture.catalog import FIGURES
from cs231n_optax.lecture.claims.catalog import CLAIMS
from cs231n_optax.lecture.claims.run import run
from cs231n_optax.lecture.write import write

FIGURES_EXAMPLES = """Examples:
  cs231n-optax figures
      all of them, in a few minutes
  cs231n-optax figures zigzag momentum-vectors --format svg
      two of them, as SVG
"""

CLAIMS_EXAMPLES = """Examples:
  cs231n-optax claims --quick
      all of them, smaller and with fewer repeats
  cs231n-optax claims sgd-condition-number
      one of them
"""

_CLAIM_NAMES = f"The claims: {', '.join(claim.name for claim in CLAIMS)}. All of them by default."
_QUICK = "Smaller experiments and fewer repeats."
_NAMES = f"The figures: {', '.join(FIGURES)}. All of them by default."
_FORMATS = ("png", "svg")
_FORMAT = f"The format: {' or '.join(_FORMATS)}. The race is a GIF, and an MP4 if ffmpeg is there."
_FORMAT_OPTION = typer.Option("--format", parser=one_of(_FORMATS), metavar="FORMAT", help=_FORMAT)


def figures(
    names: Annotated[
        list[str] | None, typer.Argument(parser=one_of(FIGURES), metavar="[NAMES]", help=_NAMES)
    ] = None,
    picture_format: Annotated[str, _FORMAT_OPTION] = "png",
    out: options.Out = Path("figures"),
    quiet: options.Quiet = False,
) -> int:
    """Compute and draw the figures of the lecture.

    The fourteen figures of the lecture's page, each computed by this library, and eight more:
    the plane of momentum, methods compared on maps, unit tests and networks, and an animated race.
    The folder --out gets one file per figure. After Ctrl-C the finished ones are kept.
    """
    chosen = list(dict.fromkeys(names or FIGURES))
    files.check_writable(out, [f"{name}.{picture_format}" for name in chosen])
    console, err = consoles(quiet=quiet)
    interrupts.begin()
    finished: list[str] = []
    written: list[str] = []
    with interrupts.suppressed(), Bar("figures", len(chosen), err) as bar:
        show = interrupts.checking(bar.show_or_print)
        for name in chosen:
            show(len(finished), name)
            written += interrupts.promptly(_make, name, out, picture_format)
            finished.append(name)
        show(len(chosen), "done")
    if not finished:
        raise KeyboardInterrupt
    interrupts.only_record()
    print_written(console, out, written)
    if len(finished) < len(chosen):
        complain(f"interrupted; {len(finished)} of {len(chosen)} figures are written")
        return interrupts.exit_status()
    return 0


def claims(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAMES]", help=_CLAIM_NAMES)] = None,
    quick: Annotated[bool, options.switch("--quick", _QUICK)] = False,
    out: options.Out = Path("claims"),
    quiet: options.Quiet = False,
) -> int:
    """Measure what the lecture claims.

    Each claim is a seeded experiment with repeats. Its figure has a standard error, and its
    verdict (holds, holds when, does not hold here) follows from the numbers by a rule. The folder
    --out gets claims.json, claims.md and a picture per claim. After Ctrl-C the same command goes
    on with the claims that are not finished.
    """
    return run(out, quick=quick, names=names or (), quiet=quiet)


def _make(name: str, folder: Path, picture_format: str) -> list[str]:
    module = FIGURES[name]
    with jax.enable_x64(True):
        try:
            data = module.compute()
        except ImportError as error:
            raise InputError(f"{name}: {error}") from error
        folder.mkdir(parents=True, exist_ok=True)
        return write(folder, name, module.draw(data), picture_format)
