"""A stall shows where it is: in the data, in the step, or nowhere."""

from __future__ import annotations

import time

import pytest

from trainables import speed
from trainables.data.loader_times import LoaderTimes
from trainables.data.prefetch import Prefetcher
from trainables.speed import Speedometer

BATCH = 8


class Clock:
    """A clock that goes when it is told to."""

    now = 0.0

    def perf_counter(self) -> float:
        """Seconds."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The speedometer's."""
    found = Clock()
    monkeypatch.setattr(speed, "time", found)
    return found


def run(clock: Clock, meter: Speedometer, *, fetch_s: float, step_s: float, steps: int = 10) -> None:
    """Steps that wait for a batch as long as the loader's threads make it wait."""
    for _ in range(steps):
        wait = max(0.0, fetch_s / meter.loader_threads - step_s)
        meter.loader.busy += fetch_s
        meter.loader.waited += wait
        meter.loader.fetched += 1
        clock.now += wait + step_s


@pytest.mark.parametrize("threads", [1, 2])
def test_a_slow_loader_shows(clock: Clock, threads: int) -> None:
    """The run is as fast as all threads of its loader, and its steps would be faster."""
    meter = Speedometer(BATCH, threads)
    run(clock, meter, fetch_s=0.4, step_s=0.1)
    found = meter.read(10)
    assert found["loader_images_per_s"] == pytest.approx(threads * BATCH / 0.4)
    assert found["images_per_s"] == pytest.approx(found["loader_images_per_s"])
    assert found["step_images_per_s"] == pytest.approx(BATCH / 0.1)


def test_a_slow_step_shows(clock: Clock) -> None:
    """The run is as fast as its steps, and its loader would be faster."""
    meter = Speedometer(BATCH, 1)
    run(clock, meter, fetch_s=0.1, step_s=0.4)
    found = meter.read(10)
    assert found["images_per_s"] == found["step_images_per_s"] == pytest.approx(BATCH / 0.4)
    assert found["loader_images_per_s"] == pytest.approx(BATCH / 0.1)


def test_an_evaluation_is_no_training(clock: Clock) -> None:
    """A pause changes no speed."""
    meter = Speedometer(BATCH, 1)
    run(clock, meter, fetch_s=0.1, step_s=0.4)
    with meter.paused():
        clock.now += 100.0
    assert meter.read(10)["images_per_s"] == pytest.approx(BATCH / 0.4)


def test_a_reading_starts_the_next(clock: Clock) -> None:
    """Nothing is counted twice, and nothing done is 0."""
    meter = Speedometer(BATCH, 1)
    run(clock, meter, fetch_s=0.4, step_s=0.1)
    meter.read(10)
    run(clock, meter, fetch_s=0.1, step_s=0.2)
    assert meter.read(10)["loader_images_per_s"] == pytest.approx(BATCH / 0.1)
    assert set(meter.read(0).values()) == {0.0}


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_the_loader_tells_its_times(threads: int) -> None:
    """Each batch that was made is counted, with at least the time that it took; one that is waited for, too."""
    times = LoaderTimes()
    with Prefetcher(lambda _: time.sleep(0.02), threads, stop_step=6, times=times) as prefetcher:
        for step in range(6):
            prefetcher.get(step)
    assert times.fetched == 6
    assert times.busy >= 6 * 0.02
    assert times.waited >= 6 * 0.02 / max(threads, 1)
