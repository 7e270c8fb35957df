"""A sweep's progress as plain lines: one a report, one a trial's end, with an estimate of the time left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipelines.progress.pace import duration
from pipelines.progress.state import ENDED_ROW

if TYPE_CHECKING:
    from infra.ray_events import TrialOutcome
    from pipelines.progress.state import ShownTrial, SweepState


def report_line(state: SweepState, trial: ShownTrial, row: Mapping[str, Any]) -> str:
    """Where the trial is; empty for its last row, whose trial's end says more."""
    if row.get("phase") in ENDED_ROW:
        return ""
    # How many replays a diagnosis takes isn't known before it ends.
    doing = _replay(trial) if trial.state == "diagnosing" else f"{_numbers(row)}{time_left(state)}"
    return f"{_head(state, trial)}: step {int(row.get('step', 0))}/{trial.total}, {doing}"


def end_line(state: SweepState, trial: ShownTrial, outcome: TrialOutcome) -> str:
    """How the trial ended."""
    return f"{_head(state, trial)}: {_ending(outcome)}{time_left(state)}"


def time_left(state: SweepState) -> str:
    """`; about 3 min left`, or nothing where there is no estimate."""
    seconds = state.seconds_left
    return "" if seconds is None else f"; about {duration(seconds)} left"


def _head(state: SweepState, trial: ShownTrial) -> str:
    return f"trial {trial.number}/{state.total_trials} {trial.name}"


def _numbers(row: Mapping[str, Any]) -> str:
    evaluated = f"val top-1 {100 * row['val_top1']:.1f} %, " if row.get("val_top1") else ""
    return f"loss {row.get('loss', float('nan')):.3f}, {evaluated}{row.get('images_per_s', 0.0):.0f} images/s"


def _replay(trial: ShownTrial) -> str:
    replay = f", replay: {trial.replay}" if trial.replay else ""
    return f"diagnosing: {trial.symptom}{replay}"


def _ending(outcome: TrialOutcome) -> str:
    row = outcome.row
    if outcome.status == "failed":
        return f"failed: {outcome.error}"
    if outcome.status == "stopped":
        diagnosis = row.get("diagnosis") or {}
        cause = f"cause: {diagnosis['cause']}" if diagnosis else "no diagnosis"
        return f"stopped at step {row.get('step')}, symptom: {row.get('symptom')}, {cause}"
    return f"{outcome.status} at step {row.get('step', 0)}, best val top-1 {100 * row.get('best_val_top1', 0.0):.1f} %"
