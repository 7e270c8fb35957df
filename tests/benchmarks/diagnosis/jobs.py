"""What the processes of a run do, job by job; jobs are names of cases."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tests.benchmarks.diagnosis.cases import case_named
from tests.benchmarks.diagnosis.healthy import train_base
from tests.benchmarks.diagnosis.run import run_case

Result = TypeVar("Result")


def run_all(work: Callable[[str], Result], names: Sequence[str], processes: int, what: str) -> Iterator[Result]:
    """Results as they come, with the time that is left on stderr."""
    if not names:
        return
    started = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=40) as pool:
        for done, result in enumerate(pool.imap_unordered(work, names), start=1):
            yield result
            each = (time.monotonic() - started) / done
            left = f"{each:.1f} s each, about {each * (len(names) - done) / 60:.0f} min left"
            print(f"[{done}/{len(names)} {what}, {left}; 1,000 take {each / 3.6:.1f} h]", file=sys.stderr, flush=True)


def base_of(name: str, *, cache: Path, watch: int) -> tuple[str, str]:
    """Train the base of a case; its name and seed, and what the detector said."""
    case = case_named(name)
    return f"{case.base.name}/{case.seed}", train_base(case.base, case.seed, cache, watch)


def row_of(name: str, *, cache: Path, watch: int, diagnosing: bool) -> dict[str, Any]:
    """Run one case."""
    case = case_named(name)
    try:
        return run_case(case, cache, watch, diagnosing=diagnosing)
    except Exception as error:  # noqa: BLE001 - one broken case is a finding, and no reason to lose the others
        return {"case": case.name, "fault": case.variant.name, "part": case.base.part, "crash": repr(error)}
