"""The symptoms of a stretch of a log: the detector's, and those that only a whole log shows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from trainables.baseline import NON_FINITE_SCORE
from trainables.config import DetectorConfig
from trainables.runlog.attempts import Floats
from trainables.runlog.eval_gap import LEARNED, eval_gap
from trainables.runlog.event import Event
from trainables.runlog.trajectory import Trajectory
from trainables.timeline import events_of

STALL_STEPS = 200
STALL_POINTS = 16
STALL_EPOCHS = 5
"""Least number of steps and of points at chance that are a stall, and of epochs in a log of epochs."""
AT_CHANCE = 0.02
"""Share of chance below it that counts as no progress."""
TRANSIENT_SCORE = 50.0
"""Excess, in noise units, of a single point that is no mere noisy batch: quiet runs of `../data/curves` reach 33."""
NEARBY = 20
"""Points on each side of a single one that it is measured against."""


@dataclass(frozen=True)
class Seen:
    """A symptom where it stands in its trajectory; `event` has the log's own steps."""

    event: Event
    place: int
    """Position of its first point."""
    end: int
    """Position of its last point."""


def symptoms_of(part: Trajectory, num_classes: int | None, config: DetectorConfig) -> list[Seen]:
    """Symptoms in the order of their first points."""
    found = [
        _seen(part, event.kind, event.step, event.end_step, event.severity, event.detail)
        for event in events_of(part.signals(), config, num_classes)
    ]
    kinds = {seen.event.kind for seen in found}
    chance = math.log(num_classes) if num_classes else 0.0
    more = [] if "stall" in kinds else [_stall(part, chance)]
    more += [] if "eval_gap" in kinds else _gaps(part, num_classes)
    more += _transients(part, found, chance, config)
    return sorted([*found, *(seen for seen in more if seen)], key=lambda seen: seen.place)


def _seen(part: Trajectory, kind: str, place: int, end: int, severity: float, detail: str) -> Seen:
    """From positions to the log's steps."""
    event = Event(kind, int(part.steps[place]), int(part.steps[end]), min(NON_FINITE_SCORE, severity), detail)
    return Seen(event, place, end)


def _stall(part: Trajectory, chance: float) -> Seen | None:
    """The loss never left chance."""
    n, span = len(part.loss), int(part.steps[-1] - part.steps[0])
    window, least = (STALL_EPOCHS, STALL_EPOCHS - 1) if part.in_epochs else (STALL_POINTS, STALL_STEPS)
    if not chance or n < window or span < least or not np.isfinite(part.loss).all() or _warms_up(part):
        return None
    lowest = min(float(np.median(part.loss[start : start + window])) for start in range(0, n - window + 1, window // 2))
    last = float(np.median(part.loss[-window:]))
    if lowest < (1 - AT_CHANCE) * chance or last > 1.5 * chance:
        return None
    noise = max(float(np.std(part.loss)), AT_CHANCE * chance)
    unit = "epochs" if part.in_epochs else "steps"
    detail = f"loss {last:.3g} after {span} {unit}, {lowest:.3g} at best, where guessing gives {chance:.3g}"
    return _seen(part, "stall", 0, n - 1, (1 - LEARNED) * chance / noise, detail)


def _warms_up(part: Trajectory) -> bool:
    """Whether the rate still rises at the end of the log."""
    rates = part.get("learning_rate")
    return rates is not None and bool(rates[-1] > 1.5 * rates[len(rates) // 2])


def _gaps(part: Trajectory, num_classes: int | None) -> list[Seen]:
    event = eval_gap(part, num_classes)
    return [Seen(event, part.position(event.step), part.position(event.end_step))] if event else []


def _transients(part: Trajectory, found: list[Seen], chance: float, config: DetectorConfig) -> list[Seen]:
    """Single points far above both sides: healed before any rule may call them an event."""
    found_at = {place for seen in found for place in range(seen.place - 2, seen.end + 3)}
    loss: Floats = np.where(np.isfinite(part.loss), part.loss, np.nan)
    rises = np.concatenate([[False], np.diff(loss) > 0])
    places = []
    for place in np.flatnonzero(rises).tolist():
        if place < config.min_history or place >= len(loss) - 2 or place in found_at:
            continue
        if loss[place] > 1.25 * loss[place - 1] + 0.25 and loss[place] > loss[place + 1]:
            places.append(place)
    seen = []
    for place in places:
        sides = np.concatenate([loss[max(0, place - NEARBY) : place], loss[place + 2 : place + 2 + NEARBY]])
        sides = sides[np.isfinite(sides)]
        level = float(np.median(sides))
        noise = max(1.4826 * float(np.median(np.abs(sides - level))), 0.02 * (chance or abs(level)), 1e-12)
        score = (float(loss[place]) - level) / noise
        if score >= TRANSIENT_SCORE:
            detail = f"loss {loss[place]:.3g} for one point against {level:.3g} around it, {score:.1f} times the noise"
            seen.append(_seen(part, "transient", place, place, score, detail))
    return seen
