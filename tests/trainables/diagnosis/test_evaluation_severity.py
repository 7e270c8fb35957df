"""A gap is measured in shares of the skill that is expected, and never below its own noise."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from trainables.baseline import NON_FINITE_SCORE
from trainables.diagnosis.evaluation_severity import GapSeverity, Score

SEVERITY = GapSeverity(10)
GOOD = Score(0.91, 0.3, 10_000)


@pytest.mark.parametrize(("lost", "severity"), [(0.0, 0.0), (0.05, 3.0), (0.1, 6.0), (1.0, 60.0)])
def test_a_tenth_of_the_skill_is_present_and_a_twentieth_absent(lost: float, severity: float) -> None:
    """At the default thresholds of 6 and 3."""
    many = replace(GOOD, count=1_000_000)
    assert SEVERITY(replace(many, top1=0.1 + 0.81 * (1.0 - lost)), many) == pytest.approx(severity)


def test_of_a_large_gap_a_little_may_stay() -> None:
    """An eighth of it is absent, a quarter present; a small one is measured by the skill."""
    many = replace(GOOD, count=1_000_000)
    whole = SEVERITY.of_gap(replace(many, top1=0.1), many)
    severities = [whole(replace(many, top1=0.91 - 0.81 * lost), many) for lost in (0.125, 0.25, 1.0)]
    assert severities == pytest.approx([3.0, 6.0, 24.0])
    small = SEVERITY.of_gap(replace(many, top1=0.91 - 0.081), many)
    assert small(replace(many, top1=0.91 - 0.081), many) == pytest.approx(6.0)
    assert SEVERITY.of_gap(replace(GOOD, loss=math.nan), GOOD).gap == pytest.approx(SEVERITY.skill(GOOD))


def test_another_input_is_a_gap_however_little_it_costs() -> None:
    """By the largest change of a moment, if the input is what changed, and by that alone; else the skill counts."""
    seen = replace(GOOD, input_moments=(0.0, 0.1, 0.2, 1.0, 1.0, 1.0))
    swapped = replace(seen, input_moments=(0.2, 0.1, 0.0, 1.0, 1.0, 1.0))
    of_input = replace(SEVERITY, of_input=True)
    assert of_input(swapped, seen) == pytest.approx(20.0)
    assert of_input(seen, seen) == of_input(GOOD, swapped) == of_input(replace(seen, top1=0.3), seen) == 0.0
    assert of_input(replace(GOOD, top1=0.3), seen) > 6.0
    assert SEVERITY(swapped, seen) == 0.0


def test_a_small_split_has_no_gap_by_chance() -> None:
    """Three of sixteen samples more that are wrong are less than two standard errors."""
    few, fewer = Score(14 / 16, 0.3, 16), Score(11 / 16, 0.9, 16)
    assert 0.0 < SEVERITY(fewer, few) < 3.0
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
