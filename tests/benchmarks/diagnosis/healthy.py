"""Healthy runs up to their onset, on disk: trained once, forked by every case."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from functools import lru_cache
from pathlib import Path

from tests.benchmarks.diagnosis.adapter import Training, open_data
from tests.benchmarks.diagnosis.bases import Base
from trainables.config import TrialConfig
from trainables.data.index import ImageIndex

TRAINABLES = Path(__file__).resolve().parents[3] / "trainables"
APART = ("diagnosis", "faults")
"""Rooms of trainables/ that change nothing of a healthy run."""


@lru_cache(maxsize=4)
def healthy_index(path: str) -> ImageIndex:
    """The undamaged data set."""
    return open_data(path)


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Hash of the code that a healthy run depends on."""
    digest = hashlib.sha256()
    for file in sorted(TRAINABLES.rglob("*.py")):
        if file.relative_to(TRAINABLES).parts[0] not in APART:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def folder_of(base: Base, seed: int, cache: Path) -> Path:
    """Where a healthy run lies, by its config, its onset and the code."""
    key = json.dumps([base.values(seed), base.onset, code_digest()], sort_keys=True)
    return cache / "bases" / f"{base.name}-{seed}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def train_base(base: Base, seed: int, cache: Path, watch: int) -> str:
    """Train a healthy run to its onset and keep it; then on for `watch` steps, for the scores to compare with.

    Returns what the detector said, or nothing: a base with a symptom is none.
    """
    folder = folder_of(base, seed, cache)
    known = folder / f"further-{watch}.json"
    if known.exists():
        return str(json.loads(known.read_text())["alarm"])
    values = base.values(seed)
    run = Training(TrialConfig.parse(values), healthy_index(values["data"]["path"]))
    alarm = run.train(base.onset)
    if alarm is None and not folder.exists():
        partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
        partial.mkdir(parents=True)
        run.save(partial)
        try:
            partial.rename(folder)
        except OSError:
            shutil.rmtree(partial)
    folder.mkdir(parents=True, exist_ok=True)
    alarm = alarm or run.train(base.onset + watch)
    run.train(base.onset + watch, heed=False)
    said = f"{alarm.kind} at {alarm.onset}: {alarm.detail}" if alarm else ""
    kept = {"alarm": said, "top1": run.top1(), "losses": list(run.losses.values())}
    known.write_text(json.dumps(kept))
    return said


def healthy_top1(base: Base, seed: int, cache: Path, watch: int) -> float:
    """Top-1 of the healthy run `watch` steps after the onset."""
    return float(json.loads((folder_of(base, seed, cache) / f"further-{watch}.json").read_text())["top1"])
