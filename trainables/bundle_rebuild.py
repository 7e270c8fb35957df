"""The bundles of a run that is over, made afterwards: its last steps are run once more from a checkpoint of before.

A step is a pure function of (config, seed, step): on the device and torch of the run its events come back with their
bits, and so do the snapshots that they were diagnosed from. No diagnosis is repeated: the recorded ones are told to the
run, which goes back or on after each as it did then.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from trainables.checkpoint import Checkpoint, CheckpointStore
from trainables.checkpoint_format import Manifest
from trainables.config import TrialConfig
from trainables.course import Course
from trainables.detectors import Symptom
from trainables.diagnosis.case import Progress
from trainables.diagnosis.evaluation_running import REPLAYED
from trainables.diagnosis.snapshots import SnapshotRing
from trainables.diagnosis.verdict import Diagnosis
from trainables.errors import ConfigError, complaint
from trainables.examination import bundle_diagnosis
from trainables.state import TrainState
from trainables.trial import Trial

Recorded = Mapping[str, Any]
"""A diagnosis as `Diagnosis.to_dict` has it."""


def choose_start(manifests: Sequence[Manifest], diagnoses: Sequence[Recorded]) -> Manifest | None:
    """The checkpoint from which most of the diagnoses can be reached, and these soonest; None: none reaches any.

    diagnoses: of all events of the run, in order. One is reached from a checkpoint that knows of the events before it
    alone, and is no younger than the snapshot that it was made from. (Step 0's snapshot can always be made.)
    """
    fitting = [m for m in manifests if _precedes(m.step, diagnoses[_events(m.meta) :][:1])]
    return min(fitting, key=lambda m: (_events(m.meta), -m.step), default=None)


def rebuild_bundles(
    config: TrialConfig, diagnoses: Sequence[Recorded], start: Checkpoint | None, root: Path, progress: Progress
) -> list[Path]:
    """Write the bundles of the diagnoses that come after `start` below `root`; returns their folders.

    start: as `choose_start` says; None: the run is repeated from step 0. Raises ConfigError where an event does not
    come back, and where the checkpoint is another run's; DataError where the images are others.
    """
    left = list(diagnoses[_events(start.meta) if start is not None else 0 :])
    last = int(left[-1]["symptom"]["step"])
    folders: list[Path] = []

    def tell(
        course: Course,
        state: TrainState,
        symptom: Symptom,
        snapshots: SnapshotRing,
        losses: dict[int, float],
        _progress: Progress,
    ) -> Diagnosis:
        if not left or _place(left[0]["symptom"]) != (symptom.kind, symptom.onset, symptom.step):
            raise _not_back(left, f"{symptom.kind} at step {symptom.onset} came")
        diagnosis = Diagnosis.from_dict(left.pop(0), symptom)
        folders.append(bundle_diagnosis(root, course, state, symptom, diagnosis, snapshots, losses))
        return diagnosis

    def report(row: dict[str, Any]) -> None:
        progress(f"step {row['step']} of {last + 1}")

    with ExitStack() as stack:
        store = None
        if start is not None:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            store = stack.enter_context(CheckpointStore(folder, keep=2))
            store.save(start.step, start.tensors, start.meta)
        Trial(config, report, store=store, stop_after=last + 1, find=tell).run()
    if left:
        raise _not_back(left, "it stayed away")
    return folders


def _events(meta: Mapping[str, Any]) -> int:
    return len(meta.get("events", ()))


def _precedes(step: int, coming: Sequence[Recorded]) -> bool:
    """Whether a run at `step` has yet to take the snapshot of the diagnosis that comes."""
    for diagnosis in coming:
        symptom, snapshot = diagnosis["symptom"], int(diagnosis["controls"]["snapshot_step"])
        # The statistics that were evaluated are replayed from a state of before.
        latest = snapshot - REPLAYED[0] if symptom["kind"] == "eval_gap" else snapshot
        return step < symptom["step"] and (snapshot == 0 or step <= latest)
    return False


def _place(symptom: Mapping[str, Any]) -> tuple[str, int, int]:
    return symptom["kind"], symptom["onset"], symptom["step"]


def _not_back(left: Sequence[Recorded], instead: str) -> ConfigError:
    event = "no further event"
    if left:
        kind, onset, _ = _place(left[0]["symptom"])
        event = f"{kind} at step {onset}"
    allowed = f"a run whose events come back when its steps are run again here ({instead})"
    remedy = "ask where it ran, on its device and with its torch; or train it with --set diagnosis.bundle=FOLDER"
    return ConfigError(complaint("TRIAL", event, allowed, remedy))
