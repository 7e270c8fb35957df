"""A diagnosis as a folder from which it can be repeated elsewhere: `epoch14 replay FOLDER`.

    state.safetensors    the snapshot that the replays start from
    manifest.json        config, events before, symptom, recorded losses, sample ids, diagnosis, checksum of the data's
                         index, versions; hashed as a checkpoint's is, without pickle
    diagnosis.json       the diagnosis alone
    README.txt           the command

The images are not in it: they are found where the config says, or where the reader says, and must be the same ones.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from trainables.baseline import Baseline
from trainables.build import build_state, choose_device
from trainables.checkpoint_format import (
    MANIFEST,
    STATE,
    DamagedError,
    pack_manifest,
    pack_tensors,
    unpack_manifest,
    unpack_tensors,
)
from trainables.config import TrialConfig
from trainables.course import Course
from trainables.data.index import open_index
from trainables.detectors import Symptom
from trainables.diagnosis.diagnose import diagnose
from trainables.diagnosis.snapshots import SnapshotRing
from trainables.diagnosis.verdict import Diagnosis
from trainables.errors import DataError, complaint
from trainables.faults import build_faults
from trainables.ranks import Ranks
from trainables.recipe import Recipe
from trainables.state import Snapshot

DIAGNOSIS, README = "diagnosis.json", "README.txt"


@dataclass(frozen=True)
class Bundle:
    """What a bundle holds."""

    snapshot: Snapshot
    meta: Mapping[str, Any]


def write_bundle(
    root: Path, course: Course, snapshot: Snapshot, symptom: Symptom, diagnosis: Diagnosis, losses: Mapping[int, float]
) -> Path:
    """Write the bundle of `diagnosis` into a folder of its own below `root`; returns the folder.

    snapshot: the one that the controls name; losses: the run's, by step. Raises OSError where `root` can't be written.
    """
    config, content = course.config.model_dump(mode="json"), diagnosis.to_dict()
    steps = range(snapshot.step, symptom.onset + diagnosis.controls.horizon)
    meta = {
        "config": config,
        "data": course.recipe.index.fingerprint(),
        "events": course.state_dict(),
        "symptom": asdict(symptom),
        "losses": [[step, loss] for step, loss in losses.items() if step >= snapshot.step],
        "sample_ids": {str(step): course.replayed(step).sample_ids.tolist() for step in steps},
        "diagnosis": content,
        "versions": versions(),
    }
    key = hashlib.blake2b(json.dumps(config).encode(), digest_size=4).hexdigest()
    folder = root / f"{symptom.kind}-step{symptom.onset}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    state = pack_tensors(snapshot.tensors)
    (folder / STATE).write_bytes(state)
    (folder / MANIFEST).write_bytes(pack_manifest(snapshot.step, 0.0, 0, json.dumps(meta), state))
    (folder / DIAGNOSIS).write_text(json.dumps(content, indent=1), encoding="utf-8")
    command = f"epoch14 replay {folder.name}   # --data PLACE where the images lie elsewhere\n"
    (folder / README).write_text(command, encoding="utf-8")
    return folder


def versions() -> dict[str, str]:
    """What the bits of a replay may depend on besides the device."""
    return {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()}


def read_bundle(folder: Path) -> Bundle:
    """Raises DataError where there is none, or a byte of it has changed."""
    try:
        content = (folder / MANIFEST).read_bytes()
        manifest = unpack_manifest(content, int(json.loads(content)["step"]))
        return Bundle(Snapshot(manifest.step, unpack_tensors((folder / STATE).read_bytes(), manifest)), manifest.meta)
    except (OSError, ValueError, KeyError, DamagedError) as error:
        allowed = f"a folder that a diagnosis with diagnosis.bundle has written, whole ({error})"
        raise DataError(complaint("BUNDLE", str(folder), allowed, "copy it again")) from None


def replay_bundle(bundle: Bundle, data: str | None = None, progress: Callable[[str], None] = print) -> Diagnosis:
    """Diagnose the bundle's event again, from its snapshot; `data`: where the images are, if not at data.path.

    Raises DataError before anything is replayed where the images are not those of the run.
    """
    meta = bundle.meta
    config = TrialConfig.parse(meta["config"])
    if data is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"path": data})})
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
    ring.add(bundle.snapshot)
    symptom = Symptom(**{**meta["symptom"], "baseline": Baseline.from_dict(meta["symptom"]["baseline"])})
    losses = {int(step): float(loss) for step, loss in meta["losses"]}
    return diagnose(recipe, state, course.replayed, symptom, ring, losses, progress)


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
