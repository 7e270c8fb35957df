"""A gap is measured in shares of the skill that is expected, and never below its own noise."""

from __future__ import annotations

import math

import pytest

from trainables.baseline import NON_FINITE_SCORE
from trainables.diagnosis.evaluation_severity import GapSeverity, Score

SEVERITY = GapSeverity(10)
GOOD = Score(0.91, 0.3, 10_000)


@pytest.mark.parametrize(("lost", "severity"), [(0.0, 0.0), (0.125, 3.0), (0.25, 6.0), (1.0, 24.0)])
def test_a_quarter_of_the_skill_is_present_and_an_eighth_absent(lost: float, severity: float) -> None:
    """At the default thresholds of 6 and 3."""
    score = Score(0.1 + 0.81 * (1.0 - lost), 1.0, 10_000)
    assert SEVERITY(score, GOOD) == pytest.approx(severity)


def test_a_small_split_has_no_gap_by_chance() -> None:
    """Three of sixteen samples more that are wrong are less than two standard errors."""
    few, fewer = Score(14 / 16, 0.3, 16), Score(11 / 16, 0.9, 16)
    assert 0.0 < SEVERITY(fewer, few) < 2.0
    assert SEVERITY(Score(11 / 16, 0.9, 10_000), Score(14 / 16, 0.3, 10_000)) > 5.0


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_a_gap(loss: float) -> None:
    """Whatever the top-1 says."""
    assert SEVERITY(Score(0.91, loss, 100), GOOD) == NON_FINITE_SCORE
    assert not SEVERITY.has_learned(Score(0.91, loss, 100))


def test_better_than_expected_is_no_gap() -> None:
    """A score may pass the expected one."""
    assert SEVERITY(Score(1.0, 0.0, 10_000), GOOD) < 0.0


def test_skill_is_above_guessing() -> None:
    """0 at 1 / classes, 1 at 1; a model that guesses has learned nothing."""
    assert SEVERITY.skill(Score(0.1, 2.3, 100)) == pytest.approx(0.0)
    assert SEVERITY.skill(Score(1.0, 0.0, 100)) == pytest.approx(1.0)
    assert not SEVERITY.has_learned(Score(0.1, 2.3, 100))
    assert SEVERITY.has_learned(GOOD)
