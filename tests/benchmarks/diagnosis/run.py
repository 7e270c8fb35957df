"""One case from its fork to its verdict."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.diagnosis.adapter import Training, describe, open_data
from tests.benchmarks.diagnosis.damage import Damage, copy_linked
from tests.benchmarks.diagnosis.healthy import folder_of, healthy_index, healthy_top1
from tests.benchmarks.diagnosis.scoring import PER_SAMPLE
from tests.benchmarks.diagnosis.variant import Case
from trainables.config import TrialConfig
from trainables.data.index import ImageIndex
from trainables.errors import Epoch14Error
from trainables.recipe import Recipe


def run_case(case: Case, cache: Path, watch: int, *, diagnosing: bool = True) -> dict[str, Any]:
    """Fork, inject, train until a symptom, diagnose; then train on to `watch` steps after the onset, for the scores.

    The row says what was injected, what was seen and what it was taken for.
    """
    started = time.monotonic()
    row = injected(case, watch) | {"healthy_top1": healthy_top1(case.base, case.seed, cache, watch)}
    config = TrialConfig.parse(case.values())
    with data_of(case, config) as index:
        try:
            row |= follow(case, Training(config, index), cache, watch, diagnosing=diagnosing)
        except Epoch14Error as error:
            row |= {"error": str(error)}
    return row | {"total_seconds": round(time.monotonic() - started, 2)}


def injected(case: Case, watch: int) -> dict[str, Any]:
    """What the row says of the fault."""
    variant = case.variant
    return {
        "case": case.name,
        "base": case.base.name,
        "part": case.base.part,
        "fault": variant.name,
        "where": variant.where,
        "seed": case.seed,
        "onset": case.onset,
        "right": list(variant.causes),
        "layer": variant.layer,
        "rank": variant.rank,
        "in_evaluation": variant.in_evaluation,
        "watch": watch,
    }


def inject(case: Case, run: Training) -> None:
    """Do to the run, which is at the onset, what is not in its config or data."""
    if case.variant.swaps is not None:
        run.swap(case.variant.swaps(run.recipe, case.onset))
    if case.variant.edit is not None:
        case.variant.edit(run.state)


def last_step(case: Case, run: Training, watch: int) -> int:
    """Up to which step the case is followed."""
    stop = case.base.onset + watch
    # Half of the steps, a warm-up before them, and a history to be sure by.
    return max(stop, run.config.max_steps * 3 // 4) if case.variant.patient else stop


def follow(case: Case, run: Training, cache: Path, watch: int, *, diagnosing: bool) -> dict[str, Any]:
    """What comes of the run."""
    if not case.variant.from_start:
        run.restore(folder_of(case.base, case.seed, cache))
    inject(case, run)
    stop = last_step(case, run, watch)
    symptom = run.train(stop)
    row: dict[str, Any] = {"symptom": None, "verdict": None}
    if symptom is not None:
        row |= {"symptom": describe(symptom), "delay": symptom.step - case.onset}
        row |= {"verdict": asdict(run.diagnose(symptom)) if diagnosing and case.variant.causes else None}
        row |= {"culprits": culprits_of(case, run, symptom.step + 1)}
    run.train(stop, heed=False)
    row |= {"top1": run.top1(), "losses": [round(loss, 4) for _, loss in sorted(run.losses.items())]}
    if row["verdict"] is not None and row["verdict"]["curable"]:
        again = run.roll_back(stop)
        row |= {"cured": {"symptom": describe(again) if again else None, "top1": run.top1()}}
    return row


def culprits_of(case: Case, run: Training, stop: int) -> list[int] | None:
    """Bad samples that the run had seen before `stop`; None where it isn't single samples that are bad."""
    if not PER_SAMPLE & set(case.variant.causes):
        return None
    healthy = healthy_index(case.base.values(case.seed)["data"]["path"])
    return list(run.foreign_samples(healthy, case.onset, stop))


@contextmanager
def data_of(case: Case, config: TrialConfig) -> Iterator[ImageIndex]:
    """The data set of the case, damaged where its variant says so."""
    healthy = healthy_index(config.data.path)
    if case.variant.reindex is not None:
        yield case.variant.reindex(healthy)
    elif case.variant.damage is None:
        yield healthy
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield damaged(case, config, healthy, Path(folder) / "images", case.variant.damage)


def damaged(case: Case, config: TrialConfig, healthy: ImageIndex, root: Path, damage: Damage) -> ImageIndex:
    """A damaged copy at `root`: the files that the run has not seen before the onset.

    Its channel statistics are those of the healthy files, but where the damage was there from the start.
    """
    copy_linked(Path(healthy.root), root)
    sampler = Recipe.build(config, healthy).sampler
    seen = [sampler.sample_ids(step) for step in range(case.onset)]
    rest = np.setdiff1d(np.arange(len(healthy.train)), np.concatenate(seen) if seen else [])
    names = [healthy.train.store.names[i] for i in rest]
    damage(root, names, healthy.train.labels[rest], case.seed)
    found = open_data(str(root))
    if case.variant.from_start:
        return found
    return replace(found, channel_mean=healthy.channel_mean, channel_std=healthy.channel_std)
