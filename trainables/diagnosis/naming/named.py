"""A cause by its name."""

from __future__ import annotations

from dataclasses import dataclass

from trainables.diagnosis.culprits import NOBODY, Culprits


@dataclass(frozen=True)
class NamedCause:
    """A cause of CAUSES.md and the numbers that it was named by."""

    name: str
    evidence: str
    culprits: Culprits = NOBODY
