"""Every symptom of a finished log: the detector, started anew after each event that has healed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from trainables.config import DetectorConfig
from trainables.detectors import Detector, Symptom
from trainables.signals import StepSignals

DEFAULTS = DetectorConfig()
"""The thresholds that trainings have."""


@dataclass(frozen=True)
class Event:
    """A symptom with its beginning and its end."""

    kind: str
    step: int
    """First step of the event."""
    end_step: int
    """Last step of it; that of the log where it did not heal."""
    severity: float
    """In units of the run's noise."""
    detail: str
    """One sentence with the numbers."""


def find_symptoms(
    rows: Sequence[StepSignals], config: DetectorConfig = DEFAULTS, num_classes: int | None = None
) -> list[Event]:
    """The events of a log whose rows stand in the order in which they were taken.

    An event has healed once `confirm` rows in a row are back within half the score that makes one suspicious.

    >>> rows = [StepSignals(step, math.nan if step == 30 else 1.0) for step in range(60)]
    >>> [(event.kind, event.step, event.end_step) for event in find_symptoms(rows)]
    [('non_finite', 30, 30)]
    """
    events = []
    detector = Detector(config, num_classes)
    place = 0
    while place < len(rows):
        symptom = detector.update(rows[place])
        if symptom is None:
            place += 1
            continue
        end = _end(rows, place, symptom, config)
        events.append(Event(symptom.kind, symptom.onset, rows[end].step, symptom.severity, symptom.detail))
        place = end + 1
        # What isn't finite enters nothing, so its baseline is as good as before.
        if symptom.kind != "non_finite":
            detector = Detector(config, num_classes)
    return events


def _end(rows: Sequence[StepSignals], place: int, symptom: Symptom, config: DetectorConfig) -> int:
    """Position of the last ill row."""
    well = 0
    for index in range(place + 1, len(rows)):
        well = well + 1 if _is_well(rows[max(place, index - config.confirm) : index + 1], symptom, config) else 0
        if well == config.confirm:
            return index - well
    return len(rows) - 1


def _is_well(rows: Sequence[StepSignals], symptom: Symptom, config: DetectorConfig) -> bool:
    now, baseline = rows[-1], symptom.baseline
    if not now.finite:
        return False
    if symptom.kind == "non_finite":
        return True
    if symptom.kind == "input_shift":
        return median(baseline.input_score(row) for row in rows) < config.spike_score / 2
    return math.isfinite(now.loss) and baseline.loss_score(now.loss) < config.spike_score / 2
