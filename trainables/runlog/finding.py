"""What a log says of one run: symptoms, candidate causes, a verdict, and what it can't tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from trainables.config import DetectorConfig
from trainables.runlog.candidates import Candidate, best_first, verdict_of
from trainables.runlog.chance import chance_of
from trainables.runlog.event import Event
from trainables.runlog.rate_causes import RULES, SUDDEN, stalled_rate, unsteady
from trainables.runlog.runs import RunLog
from trainables.runlog.scene import Scene
from trainables.runlog.state_causes import OTHER_RULES, SUDDEN_RULES, recurring
from trainables.runlog.symptoms import symptoms_of
from trainables.runlog.trajectory import Trajectory, trajectories

USEFUL = ("learning_rate", "grad_norm", "update_ratio", "val_loss", "val_accuracy")
"""Quantities whose absence is worth a word."""


@dataclass(frozen=True)
class Finding:
    """One run's timeline and what it speaks for."""

    run: str
    symptoms: tuple[Event, ...]
    causes: tuple[Candidate, ...]
    """Best first."""
    verdict: str
    """A cause, or `unexplained`."""
    notes: tuple[str, ...]
    """What was assumed, and what the log lacks."""
    parts: tuple[Trajectory, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, all numbers finite."""
        return {
            "run": self.run,
            "symptoms": [
                {
                    "kind": event.kind,
                    "step": event.step,
                    "end_step": event.end_step,
                    "severity": round(event.severity, 2),
                    "detail": event.detail,
                }
                for event in self.symptoms
            ],
            "causes": [candidate.to_dict() for candidate in self.causes],
            "verdict": self.verdict,
            "notes": list(self.notes),
        }


def diagnose_log(log: RunLog, num_classes: int | None = None) -> Finding:
    """Find the symptoms of a run and what the log has to say about each; nothing is replayed."""
    parts = trajectories(log)
    events: list[Event] = []
    by_event: list[list[Candidate]] = []
    notes = list(log.notes)
    for part in parts:
        chance = chance_of(part, num_classes)
        if chance.note not in notes:
            notes.append(chance.note)
        # Infinities and absurd numbers are what a log of a broken run holds.
        with np.errstate(invalid="ignore", over="ignore"):
            found = symptoms_of(part, chance.num_classes, DetectorConfig())
            by_event += [_candidates(Scene(part, seen, chance.num_classes)) for seen in found]
        events += [seen.event for seen in found]
        # What recurs is judged over all events, so it weighs as much as the first of them.
        by_event[:1] = [[*by_event[0], *recurring(found)]] if by_event else []
    if len(parts) > 1:
        starts = ", ".join(f"steps {part.steps[0]} to {part.steps[-1]}" for part in parts)
        notes.append(f"the run was begun anew: {starts}")
    missing = [name for name in USEFUL if name not in log.points]
    if missing:
        notes.append(f"not in the log: {', '.join(missing)}")
    causes = best_first(by_event)
    return Finding(log.name, tuple(events), tuple(causes), verdict_of(causes), tuple(notes), tuple(parts))


def _candidates(scene: Scene) -> list[Candidate]:
    sudden = (*RULES, *SUDDEN_RULES) if scene.kind in SUDDEN else ()
    rules = (*sudden, *OTHER_RULES, stalled_rate, unsteady)
    return [candidate for rule in rules for candidate in rule(scene)]
