"""One call that finds the cause of any symptom of a run, and leaves the run as it was."""

from __future__ import annotations

import logging
from pathlib import Path

from trainables.bundle import write_bundle
from trainables.course import Course
from trainables.detectors import Symptom
from trainables.diagnosis.case import Progress
from trainables.diagnosis.diagnose import diagnose
from trainables.diagnosis.evaluation_training import diagnose_gap
from trainables.diagnosis.snapshots import SnapshotRing
from trainables.diagnosis.verdict import Diagnosis
from trainables.state import TrainState

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

    losses: of the run, by step. A bundle holds a replay, which an eval gap need not have: it has no bundle.
    """
    config, run = course.config.diagnosis, (course.recipe, state)
    if symptom.kind == "eval_gap":
        return diagnose_gap(*run, course.evaluations, course.replayed, symptom, snapshots, losses, progress)
    diagnosis = diagnose(*run, course.replayed, symptom, snapshots, losses, progress)
    if config.bundle is not None and state.ranks.rank == 0:
        (snapshot,) = snapshots.before(diagnosis.controls.snapshot_step, margin=0)[:1]
        log.info("bundle: %s", write_bundle(Path(config.bundle), course, snapshot, symptom, diagnosis, losses))
    return diagnosis
