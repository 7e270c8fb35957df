"""What a detector says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainables.baseline import Baseline

SymptomKind = Literal[
    "non_finite",
    "spike",
    "divergence",
    "collapse",
    "stall",
    "instability",
    "input_shift",
    "wrong_update",
    "ranks_apart",
    "eval_gap",
]


@dataclass(frozen=True)
class Symptom:
    """What the detector saw."""

    kind: SymptomKind
    step: int
    """Step at which it was confirmed."""
    onset: int
    """First step of the event."""
    severity: float
    """In units of the run's noise."""
    detail: str
    """One sentence with the numbers."""
    baseline: Baseline
    """The healthy stretch before it, frozen: replays are scored against it."""
    of_input: bool = False
    """Of an eval gap: it is the input of the evaluation that changed, however much of its skill that costs."""
