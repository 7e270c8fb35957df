"""A curve in one line."""

from __future__ import annotations

import math

import pytest

from pipelines.sparkline import BARS, sparkline


def test_each_stretch_shows_its_largest_value_and_marks_stand_below() -> None:
    """A spike of one point in 10,000 is still there, with its mark below it."""
    values = [1.0] * 10_000
    values[5000] = 9.0
    line, marks = sparkline(values, [5000])
    assert len(line) == 72
    assert line.index(BARS[-1]) == marks.index("▲") == 36
    assert line.count(BARS[0]) == 71


@pytest.mark.parametrize("values", [[1.0], [math.nan] * 5, [2.0] * 300, [0.0, math.inf]])
def test_odd_curves_have_a_line(values: list[float]) -> None:
    """One point, nothing finite, a constant, an infinity."""
    line, marks = sparkline(values, [])
    assert len(line) == min(72, len(values))
    assert marks == ""
