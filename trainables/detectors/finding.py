"""What one rule says."""

from __future__ import annotations

from dataclasses import dataclass

from trainables.baseline import Baseline
from trainables.detectors.symptom import SymptomKind


@dataclass(frozen=True)
class Finding:
    """A symptom before it is dated."""

    kind: SymptomKind
    onset: int
    severity: float
    detail: str
    baseline: Baseline | None = None
    """What the rule measured against; None: the accepted steps before the onset."""
    of_input: bool = False
    """As of a symptom."""
