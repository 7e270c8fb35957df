"""Durations, estimates, and a line now and then."""

from __future__ import annotations

import pytest

from pipelines.progress.pace import Every, TimeLeft, duration


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.2, "1 s"), (59, "59 s"), (119, "2 min"), (3600, "60 min"), (9000, "2.5 h")]
)
def test_duration(seconds: float, shown: str) -> None:
    """A duration has the unit that fits."""
    assert duration(seconds) == shown


def test_every() -> None:
    """The first time comes when the seconds are over, the next ones are counted from the last."""
    times = iter([0.0, 1.0, 5.0, 6.0, 11.0])
    every = Every(5, lambda: next(times))
    assert [every.due() for _ in range(4)] == [False, True, False, True]
    assert every.elapsed == 11


def test_time_left_knows_nothing_of_the_start() -> None:
    """What was done before the first word, as by a sweep that is resumed, makes no pace; at the end nothing is left."""
    now = 100.0
    left = TimeLeft(10, lambda: now)
    assert left.seconds() is None
    left.tell(6)
    assert left.seconds() is None
    now = 120.0
    left.tell(8)
    assert left.seconds() == 20
    left.tell(10)
    assert left.seconds() is None
