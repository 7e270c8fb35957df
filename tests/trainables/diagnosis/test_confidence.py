"""Confidence counts replays, what a reference's standing is worth, and how far the scores lie from the thresholds."""

from __future__ import annotations

import pytest

from trainables.diagnosis.confidence import LEAST_MARGIN, PIVOT, PRIOR_AGREEMENTS, calibrated, confidence_of, margin_of
from trainables.diagnosis.swap_table import Thresholds
from trainables.diagnosis_config import DiagnosisConfig

THRESHOLDS = Thresholds(present=6.0, absent=3.0)


@pytest.mark.parametrize(
    ("agreed", "of", "expected"),
    [(2, 2, 3 / 4), (4, 4, 5 / 6), (6, 6, 7 / 8), (3, 4, 4 / 6), (2, 6, 3 / 8), (0, 0, 0.5)],
)
def test_replays_alone_count_by_laplaces_rule(agreed: int, of: int, expected: float) -> None:
    """(agreed + 1) / (of + 2): few replays never make certainty."""
    assert confidence_of(agreed, of) == pytest.approx(calibrated(expected))


def test_a_value_that_is_proven_foreign_is_worth_replays() -> None:
    """As many as its standing says; one that contradicts weighs on it all the same."""
    prior = PRIOR_AGREEMENTS["declared"]
    assert confidence_of(4, 4, "declared") == pytest.approx(calibrated((5 + prior) / (6 + prior)))
    assert confidence_of(4, 4, "drawn") < confidence_of(4, 4, "usual") < confidence_of(4, 4, "declared") < 1.0
    assert confidence_of(3, 4, "declared") < confidence_of(4, 4, "declared")


@pytest.mark.parametrize(
    ("without", "alone", "expected"), [(0.0, 9.0, 1.0), (-5.0, 900.0, 1.0), (3.0, 9.0, 0.0), (0.0, 7.5, 0.5)]
)
def test_the_margin_is_that_of_the_worst_side(without: float, alone: float, expected: float) -> None:
    """0 on a threshold, 1 a gap of the thresholds away from it."""
    assert margin_of(THRESHOLDS, [without], [alone]) == pytest.approx(expected)


def test_scores_on_the_threshold_lower_the_confidence() -> None:
    """The share by the same factor whatever the replays say."""
    assert confidence_of(4, 4, "usual", 0.0) == pytest.approx(calibrated(LEAST_MARGIN * 6 / 7))


def test_calibration_keeps_the_order_and_the_least_confidence_of_a_verdict() -> None:
    """The usual threshold splits verdicts as before; above it confidence grows, below it shrinks, within 0 and 1."""
    assert calibrated(PIVOT) == pytest.approx(PIVOT) == pytest.approx(DiagnosisConfig().min_confidence)
    shares = [0.01, 0.3, 0.5, 0.59, 0.61, 0.75, 0.9, 0.99]
    found = [calibrated(share) for share in shares]
    assert found == sorted(found)
    assert found[0] > 0.0
    assert found[-1] < 1.0
    assert all((after > before) == (before > PIVOT) for before, after in zip(shares, found, strict=True))
