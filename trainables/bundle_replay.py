"""A diagnosis once more, from its bundle, and where it comes out otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from trainables.baseline import Baseline
from trainables.build import build_state, choose_device
from trainables.bundle import Bundle
from trainables.config import TrialConfig
from trainables.course import Course
from trainables.data.index import open_index
from trainables.detectors import Symptom
from trainables.diagnosis.snapshots import SnapshotRing
from trainables.diagnosis.verdict import Diagnosis
from trainables.errors import DataError, complaint
from trainables.examination import find_cause
from trainables.faults import build_faults
from trainables.ranks import Ranks
from trainables.recipe import Recipe


def replay_bundle(bundle: Bundle, data: str | None = None, progress: Callable[[str], None] = print) -> Diagnosis:
    """Diagnose the bundle's event again, from its snapshot; `data`: where the images are, if not at data.path.

    Raises DataError before anything is replayed where the images are not those of the run.
    """
    meta = bundle.meta
    config = TrialConfig.parse(meta["config"])
    update: dict[str, Any] = {"diagnosis": config.diagnosis.model_copy(update={"bundle": None})}
    if data is not None:
        update["data"] = config.data.model_copy(update={"path": data})
    config = config.model_copy(update=update)
    torch.set_num_threads(config.threads)
    index = open_index(config.data.path)
    if index.fingerprint() != meta["data"]:
        allowed = f"the images of the run, whose index has the checksum {meta['data']}, not {index.fingerprint()}"
        raise DataError(complaint("data.path", config.data.path, allowed, "name their place with --data"))
    choose_device(config.device)
    recipe = Recipe.build(config, index)
    course = Course(config, recipe, build_faults(config.faults, recipe))
    course.load_state_dict(meta["events"])
    state = build_state(config, len(index.classes), Ranks.current())
    state.restore(bundle.snapshot)
    ring = SnapshotRing(config.diagnosis.snapshot_every, config.diagnosis.snapshots)
    for snapshot in filter(None, (bundle.earlier, bundle.snapshot)):
        ring.add(snapshot)
    symptom = Symptom(**{**meta["symptom"], "baseline": Baseline.from_dict(meta["symptom"]["baseline"])})
    losses = {int(step): float(loss) for step, loss in meta["losses"]}
    return find_cause(course, state, symptom, ring, losses, progress)


def differences(recorded: Mapping[str, Any], replayed: Diagnosis) -> list[str]:
    """What a replay says otherwise, a line each: the cause, the answers of the table, the exact control's bits.

    Severities are not compared: on another device they differ in their last digits.
    """
    again = replace(replayed, curves={}).to_dict()
    found = []
    if again["cause"] != recorded["cause"]:
        found.append(f"cause: {recorded['cause']} was recorded, {again['cause']} came out")
    rows = [{row["ingredient"]: row for row in content["table"]} for content in (recorded, again)]
    for ingredient in sorted(rows[0].keys() | rows[1].keys()):
        answers = [
            tuple(row[ingredient][key] for key in ("necessary", "sufficient")) if ingredient in row else ("absent",) * 2
            for row in rows
        ]
        if answers[0] != answers[1]:
            found.append(f"{ingredient}: {'/'.join(answers[0])} was recorded, {'/'.join(answers[1])} came out")
    return found
