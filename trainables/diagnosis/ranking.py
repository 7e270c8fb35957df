"""The suspects of a diagnosis, best first, each with the numbers of its tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainables.diagnosis.causes import GROUP_OF_INGREDIENT, UNEXPLAINED
from trainables.diagnosis.swap_table import Answer, SwapResult, leading_cause

PLAUSIBLE: Mapping[tuple[Answer, Answer], float] = {
    ("yes", "yes"): 1.0,
    ("yes", "inconclusive"): 0.5,
    ("inconclusive", "yes"): 0.5,
    ("yes", "not tested"): 0.25,
    ("inconclusive", "inconclusive"): 0.25,
}
"""Weight of a row by (necessary, sufficient); of all others 0: one test has cleared the ingredient."""
SOMETHING_ELSE = 1.0
"""Weight of what is not in the table."""
OPEN = 0.5
"""Confidence that the suspects of an unexplained event share with `SOMETHING_ELSE`."""


@dataclass(frozen=True)
class RankedCause:
    """One suspect."""

    cause: str
    """As in the catalogue; the ingredient where no cause behind it was named."""
    group: str
    confidence: float
    evidence: str


def ranked_causes(cause: str, group: str, confidence: float, table: Sequence[SwapResult]) -> list[RankedCause]:
    """The verdict with its confidence, then what its tests have not cleared, which shares what the verdict leaves open.

    An ingredient that one test has cleared is in the table only.
    """
    leader = leading_cause(table) if cause != UNEXPLAINED else None
    verdict = [] if cause == UNEXPLAINED else [RankedCause(cause, group, confidence, evidence_of(leader))]
    others = [(weight, row) for row in table if row is not leader and (weight := plausible(row))]
    total = SOMETHING_ELSE + sum(weight for weight, _ in others)
    left = OPEN if cause == UNEXPLAINED else 1.0 - confidence
    others.sort(key=lambda pair: (-pair[0], pair[1].severity_without))
    return verdict + [
        RankedCause(
            row.ingredient, GROUP_OF_INGREDIENT[row.ingredient], round(left * weight / total, 3), evidence_of(row)
        )
        for weight, row in others
    ]


def plausible(row: SwapResult) -> float:
    """How much the tests leave of an ingredient's guilt, 0 to 1."""
    return PLAUSIBLE.get((row.necessary, row.sufficient), 0.0)


def evidence_of(row: SwapResult | None) -> str:
    """The numbers of both tests, and what the ingredient was found to be."""
    if row is None:
        return ""
    alone = "not tested" if row.severity_alone is None else f"{row.severity_alone:.4g}"
    tests = f"severity {row.severity_without:.4g} without it, {alone} of it alone"
    return f"{tests}; {row.evidence}" if row.evidence else tests
