"""A symptom of a log, in the log's own steps."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Event:
    """One symptom: the detector's kinds, or transient (a single point far above both sides)."""

    kind: str
    step: int
    """Onset: its first step."""
    end_step: int
    """Its last step in the log."""
    severity: float
    """In units of the run's noise."""
    detail: str
