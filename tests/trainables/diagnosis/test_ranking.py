"""The suspects of a diagnosis: the verdict first, then what no test has cleared, and never more than is left open."""

from __future__ import annotations

import pytest

from trainables.diagnosis.causes import UNEXPLAINED, Ingredient
from trainables.diagnosis.ranking import ranked_causes
from trainables.diagnosis.swap_table import SwapResult, Thresholds

THRESHOLDS = Thresholds(present=6.0, absent=3.0)


def row(ingredient: Ingredient, without: float, alone: float | None = None, standing: str = "usual") -> SwapResult:
    """A row as the screening makes it."""
    sufficient = "not tested" if alone is None else THRESHOLDS.sufficient(alone)
    return SwapResult(
        ingredient, "its reference", without, THRESHOLDS.necessary(without), alone, sufficient, standing=standing
    )


TABLE = [
    row("learning_rate", 0.5, 40.0),
    row("samples", 2.0, 4.0),
    row("normalization", 4.0, 4.5),
    row("labels", 39.0),
    row("pixels", 4.0, 1.0),
]


def test_the_verdict_comes_first_and_cleared_ingredients_not_at_all() -> None:
    """Labels keep the event when they are swapped out, pixels do not bring it alone: both are cleared."""
    causes = ranked_causes("lr_jump", "learning_rate", 0.9, TABLE)
    assert [(c.cause, c.group) for c in causes] == [
        ("lr_jump", "learning_rate"),
        ("samples", "data"),
        ("normalization", "normalization"),
    ]
    assert causes[0].confidence == 0.9
    assert causes[0].evidence == "severity 0.5 without it, 40 of it alone"


@pytest.mark.parametrize(("cause", "confidence"), [("lr_jump", 0.9), (UNEXPLAINED, 0.3)])
def test_all_confidences_together_are_at_most_one(cause: str, confidence: float) -> None:
    """Something that is not in the table keeps a share."""
    causes = ranked_causes(cause, "learning_rate", confidence, TABLE)
    told = [c.confidence for c in causes]
    assert told == sorted(told, reverse=True)
    assert sum(told) < 1.0


def test_of_an_unexplained_event_the_likeliest_ingredient_comes_first() -> None:
    """None of the suspects is called a cause."""
    causes = ranked_causes(UNEXPLAINED, UNEXPLAINED, 0.0, TABLE[1:])
    assert [c.cause for c in causes] == ["samples", "normalization"]
    assert max(c.confidence for c in causes) < 0.5


def test_a_verdict_without_a_table_stands_alone() -> None:
    """As of a flipped bit, which no replay brings back."""
    assert [c.cause for c in ranked_causes("silent_corruption", "numerics", 0.7, [])] == ["silent_corruption"]
