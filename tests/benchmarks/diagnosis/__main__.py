"""The benchmark of detection and diagnosis: faults on healthy runs, and what is said of them.

    make bench-diagnosis ARGS="--limit 100"

Results go line by line to --results; a case that is there is not run again, so an interrupted run goes on. --outcome
trains each case on for longer, over five seeds, to tell the faults that change the outcome. --ranks runs a choice of
faults on 1 and on 2 ranks, to compare the causes that are named. --report writes the tables of what is there and runs
nothing; results.jsonl.gz beside this file has the rows of the tables in RESULTS.md.
"""

from __future__ import annotations

import argparse
import os
import sys
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.diagnosis.bases import Part
from tests.benchmarks.diagnosis.cases import select
from tests.benchmarks.diagnosis.healthy import folder_of
from tests.benchmarks.diagnosis.jobs import base_of, row_of, run_all
from tests.benchmarks.diagnosis.on_ranks import run_on_ranks
from tests.benchmarks.diagnosis.report import renewed, write_report
from tests.benchmarks.diagnosis.report_ranks import on_ranks_section
from tests.benchmarks.diagnosis.results import append, read
from trainables.data.index import default_cache_dir

SEEDS = 2
WATCH = 48
OUTCOME_WATCH = 160
"""Steps after the onset that a case is followed for."""
OUTCOME_SEEDS = 5


def arguments() -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(prog="bench-diagnosis", description=__doc__)
    parser.add_argument("--part", choices=("tune", "report", "both"), default="both", help="which bases")
    parser.add_argument("--only", default="*", help="glob of BASE/FAULT/SEED")
    parser.add_argument("--limit", type=int, help="at most so many new cases; each beginning is a broad cut")
    parser.add_argument("--seeds", type=int, help=f"how many; default: {SEEDS}, and {OUTCOME_SEEDS} with --outcome")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--watch", type=int, help=f"steps after the onset; default: {WATCH}, or {OUTCOME_WATCH}")
    parser.add_argument("--controls", action="store_true", help="the negative controls alone")
    parser.add_argument("--slow", action="store_true", help="float16 too, whose steps take seconds on a CPU")
    parser.add_argument("--outcome", action="store_true", help="longer, over five seeds, without diagnosis")
    parser.add_argument("--ranks", action="store_true", help="on 1 and 2 ranks: BASE/FAULT/SEED/RANKS")
    parser.add_argument("--again", metavar="GLOB", help="run these cases again")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=default_cache_dir() / "bench-diagnosis")
    parser.add_argument("--results", type=Path, help="JSONL file; default: in the cache")
    parser.add_argument("--report", type=Path, metavar="MARKDOWN", help="write the tables and run nothing")
    return parser.parse_args()


def shown(row: dict[str, Any]) -> str:
    """One line on a case."""
    if "crash" in row or "error" in row:
        return f"{row['case']}: {row.get('crash') or row.get('error')}"
    symptom, verdict = row["symptom"], row["verdict"]
    seen = f"{symptom['kind']} after {row['delay']}" if symptom else "nothing"
    named = f"{verdict['cause']} ({verdict['confidence']:.2f})" if verdict else "-"
    return f"{row['case']}: {seen}, {named}; top-1 {row['top1']:.2f} of {row['healthy_top1']:.2f}"


def run(asked: argparse.Namespace, results: Path) -> None:
    """Train the bases that are missing, then the cases that are."""
    watch = asked.watch or (OUTCOME_WATCH if asked.outcome else WATCH)
    count = asked.seeds or (OUTCOME_SEEDS if asked.outcome else SEEDS)
    seeds = range(asked.first_seed, asked.first_seed + count)
    parts: tuple[Part, ...] = ("tune", "report") if asked.part == "both" else (asked.part,)
    known = {row["case"] for row in read(results) if not (asked.again and fnmatch(row["case"], asked.again))}
    cases = [case for case in select(parts, seeds, only=asked.only) if asked.slow or not case.variant.slow]
    cases = [case for case in cases if case.variant.where == "control" or not asked.controls]
    missing = [case for case in cases if case.name not in known][: asked.limit]
    print(f"{len(missing)} cases to run of {len(cases)}; results: {results}", file=sys.stderr)
    first = {(case.base.name, case.seed): case.name for case in missing}
    train = partial(base_of, cache=asked.cache, watch=watch)
    for name, alarm in run_all(train, list(first.values()), asked.processes, "healthy runs"):
        if alarm:
            print(f"healthy run {name}: {alarm}", flush=True)
    sound = [c.name for c in missing if (folder_of(c.base, c.seed, asked.cache) / "run.json").exists()]
    print(f"{len(missing) - len(sound)} cases left out: their healthy run is none", file=sys.stderr)
    follow = partial(row_of, cache=asked.cache, watch=watch, diagnosing=not asked.outcome)
    for row in run_all(follow, sound, asked.processes, "cases"):
        append(results, row)
        print(shown(row), flush=True)


def results_name(asked: argparse.Namespace) -> str:
    """The file of what is asked for, each kind of rows in its own."""
    if asked.report is not None:
        return "results.jsonl"
    return "ranks.jsonl" if asked.ranks else "outcome.jsonl" if asked.outcome else "results.jsonl"


def main() -> int:
    """Run, or report."""
    asked = arguments()
    results = asked.results or asked.cache / results_name(asked)
    if asked.report is not None:
        ending = "".join(results.suffixes)
        outcomes, ranked = (read(results.with_name(name + ending)) for name in ("outcome", "ranks"))
        tables = write_report(read(results), outcomes) + on_ranks_section(ranked)
        asked.report.write_text(renewed(asked.report, tables))
        return 0
    # A process reads it when torch is loaded, before any config can say so.
    os.environ["OMP_NUM_THREADS"] = "1"
    results.parent.mkdir(parents=True, exist_ok=True)
    try:
        if asked.ranks:
            run_on_ranks(results, WATCH, only=asked.only, again=asked.again or "", limit=asked.limit)
        else:
            run(asked, results)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
