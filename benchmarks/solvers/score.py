"""Compare a run of bench.py with the peers' recorded counts and, if it was timed, their times.

    python score.py f64.jsonl [--solver NAME] [--peers peers.json] [--json]
    python score.py f64.jsonl --values MEXHAT,DJTL

The test is on max|g| at the returned point, relative to max(1, max|g| at the start). *Solved* is
1e-5 (float32: 1e-3) in the loose call, *tight* is 1e-8 (1e-5) in the tight one. *Strict* is tight
with a value within 1e-6 (1 + |f_best|) of the best that any solver found: on problems whose first
gradient is huge, the relative test alone passes far from the minimum.

Ratios are ours over theirs, over the problems that both solve: below 1, ours is better. Each is
given as its median and its geometric mean. `/ best` compares the evaluations with those of the
first-order peer that needs the fewest. `H, Hv` compares what solvers report as n_hess: Hessians or
Hessian-vector products. Counts of peers are the recorded ones, from peers.json or from another
run's .jsonl; times are from this run only. `--values` lists where the tight calls end, problem by
problem.
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterable
from itertools import zip_longest
from pathlib import Path
from typing import Any

from interface import HERE, TOL

Problem = dict[str, Any]  # n, g0, solvers: {name: entry}
Entry = dict[str, Any]  # loose, tight: {n_fun, f, g, n_hess, solved}; t_loose, t_tight, t_compile
CALLS = ("loose", "tight")


# ---------------------------------------------------------------------------------------- reading


def judge(problem: Problem, dtype: str) -> None:
    """Mark in each entry whether each call is solved."""
    scale = max(1.0, problem["g0"] or 1.0)
    for entry in problem["solvers"].values():
        for call, tol in TOL[dtype].items():
            if call in entry:
                g = entry[call]["g"]
                entry[call]["solved"] = finite(g) and g <= 1.01 * tol * scale


def read_run(path: Path) -> dict[str, dict[str, Problem]]:
    """{dtype: {problem: Problem}} from the records of a run."""
    out: dict[str, dict[str, Problem]] = {}
    for record in map(json.loads, path.read_text().splitlines()):
        empty = {"n": record["n"], "g0": None, "solvers": {}}
        problem = out.setdefault(record["dtype"], {}).setdefault(record["problem"], empty)
        if record["solver"] is None:
            problem["g0"] = record.get("g0")
            continue
        keys = (*CALLS, "t_loose", "t_tight")
        entry = {key: record[key] for key in keys if key in record}
        if "t_first" in record and "t_tight1" in record:
            entry["t_compile"] = record["t_first"] - record["t_tight1"]
        problem["solvers"][record["solver"]] = entry
    return out


def read_recorded(path: Path) -> dict[str, dict[str, Problem]]:
    """The same from peers.json, where an entry is a list whose columns `about` names."""
    recorded = json.loads(path.read_text())
    columns = recorded.pop("about")["columns"]
    for problems in recorded.values():
        for problem in problems.values():
            for name, row in problem["solvers"].items():
                entry: Entry = {}
                for column, value in zip_longest(columns, row):
                    call, _, key = column.rpartition(".")
                    (entry.setdefault(call, {}) if call else entry)[key] = value
                for call in CALLS:  # a call that did not return in time has no counts
                    if entry.get(call, {}).get("n_fun") is None:
                        entry.pop(call, None)
                problem["solvers"][name] = {k: v for k, v in entry.items() if v is not None}
    return recorded


def read(path: str | Path) -> dict[str, dict[str, Problem]]:
    """{dtype: {problem: Problem}} from a run's .jsonl or from a file such as peers.json."""
    path = Path(path)
    out = read_run(path) if path.suffix == ".jsonl" else read_recorded(path)
    for dtype, problems in out.items():
        for problem in problems.values():
            judge(problem, dtype)
    return out


# ---------------------------------------------------------------------------------------- scoring


def finite(x: float | None) -> bool:
    """Whether x is a finite number."""
    return x is not None and math.isfinite(x)


def solved(entry: Entry, call: str) -> bool:
    """Whether a call met its tolerance."""
    return bool(entry.get(call, {}).get("solved"))


def summary(ratios: Iterable[float]) -> dict[str, float | int | None]:
    """Median, geometric mean and number of positive ratios."""
    values = list(ratios)
    if not values:
        return {"median": None, "geometric": None, "problems": 0}
    return {
        "median": statistics.median(values),
        "geometric": math.exp(statistics.fmean(map(math.log, values))),
        "problems": len(values),
    }


class Score:
    """One solver of a run compared with the recorded peers, on the problems in both files."""

    def __init__(self, me: str, run: dict[str, Problem], recorded: dict[str, Problem]) -> None:
        self.names = sorted(run.keys() & recorded.keys())
        self.live = {p: run[p]["solvers"] for p in self.names}
        self.peers = {p: recorded[p]["solvers"] for p in self.names}
        self.mine = {p: self.live[p].get(me, {}) for p in self.names}
        self.best = {
            p: min(
                (
                    entry[call]["f"]
                    for entry in [*self.peers[p].values(), self.mine[p]]
                    for call in CALLS
                    if call in entry and finite(entry[call]["f"])
                ),
                default=math.inf,
            )
            for p in self.names
        }
        self.fewest = {call: {p: self.fewest_evals(p, call) for p in self.names} for call in CALLS}

    def fewest_evals(self, p: str, call: str) -> int | None:
        """The evaluations of the best first-order peer."""
        counts = [
            entry[call]["n_fun"]
            for entry in self.peers[p].values()
            if solved(entry, call) and not entry[call].get("n_hess")
        ]
        return min(counts, default=None)

    def strict(self, entry: Entry, p: str) -> bool:
        """Whether the tight call is solved and reaches the best known value."""
        bound = self.best[p] + 1e-6 * (1 + abs(self.best[p]))
        return solved(entry, "tight") and entry["tight"]["f"] <= bound

    def shares(self, column: dict[str, Entry]) -> list[float]:
        """Solved, tight and strict, as shares of the problems."""
        tests: list[Callable[[Entry, str], bool]] = [
            lambda entry, _: solved(entry, "loose"),
            lambda entry, _: solved(entry, "tight"),
            self.strict,
        ]
        return [
            round(sum(test(column[p], p) for p in self.names) / len(self.names), 4)
            for test in tests
        ]

    def over_best(self, column: dict[str, Entry], call: str = "loose") -> dict[str, Any]:
        """Evaluations over those of the best first-order peer; empty for a second-order solver."""
        fewest = self.fewest[call]
        if any(column[p].get(call, {}).get("n_hess") for p in self.names):
            return summary([])
        return summary(
            column[p][call]["n_fun"] / fewest[p]
            for p in self.names
            if fewest[p] and solved(column[p], call)
        )

    def against(self, peer: str) -> dict[str, Any]:
        """Ratios of ours to a peer's."""
        mine = self.mine
        column = {p: self.peers[p].get(peer, {}) for p in self.names}
        live = {p: self.live[p].get(peer, {}) for p in self.names}

        def ratios(key: str, call: str, theirs: dict[str, Entry]) -> dict[str, Any]:
            def of(entry: Entry) -> float:
                return (entry if key.startswith("t_") else entry[call]).get(key) or 0

            both = [p for p in self.names if solved(mine[p], call) and solved(column[p], call)]
            return summary(
                of(mine[p]) / of(theirs[p])
                for p in both
                if theirs[p] and of(mine[p]) > 0 and of(theirs[p]) > 0
            )

        compile_ratios = [
            mine[p]["t_compile"] / live[p]["t_compile"]
            for p in self.names
            if mine[p].get("t_compile", 0) > 0 and live[p].get("t_compile", 0) > 0
        ]
        evals = {call: ratios("n_fun", call, column) for call in CALLS}
        hessians, time = ratios("n_hess", "loose", column), ratios("t_loose", "loose", live)
        return {
            "solved,tight,strict": self.shares(column),
            "over_best": self.over_best(column),
            "evals": {call: evals[call]["geometric"] for call in CALLS},
            "evals_median": {call: evals[call]["median"] for call in CALLS},
            "hessians": hessians["geometric"],
            "time": time["geometric"],
            "time_median": time["median"],
            "time_problems": time["problems"],
            "compile": statistics.median(compile_ratios) if compile_ratios else None,
            "lost": [
                p for p in self.names if solved(column[p], "loose") and not solved(mine[p], "loose")
            ],
        }

    def result(self) -> dict[str, Any]:
        """All scores, as one JSON object."""
        some = {peer for p in self.names for peer in self.peers[p]}
        peers = [
            peer
            for peer in sorted(some)
            if sum(bool(self.peers[p].get(peer)) for p in self.names) >= 0.8 * len(self.names)
        ]
        return {
            "problems": len(self.names),
            "solved,tight,strict": self.shares(self.mine),
            "over_best": self.over_best(self.mine),
            "vs": {peer: self.against(peer) for peer in peers},
            "unsolved": [p for p in self.names if not solved(self.mine[p], "loose")],
            "not_strict": [p for p in self.names if not self.strict(self.mine[p], p)],
        }


def changed_counts(
    run: dict[str, Problem], recorded: dict[str, Problem]
) -> dict[str, tuple[list[str], int]]:
    """For each peer in this run: the problems where its counts changed, and how many were compared.

    Only problems on which both calls returned, in both files, are compared.
    """
    out: dict[str, tuple[list[str], int]] = {}
    for p in sorted(run.keys() & recorded.keys()):
        for name in run[p]["solvers"].keys() & recorded[p]["solvers"].keys():
            now, then = run[p]["solvers"][name], recorded[p]["solvers"][name]
            if all(call in entry for call in CALLS for entry in (now, then)):
                differing, total = out.get(name, ([], 0))
                if any(now[call]["n_fun"] != then[call]["n_fun"] for call in CALLS):
                    differing = [*differing, p]
                out[name] = differing, total + 1
    return dict(sorted(out.items()))


# ---------------------------------------------------------------------------------------- printing


def number(x: float | None) -> str:
    """Three significant digits; a dash for none."""
    return "–" if not finite(x) else f"{x:.0f}" if abs(x) >= 100 else f"{x:#.3g}".rstrip(".")


def pair(median: float | None, geometric: float | None) -> str:
    """Median / geometric mean."""
    return "–" if median is None else f"{number(median)} / {number(geometric)}"


def few(names: list[str]) -> str:
    """The first five names, and how many more there are."""
    more = [f"+ {len(names) - 5}"] if len(names) > 5 else []
    return " ".join([*names[:5], *more])


def percent(shares: list[float]) -> list[str]:
    """Shares in per cent."""
    return [f"{100 * share:.1f}" for share in shares]


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table with its columns aligned."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = [width * "-" for width in widths]

    def line(cells: list[str]) -> str:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=True)]
        return f"| {' | '.join(padded)} |"

    return "\n".join(map(line, [header, rule, *rows]))


def report(dtype: str, me: str, result: dict[str, Any]) -> str:
    """The result as text."""
    header = ["solver", "solved %", "tight %", "strict %", "evals / best"]
    header += ["evals: loose", "tight", "H, Hv", "time", "compile", "lost to it"]

    def first_cells(r: dict[str, Any]) -> list[str]:
        best = r["over_best"]
        return [*percent(r["solved,tight,strict"]), pair(best["median"], best["geometric"])]

    rows = [[f"**{me}**", *first_cells(result), *[""] * 6]]
    for peer, r in result["vs"].items():
        evals = [pair(r["evals_median"][call], r["evals"][call]) for call in CALLS]
        time = pair(r["time_median"], r["time"])
        others = [number(r["hessians"]), time, number(r["compile"]), few(r["lost"])]
        rows.append([peer, *first_cells(r), *evals, *others])
    return (
        f"\n{me}, {dtype}, {result['problems']} problems; median / geometric mean\n\n"
        f"{table(header, rows)}\n\n"
        f"unsolved: {' '.join(result['unsolved']) or 'none'}\n"
        f"not strict: {' '.join(result['not_strict']) or 'none'}"
    )


def values(names: list[str], run: dict[str, Problem], recorded: dict[str, Problem]) -> str:
    """Where the tight calls end on some problems: of this run, and of the recorded peers."""
    rows = []
    for p in names:
        solvers = recorded[p]["solvers"] | run.get(p, {"solvers": {}})["solvers"]
        for solver, entry in solvers.items():
            evals = [str(entry[call]["n_fun"]) if call in entry else "–" for call in CALLS]
            tight = entry.get("tight")
            end = ["–"] * 4
            if tight:
                end = [f"{tight['f']:.10g}", f"{tight['g']:.1e}", str(tight.get("n_hess") or "–")]
                end += ["yes" if tight["solved"] else "no"]
            rows.append([p, solver, *evals, *end])
    header = ["problem", "solver", "evals: loose", "tight", "value", "gradient", "H, Hv", "met"]
    return table(header, rows)


def main() -> None:
    """Print a table for each solver of the run that is not among the recorded ones."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("jsonl", help="what `bench.py run` wrote")
    parser.add_argument("--solver", help="only this one; it may be a peer")
    parser.add_argument(
        "--peers", default=HERE / "peers.json", help="peers.json, or a run's .jsonl"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, no tables")
    parser.add_argument("--values", metavar="PROBLEM,...", help="list where the tight calls end")
    options = parser.parse_args()

    peers, results = read(options.peers), {}
    for dtype, run in read(options.jsonl).items():
        recorded = peers.get(dtype, {})
        if not run.keys() & recorded.keys():
            parser.error(f"no problem of {options.jsonl} is recorded in {options.peers}")
        if options.values:
            names = options.values.split(",")
            if unknown := set(names) - recorded.keys():
                parser.error(f"not recorded in {options.peers}: {sorted(unknown)}")
            print(values(names, run, recorded))
            continue
        known = {name for p in run.keys() & recorded.keys() for name in recorded[p]["solvers"]}
        live = {name for problem in run.values() for name in problem["solvers"]}
        for me in [options.solver] if options.solver else sorted(live - known):
            results[f"{dtype}/{me}"] = result = Score(me, run, recorded).result()
            if not options.json:
                print(report(dtype, me, result))
        if not options.json:
            print()
            for name, (differing, total) in changed_counts(run, recorded).items():
                where = f", not on {' '.join(differing)}" if differing else ""
                same = total - len(differing)
                print(f"{name}, {dtype}: counts as recorded on {same} of {total} problems{where}")
    if options.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
