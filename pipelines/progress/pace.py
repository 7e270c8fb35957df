"""Durations as people write them, estimates of the time left, and a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Seconds, monotonic."""


def duration(seconds: float) -> str:
    """`40 s`, `3 min`, `2.5 h`."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Every:
    """Says yes at most once in `seconds`, for the first time when they are over."""

    def __init__(self, seconds: float, clock: Clock = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._began = self._last = clock()
        self.elapsed = 0.0
        """Seconds from the beginning to the last question."""

    def due(self) -> bool:
        """Whether it is time; the next time is counted from a yes."""
        now = self._clock()
        self.elapsed = now - self._began
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True


class TimeLeft:
    """Seconds until `total` is done, at the pace since the first amount was told: what came before took no time."""

    def __init__(self, total: float, clock: Clock = time.monotonic) -> None:
        self._total, self._clock = total, clock
        self._began: tuple[float, float] | None = None
        self._done = 0.0

    def tell(self, done: float) -> None:
        """Hear how much is done."""
        self._began = self._began or (self._clock(), done)
        self._done = done

    def seconds(self) -> float | None:
        """The estimate; None before there is a pace, and at the end."""
        if self._began is None or self._done >= self._total:
            return None
        since, before = self._began
        gained = self._done - before
        return (self._clock() - since) * (self._total - self._done) / gained if gained > 0 else None
