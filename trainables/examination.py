"""One call that finds the cause of any symptom of a run, and leaves the run as it was."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from trainables.bundle import write_bundle
from trainables.course import Course
from trainables.detectors import Symptom
from trainables.diagnosis.case import Progress
from trainables.diagnosis.diagnose import diagnose
from trainables.diagnosis.evaluation_running import choose_snapshot
from trainables.diagnosis.evaluation_training import diagnose_gap
from trainables.diagnosis.snapshots import SnapshotRing
from trainables.diagnosis.verdict import Diagnosis
from trainables.state import TrainState

FindCause = Callable[[Course, TrainState, Symptom, SnapshotRing, dict[int, float], Progress], Diagnosis]
"""(course, state, symptom, snapshots, losses by step, progress) -> diagnosis, as `find_cause`."""

log = logging.getLogger(__name__)


def find_cause(
    course: Course,
    state: TrainState,
    symptom: Symptom,
    snapshots: SnapshotRing,
    losses: dict[int, float],
    progress: Progress,
) -> Diagnosis:
    """Diagnose `symptom`, on all ranks together, and write the bundle where the config wants one.

    losses: of the run, by step. An eval gap is diagnosed from the state that was evaluated first, all else by replay.
    """
    config, run = course.config.diagnosis, (course.recipe, state)
    if symptom.kind == "eval_gap":
        diagnosis = diagnose_gap(*run, course.evaluations, course.replayed, symptom, snapshots, losses, progress)
    else:
        diagnosis = diagnose(*run, course.replayed, symptom, snapshots, losses, progress)
    if config.bundle is not None and state.ranks.rank == 0:
        folder = bundle_diagnosis(Path(config.bundle), course, state, symptom, diagnosis, snapshots, losses)
        log.info("bundle: %s", folder)
    return diagnosis


def bundle_diagnosis(
    root: Path,
    course: Course,
    state: TrainState,
    symptom: Symptom,
    diagnosis: Diagnosis,
    snapshots: SnapshotRing,
    losses: dict[int, float],
) -> Path:
    """Write the bundle of a diagnosis that was just made of the run in `state`; returns its folder."""
    (snapshot,) = snapshots.before(diagnosis.controls.snapshot_step, margin=0)[:1]
    if symptom.kind == "eval_gap":
        replayed = diagnosis.controls.snapshot_step < state.step
        earlier = snapshot if replayed else choose_snapshot(state.step, snapshots)
        return write_bundle(root, course, state.snapshot(gradients=True), symptom, diagnosis, losses, earlier)
    return write_bundle(root, course, snapshot, symptom, diagnosis, losses)
