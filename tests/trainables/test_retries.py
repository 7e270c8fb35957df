"""What is worth another try is tried again, for a bounded time; what is not is told at once."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable

import pytest

from trainables import retries
from trainables.retries import OPENING, PATIENCE_S, PAUSES_S, patiently

THROTTLED = OSError("AWS Error SLOW_DOWN during PutObject operation: Please reduce your request rate.")
SILENT = OSError("AWS Error NETWORK_CONNECTION during PutObject operation: curlCode: 28, Timeout was reached")


class Clock:
    """Time that passes only where someone waits."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    def monotonic(self) -> float:
        """The time in s."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Wait."""
        self.waits.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that `patiently` reads."""
    found = Clock()
    monkeypatch.setattr("trainables.retries.time.monotonic", found.monotonic)
    return found


def failing(error: BaseException, times: int, clock: Clock, takes_s: float = 0.0) -> Callable[[], int]:
    """Work that fails so often, each time after so long, and then returns how often it was called."""
    calls = 0

    def work() -> int:
        nonlocal calls
        calls += 1
        clock.now += takes_s
        if calls <= times:
            raise error
        return calls

    return work


def test_throttling_is_waited_out(clock: Clock) -> None:
    """Each wait is longer than half of its pause, and none longer than the pause."""
    assert patiently(failing(THROTTLED, 4, clock), sleep=clock.sleep) == 5
    assert all(pause / 2 <= wait <= pause for pause, wait in zip(PAUSES_S, clock.waits, strict=True))


@pytest.mark.parametrize(("error", "takes_s", "at_most_s"), [(THROTTLED, 1.5, 23), (SILENT, 10.0, PATIENCE_S + 10)])
def test_the_whole_is_bounded(clock: Clock, error: OSError, takes_s: float, at_most_s: float) -> None:
    """A store that throttles for good, and one that never answers, hold the caller for less than the stated time."""
    with pytest.raises(OSError, match="AWS Error"):
        patiently(failing(error, 99, clock, takes_s), sleep=clock.sleep)
    assert clock.now <= at_most_s
    assert len(clock.waits) >= 2


@pytest.mark.parametrize(
    ("error", "final"),
    [
        (OSError("AWS Error UNKNOWN (HTTP status 400): Unable to parse ExceptionName: ExpiredToken"), retries.FINAL),
        (OSError("AWS Error ACCESS_DENIED during HeadObject operation: No response body."), retries.FINAL),
        (OSError("AWS Error NO_SUCH_BUCKET during PutObject operation"), retries.FINAL),
        (OSError(errno.ENOSPC, "No space left on device"), retries.FINAL),
        (FileNotFoundError("s3://data/none"), retries.FINAL),
        (SILENT, OPENING),
    ],
)
def test_what_will_not_pass_is_told_at_once(clock: Clock, error: OSError, final: tuple[str, ...]) -> None:
    """Expired or wrong credentials, what is not there, a full disk; and a wrong address, where a place is opened."""
    with pytest.raises(OSError, match=re.escape(str(error))):
        patiently(failing(error, 99, clock), final=final, sleep=clock.sleep)
    assert clock.waits == []
