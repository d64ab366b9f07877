"""The report of the claims: a table in the terminal, claims.json, and a Markdown page."""

import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from cs231n_optax._files import replacing
from cs231n_optax.experiments.files import environment
from cs231n_optax.lecture.claims.claim import SIGMAS, Answer, Claim

FILES = JSON, PAGE = "claims.json", "claims.md"
RESULTS, PICTURES = "results", "pictures"
COLORS = {Answer.HOLDS: "green", Answer.HOLDS_WHEN: "yellow", Answer.FAILS: "red"}


class Result(NamedTuple):
    """A claim, its numbers, and the seconds that they took."""

    claim: Claim
    numbers: dict[str, np.ndarray]
    seconds: float


def print_results(results: Sequence[Result], console: Console) -> None:
    """Print one row per claim."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 1, 0), show_edge=False)
    table.add_column("section", no_wrap=True)
    table.add_column("claim", ratio=4)
    table.add_column("figure", ratio=4)
    table.add_column("verdict", ratio=3)
    for claim, numbers, _ in results:
        verdict = claim.verdict(numbers)
        color = COLORS[verdict.answer]
        table.add_row(claim.section, claim.statement, claim.figure(numbers), f"[{color}]{verdict}")
    console.print("", table, "", sep="\n")


def write(out: Path, results: Sequence[Result], *, quick: bool) -> None:
    """Write claims.json and claims.md."""
    write_json(out / JSON, document(results, quick=quick))
    with replacing(out / PAGE, "w") as file:
        file.write(page(results, quick=quick))


def document(results: Sequence[Result], *, quick: bool) -> dict[str, Any]:
    """The content of claims.json."""
    return {
        "quick": quick,
        "sigmas": SIGMAS,
        **environment(),
        "claims": [record(*result) for result in results],
    }


def record(claim: Claim, numbers: dict[str, np.ndarray], seconds: float) -> dict[str, Any]:
    """One claim in claims.json; its samples are in the file of its own."""
    verdict = claim.verdict(numbers)
    return {
        "name": claim.name,
        "section": claim.section,
        "claim": claim.statement,
        "experiment": text(claim.experiment),
        "figure": claim.figure(numbers),
        "rule": text(claim.verdict),
        "verdict": {"answer": verdict.answer.value, "condition": verdict.condition},
        "numbers": f"{RESULTS}/{claim.name}.json",
        "picture": f"{PICTURES}/{claim.name}.png",
        "seconds": round(seconds, 1),
    }


def page(results: Sequence[Result], *, quick: bool) -> str:
    """The Markdown page: a table, then a part with the picture for each claim."""
    command = f"cs231n-optax claims{' --quick' if quick else ''}"
    minutes = sum(result.seconds for result in results) / 60
    lines = [
        "# The claims of the lecture, measured",
        "",
        f"`{command}` measures each claim and derives the verdict from the numbers by a rule; it "
        f"took {minutes:.1f} minutes. Figures are means with their standard errors. *Above*, "
        f"*below* and *within* mean: by {SIGMAS} standard errors. What does not hold here may also "
        "be what these repeats cannot decide.",
        "",
        "| section | claim | figure | verdict |",
        "|---|---|---|---|",
    ]
    for claim, numbers, _ in results:
        cells = claim.section, claim.statement, claim.figure(numbers), f"{claim.verdict(numbers)}"
        linked = f"[{cells[1]}](#{claim.name})"
        lines.append(
            f"| {cells[0]} | {linked} | {cells[2].replace('|', chr(92) + '|')} | {cells[3]} |"
        )
    for claim, numbers, _ in results:
        lines += [
            "",
            f"## {claim.name}",
            "",
            f"**{claim.statement}** ({claim.section})",
            "",
            f"- Experiment: {text(claim.experiment)}",
            f"- Figure: {claim.figure(numbers)}.",
            f"- Rule: {text(claim.verdict)}",
            f"- Verdict: **{claim.verdict(numbers)}**.",
            "",
            f"![{claim.statement}]({PICTURES}/{claim.name}.png)",
        ]
    return "\n".join(lines) + "\n"


def text(function: Callable[..., Any]) -> str:
    """The docstring of a function on one line."""
    return " ".join((inspect.getdoc(function) or "").split())


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a document, whole or not at all."""
    with replacing(path, "w") as file:
        json.dump(document, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")
