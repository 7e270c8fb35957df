"""Progress of a sweep on the terminal: one plain line a report and a trial's end, with an estimate of the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from infra.ray_events import TrialOutcome


class Progress:
    """Listens to the trials of a sweep and writes lines.

    `steps`: how many steps a trial at a point has; `name`: what it is called; `total_trials`: how many will run.
    """

    def __init__(
        self,
        total_trials: int,
        *,
        steps: Callable[[Mapping[str, Any]], int],
        name: Callable[[Mapping[str, Any]], str],
        write: Callable[[str], None],
    ) -> None:
        self._total_trials = total_trials
        self._steps, self._name, self._write = steps, name, write
        self._started = time.monotonic()
        self._numbers: dict[str, int] = {}
        self._done: dict[str, tuple[int, int]] = {}

    def trial_reported(self, outcome: TrialOutcome) -> None:
        """Write where the trial is."""
        row, total = outcome.row, self._steps(outcome.point)
        if row.get("phase") in ("finished", "stopped"):
            return
        step = int(row.get("step", 0))
        self._done[outcome.trial_id] = (step, total)
        # How many replays a diagnosis takes isn't known before it ends.
        doing = _replay(row) if row.get("phase") == "diagnosing" else f"{_numbers(row)}{self._time_left()}"
        self._write(f"{self._head(outcome)}: step {step}/{total}, {doing}")

    def trial_ended(self, outcome: TrialOutcome) -> None:
        """Write how it ended."""
        self._head(outcome)
        total = self._steps(outcome.point)
        self._done[outcome.trial_id] = (total, total)
        self._write(f"{self._head(outcome)}: {_ending(outcome)}{self._time_left()}")

    def _head(self, outcome: TrialOutcome) -> str:
        number = self._numbers.setdefault(outcome.trial_id, len(self._numbers) + 1)
        return f"trial {number}/{self._total_trials} {self._name(outcome.point)}"

    def _time_left(self) -> str:
        """An estimate from the share of all steps that is done; a trial that ended early counts as whole."""
        whole = sum(done / total for done, total in self._done.values())
        if whole >= self._total_trials or whole <= 0:
            return ""
        elapsed = time.monotonic() - self._started
        return f"; about {duration(elapsed * (self._total_trials - whole) / whole)} left"


def duration(seconds: float) -> str:
    """`40 s`, `3 min`, `2.5 h`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _numbers(row: Mapping[str, Any]) -> str:
    evaluated = f"val top-1 {100 * row['val_top1']:.1f} %, " if row.get("val_top1") else ""
    return f"loss {row.get('loss', float('nan')):.3f}, {evaluated}{row.get('images_per_s', 0.0):.0f} images/s"


def _replay(row: Mapping[str, Any]) -> str:
    replay = f", replay: {row['replay']}" if row.get("replay") else ""
    return f"diagnosing: {row.get('symptom')}{replay}"


def _ending(outcome: TrialOutcome) -> str:
    row = outcome.row
    if outcome.status == "failed":
        return f"failed: {outcome.error}"
    if outcome.status == "stopped":
        diagnosis = row.get("diagnosis") or {}
        cause = f"cause: {diagnosis['cause']}" if diagnosis else "no diagnosis"
        return f"stopped at step {row.get('step')}, symptom: {row.get('symptom')}, {cause}"
    return f"{outcome.status} at step {row.get('step', 0)}, best val top-1 {100 * row.get('best_val_top1', 0.0):.1f} %"
