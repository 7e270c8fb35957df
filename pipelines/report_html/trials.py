"""What one trial of a sweep says: whether it fell ill, of what, and by which diagnoses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from infra.explanation import remedy_text
from infra.tracking_sweeps import RecordedSweep, SweptTrial
from pipelines.sweep import TrialRow

NOT_DIAGNOSED = "not diagnosed"
SEEN_TO_THE_END = ("finished", "stopped")
"""Endings that say whether a trial stays healthy: what was pruned, failed or interrupted might have fallen ill yet."""


def is_ill(trial: SweptTrial) -> bool:
    """Whether something went wrong in its training: it was stopped by a symptom, or went on after an event."""
    return bool(trial.symptom or trial.events)


def counts(trial: SweptTrial) -> bool:
    """Whether the trial has a part in failure rates."""
    return is_ill(trial) or trial.status in SEEN_TO_THE_END


def diagnoses(trial: SweptTrial) -> list[Mapping[str, Any]]:
    """Every diagnosis of the trial, the one of what ended it last."""
    found = [event["diagnosis"] for event in trial.events if event.get("diagnosis")]
    return [*found, *([trial.diagnosis] if trial.diagnosis else [])]


def cause(trial: SweptTrial) -> str:
    """The cause of its last diagnosis; empty for a healthy trial."""
    if not is_ill(trial):
        return ""
    found = diagnoses(trial)
    return str(found[-1]["cause"]) if found else NOT_DIAGNOSED


def onsets(trial: SweptTrial) -> list[int]:
    """First step of each event that is on record."""
    steps = [int(event["onset"]) for event in trial.events]
    if trial.diagnosis:
        steps.append(int(trial.diagnosis["symptom"]["onset"]))
    elif trial.status == "stopped" and trial.loss:
        steps.append(trial.loss[-1][0])
    return sorted(set(steps))


def short_id(trial: SweptTrial) -> str:
    """The trial's place in the sweep, `00003`, where its id has one."""
    place = trial.trial_id.rpartition("_")[2]
    return place if place.isdigit() else trial.trial_id


def as_row(trial: SweptTrial) -> TrialRow:
    """The trial as a line of the sweep's final table; an event that the run went on after counts as its symptom."""
    found = diagnoses(trial)
    last: Mapping[str, Any] = found[-1] if found else {}
    kind = str(last["symptom"]["kind"]) if last else str(trial.events[-1]["kind"]) if trial.events else ""
    return TrialRow(
        trial_id=trial.trial_id,
        name=trial.name,
        params={},
        best_val_top1=trial.best_val_top1 or 0.0,
        steps=trial.steps,
        status=trial.status,
        symptom=trial.symptom or kind,
        cause=str(last.get("cause", "")),
        group=str(last.get("group", "")),
        confidence=float(last.get("confidence", 0.0)),
        remedy=remedy_text(last),
        verified=bool(remedy_text(last)),
        siblings=trial.siblings,
        error=trial.error,
    )


def as_rows(sweep: RecordedSweep) -> list[TrialRow]:
    """All trials as lines of the final table."""
    return [as_row(trial) for trial in sweep.trials]
