"""A diagnosis as a folder from which it can be repeated elsewhere: `epoch14 replay FOLDER`.

    state.safetensors    the snapshot that the replays start from; of an eval gap the state that was evaluated, and
                         an earlier one where there is one to replay from
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
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from trainables.checkpoint_format import (
    MANIFEST,
    STATE,
    DamagedError,
    pack_manifest,
    pack_tensors,
    unpack_manifest,
    unpack_tensors,
)
from trainables.course import Course
from trainables.detectors import Symptom
from trainables.diagnosis.evaluation_case import scored_ids
from trainables.diagnosis.verdict import Diagnosis
from trainables.errors import DataError, complaint
from trainables.state import Snapshot

DIAGNOSIS, README = "diagnosis.json", "README.txt"
EARLIER = "earlier/"
"""What the names of an earlier snapshot's tensors begin with."""


@dataclass(frozen=True)
class Bundle:
    """What a bundle holds."""

    snapshot: Snapshot
    meta: Mapping[str, Any]
    earlier: Snapshot | None = None
    """Of an eval gap: what running statistics can be replayed from."""


def bundle_name(config: Mapping[str, Any], kind: str, onset: int, events: int) -> str:
    """Name of a diagnosis's folder: symptom, onset, a key of the trial's whole config, and how many events came before.

    >>> bundle_name({}, "spike", 35, 1)
    'spike-step35-54d6b40c-after1'
    """
    key = hashlib.blake2b(json.dumps(config).encode(), digest_size=4).hexdigest()
    return f"{kind}-step{onset}-{key}" + (f"-after{events}" if events else "")


def write_bundle(
    root: Path,
    course: Course,
    snapshot: Snapshot,
    symptom: Symptom,
    diagnosis: Diagnosis,
    losses: Mapping[int, float],
    earlier: Snapshot | None = None,
) -> Path:
    """Write the bundle of `diagnosis` into a folder of its own below `root`; returns the folder.

    snapshot: the one that the controls name; losses: the run's, by step; earlier: as in `Bundle`. Raises OSError where
    `root` can't be written.
    """
    config, content = course.config.model_dump(mode="json"), diagnosis.to_dict()
    meta = {
        "config": config,
        "data": course.recipe.index.fingerprint(),
        "events": course.state_dict(),
        "symptom": asdict(symptom),
        "losses": [[step, loss] for step, loss in losses.items() if step >= snapshot.step],
        "sample_ids": _sample_ids(course, snapshot, symptom, diagnosis),
        "diagnosis": content,
        "versions": versions(),
        "earlier": earlier.step if earlier is not None else None,
    }
    folder = root / bundle_name(config, symptom.kind, symptom.onset, len(course.events))
    folder.mkdir(parents=True, exist_ok=True)
    before = earlier.tensors if earlier is not None else {}
    state = pack_tensors({**snapshot.tensors, **{f"{EARLIER}{name}": tensor for name, tensor in before.items()}})
    (folder / STATE).write_bytes(state)
    (folder / MANIFEST).write_bytes(pack_manifest(snapshot.step, 0.0, 0, json.dumps(meta), state))
    (folder / DIAGNOSIS).write_text(json.dumps(content, indent=1), encoding="utf-8")
    command = f"epoch14 replay {folder.name}   # --data PLACE where the images lie elsewhere\n"
    (folder / README).write_text(command, encoding="utf-8")
    return folder


def _sample_ids(course: Course, snapshot: Snapshot, symptom: Symptom, diagnosis: Diagnosis) -> dict[str, list[int]]:
    """Ids of train/ by step that a replay goes through; of an eval gap those of val/ that are scored, as `val`."""
    if symptom.kind == "eval_gap":
        scored = scored_ids(course.recipe, course.evaluations(snapshot.step).sample_ids)
        return {"val": scored.tolist()}
    steps = range(snapshot.step, symptom.onset + diagnosis.controls.horizon)
    return {str(step): course.replayed(step).sample_ids.tolist() for step in steps}


def versions() -> dict[str, str]:
    """What the bits of a replay may depend on besides the device."""
    return {"python": platform.python_version(), "torch": torch.__version__, "machine": platform.machine()}


def read_bundle(folder: Path) -> Bundle:
    """The bundle in `folder`, or the only one below it.

    Raises DataError where there is none, or a byte of it has changed.
    """
    below = sorted(folder.glob(f"*/{MANIFEST}"))
    if len(below) == 1 and not (folder / MANIFEST).exists():
        folder = below[0].parent
    try:
        content = (folder / MANIFEST).read_bytes()
        manifest = unpack_manifest(content, int(json.loads(content)["step"]))
        tensors, meta = unpack_tensors((folder / STATE).read_bytes(), manifest), manifest.meta
    except (OSError, ValueError, KeyError, DamagedError) as error:
        reason = f"it holds {len(below)} bundles" if below else str(error)
        allowed = f"a folder that diagnosis.bundle or `epoch14 bundle` has written, whole ({reason})"
        remedy = f"name one of them, as {below[0].parent}" if below else "copy it again"
        raise DataError(complaint("BUNDLE", str(folder), allowed, remedy)) from None
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith(EARLIER)}
    before = {name.removeprefix(EARLIER): tensor for name, tensor in tensors.items() if name not in own}
    earlier = Snapshot(meta["earlier"], before) if before else None
    return Bundle(Snapshot(manifest.step, own), meta, earlier)
