"""The same faults on 1 and on 2 ranks (gloo): the same global batch, the same steps, and one cause.

A fork of a healthy run would bring losses that another number of ranks has recorded, which no replay gives again; so
each run trains from step 0. Rows are named BASE/FAULT/SEED/RANKS.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.multiprocessing as mp
from torch.multiprocessing.spawn import ProcessException

from tests.benchmarks.diagnosis.adapter import Training, describe
from tests.benchmarks.diagnosis.bases import BASES
from tests.benchmarks.diagnosis.cases import VARIANTS
from tests.benchmarks.diagnosis.one_rank import ONE_RANK
from tests.benchmarks.diagnosis.results import append, read
from tests.benchmarks.diagnosis.run import data_of, inject, injected, last_step
from tests.benchmarks.diagnosis.variant import Case
from trainables.config import TrialConfig
from trainables.errors import Epoch14Error
from trainables.ranks import Ranks

WORLDS = (1, 2)
RANKED_BASES = ("tune-bn-cosine", "bn-steps")
SEED = 0
ON_ALL = (
    *("lr-x30", "gamma-x16", "labels-shuffled", "no-div255", "bit-flip-fc", "no-zero-grad", "wrong-metric"),
    *("config-lr-x100", "model-gamma-x8", "files-labels-100", "files-black-80", "optimizer-keeps-gradients"),
    *("nan-pixel", "bn-stats-x1e4", "sorted-class", "eval-bgr", "config-decay-20", "healthy"),
)
"""Of each group some, at the seam and below it, with each kind of symptom; and a control."""


def ranked_cases() -> dict[str, tuple[Case, int]]:
    """Each case and its number of ranks by the name of its row; faults of one rank on several ranks only."""
    named = {variant.name: variant for variant in VARIANTS}
    variants = [*(named[name] for name in ON_ALL), *ONE_RANK]
    bases = [next(base for base in BASES if base.name == name) for name in RANKED_BASES]
    return {
        f"{base.name}/{variant.name}/{SEED}/{world}": (Case(base, variant, SEED), world)
        for base in bases
        for world in WORLDS
        for variant in variants
        if world > 1 or variant not in ONE_RANK
    }


def ranked_row(name: str, watch: int) -> dict[str, Any]:
    """Train, inject at the onset, train until a symptom and diagnose it: on all ranks of this process's group."""
    started = time.monotonic()
    case, world = ranked_cases()[name]
    ranks = Ranks.current()
    assert ranks.world_size == world
    row = injected(case, watch) | {"case": name, "world": world, "symptom": None, "verdict": None}
    config = TrialConfig.parse(case.values())
    with data_of(case, config) as index:
        try:
            run = Training(config, index)
            symptom = run.train(case.onset)
            if symptom is None:
                inject(case, run)
                symptom = run.train(last_step(case, run, watch))
            if symptom is not None:
                row |= {"symptom": describe(symptom), "delay": symptom.step - case.onset}
                row |= {"verdict": asdict(run.diagnose(symptom))}
        except Epoch14Error as error:
            row |= {"error": str(error)}
    said = [{**(verdict or {}), "seconds": 0} for verdict in ranks.gather(row["verdict"])]
    same = all(verdict == said[0] for verdict in said)
    return row | {"ranks_agree": same, "total_seconds": round(time.monotonic() - started, 2)}


def shown(row: dict[str, Any]) -> str:
    """One line on a row."""
    if "crash" in row or "error" in row:
        return f"{row['case']}: {row.get('crash') or row.get('error')}"
    symptom, verdict = row["symptom"], row["verdict"]
    seen = f"{symptom['kind']} after {row['delay']}" if symptom else "nothing"
    named = f"{verdict['cause']}, rank {verdict['rank']}, layer {verdict['layer'] or '-'}" if verdict else "-"
    return f"{row['case']}: {seen}; {named}; {row['total_seconds']:.0f} s"


def worker(rank: int, world: int, store: str, names: Sequence[str], results: str, watch: int) -> None:
    """One rank of `world` that runs the cases one after the other; rank 0 writes the rows."""
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    for name in names:
        row = ranked_row(name, watch)
        if rank == 0:
            append(Path(results), row)
            print(shown(row), flush=True)
    if world > 1:
        dist.destroy_process_group()


def run_world(world: int, names: Sequence[str], results: Path, watch: int) -> None:
    """Run the cases in a group of `world` processes; a case that breaks it gets a row, and a new group goes on."""
    left = list(names)
    while left:
        before = lines_of(results)
        with tempfile.TemporaryDirectory() as folder:
            arguments = (world, f"{folder}/store", left, str(results), watch)
            try:
                mp.start_processes(worker, arguments, nprocs=world, start_method="spawn")  # type: ignore[attr-defined, no-untyped-call] # torch
            except ProcessException as error:
                broken = left[lines_of(results) - before]
                case, _ = ranked_cases()[broken]
                append(results, injected(case, watch) | {"case": broken, "world": world, "crash": str(error)})
        left = left[lines_of(results) - before :]


def lines_of(results: Path) -> int:
    """Rows that were written, those that later ones replace included."""
    return results.read_text(encoding="utf-8").count("\n") if results.exists() else 0


def run_on_ranks(results: Path, watch: int, *, only: str = "*", again: str = "", limit: int | None = None) -> None:
    """Run the cases that fit the glob `only` and have no row yet, or fit `again`; 2 processes at most at a time."""
    known = {row["case"] for row in read(results) if not fnmatch(row["case"], again)}
    cases = {name: world for name, (_, world) in ranked_cases().items() if fnmatch(name, only)}
    missing = [name for name in cases if name not in known][:limit]
    print(f"{len(missing)} cases to run of {len(cases)}; results: {results}", file=sys.stderr)
    for world in WORLDS:
        run_world(world, [name for name in missing if cases[name] == world], results, watch)
