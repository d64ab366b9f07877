"""Run the claims one by one; each finished one is saved at once, and read the next time."""

import hashlib
import importlib.metadata
import inspect
import json
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cs231n_optax._files import replacing
from cs231n_optax.experiments import files, interrupts
from cs231n_optax.experiments.console import Bar, consoles, print_written
from cs231n_optax.experiments.errors import InputError, complain
from cs231n_optax.lecture.claims import report
from cs231n_optax.lecture.claims.catalog import CLAIMS
from cs231n_optax.lecture.claims.claim import Claim
from cs231n_optax.lecture.claims.report import PICTURES, RESULTS, Result

Progress = Callable[[int, str], None]
"""Called with the number of finished claims, and what happens now."""


def run(out: Path, *, quick: bool = False, names: Sequence[str] = (), quiet: bool = False) -> int:
    """Measure claims and report all that are finished in the folder.

    The folder gets claims.json, claims.md, one picture per claim and the numbers of each. After
    Ctrl-C it holds what has finished, and the same call goes on from there.

    Args:
      out: the folder, made if need be.
      quick: fewer repeats and smaller experiments.
      names: of claims; none: all.
      quiet: print nothing.

    Returns:
      The exit status.

    Raises:
      InputError: if a name is unknown or the folder not writable.
    """
    files.check_writable(out, report.FILES, folders=(RESULTS, PICTURES))
    chosen = named(names)
    stdout, stderr = consoles(quiet=quiet)
    interrupts.begin()
    with interrupts.suppressed(), Bar("claims", len(chosen), stderr) as bar:
        measure_all(chosen, out, quick, interrupts.checking(bar.show_or_print))
    interrupts.only_record()
    unfinished = [claim.name for claim in chosen if saved(claim, out, quick) is None]
    results = [result for claim in CLAIMS if (result := saved(claim, out, quick))]
    report.write(out, results, quick=quick)
    report.print_results(results, stdout)
    print_written(stdout, out, report.FILES)
    if unfinished:
        complain(f"interrupted; not finished: {', '.join(unfinished)}; the same command goes on")
        return interrupts.exit_status()
    return 0


def named(names: Iterable[str]) -> list[Claim]:
    """The claims of these names, or all, in the order of the lecture."""
    names = set(names)
    unknown = names - {claim.name for claim in CLAIMS}
    if unknown:
        raise InputError(
            f"no such claim: {', '.join(sorted(unknown))}; there are "
            f"{', '.join(claim.name for claim in CLAIMS)}"
        )
    return [claim for claim in CLAIMS if not names or claim.name in names]


def measure_all(claims: Sequence[Claim], out: Path, quick: bool, progress: Progress) -> None:
    """Run the experiments of the claims that the folder has no result of, and save each."""
    for folder in (RESULTS, PICTURES):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for i, claim in enumerate(claims):
        if saved(claim, out, quick) is None:
            progress(i, claim.name)
            start = time.perf_counter()
            numbers = interrupts.promptly(measure, claim, quick)
            save(claim, out, quick, numbers, time.perf_counter() - start)
    progress(len(claims), "all measured")


def measure(claim: Claim, quick: bool) -> Any:
    """The numbers of a claim, once they are computed."""
    return jax.device_get(claim.experiment(quick))


def save(claim: Claim, out: Path, quick: bool, numbers: Any, seconds: float) -> None:
    """Save the picture, then the numbers, whose file says that the claim is finished."""
    numbers = {name: finite_or_nan(array) for name, array in numbers.items()}
    with replacing(out / PICTURES / f"{claim.name}.png", "wb") as file:
        claim.draw(numbers).savefig(file, format="png")
    lists = {name: with_none(array.tolist()) for name, array in numbers.items()}
    key = identity(claim, quick)
    report.write_json(path(claim, out), {"identity": key, "seconds": seconds, "numbers": lists})


def saved(claim: Claim, out: Path, quick: bool) -> Result | None:
    """The saved result of a claim; None if there is none of this program and this size."""
    try:
        document = json.loads(path(claim, out).read_text(encoding="utf-8"))
        if document["identity"] != identity(claim, quick):
            return None
        numbers = {name: np.array(rows, float) for name, rows in document["numbers"].items()}
        if not (out / PICTURES / f"{claim.name}.png").exists():
            return None
        return Result(claim, numbers, document["seconds"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def path(claim: Claim, out: Path) -> Path:
    """The file of a claim's numbers."""
    return out / RESULTS / f"{claim.name}.json"


def identity(claim: Claim, quick: bool) -> dict[str, Any]:
    """What a saved result must share: the versions, the source of the claim, and the size."""
    source = inspect.getsource(inspect.getmodule(claim.experiment) or claim.experiment)
    return {
        "cs231n_optax": importlib.metadata.version("cs231n_optax"),
        "jax": jax.__version__,
        "source": hashlib.sha256(source.encode()).hexdigest()[:16],
        "quick": quick,
    }


def finite_or_nan(array: Any) -> np.ndarray:
    """As float64, with NaN for infinity, so that saved numbers are the measured ones."""
    array = np.asarray(array, float)
    return np.where(np.isfinite(array), array, np.nan)


def with_none(rows: Any) -> Any:
    """Nested lists with None for NaN, which JSON does not have."""
    if isinstance(rows, list):
        return [with_none(row) for row in rows]
    return None if np.isnan(rows) else rows
