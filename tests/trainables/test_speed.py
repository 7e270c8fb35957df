"""A stall shows where it is: in the data, in the step, or nowhere. Only ratios of times are compared."""

from __future__ import annotations

import time

import pytest

from trainables.data.prefetch import Prefetcher
from trainables.speed import Speedometer

BATCH = 8


def measure(fetch_s: float, step_s: float, threads: int, pause_s: float = 0.0) -> dict[str, float]:
    """Speeds of ten steps whose batch and whose own work take so many seconds."""
    speed = Speedometer(BATCH, threads)
    with Prefetcher(lambda step: time.sleep(fetch_s), threads, stop_step=10, times=speed.loader) as prefetcher:
        for step in range(10):
            prefetcher.get(step)
            time.sleep(step_s)
        with speed.paused():
            time.sleep(pause_s)
    return speed.read(10)


@pytest.mark.parametrize("threads", [0, 1, 2])
def test_a_slow_loader_shows(threads: int) -> None:
    """The run is as fast as its loader, and its steps would be much faster."""
    speeds = measure(0.03, 0.001, threads)
    assert speeds["images_per_s"] == pytest.approx(speeds["loader_images_per_s"], rel=0.3)
    assert speeds["step_images_per_s"] > 3 * speeds["images_per_s"]


def test_a_slow_step_shows() -> None:
    """The run is as fast as its steps, and its loader would be much faster."""
    speeds = measure(0.001, 0.03, 1)
    assert speeds["images_per_s"] == pytest.approx(speeds["step_images_per_s"], rel=0.3)
    assert speeds["loader_images_per_s"] > 3 * speeds["images_per_s"]


def test_two_threads_make_twice_as_much() -> None:
    """The loader's speed is that of all its threads."""
    one, two = measure(0.03, 0.001, 1), measure(0.03, 0.001, 2)
    assert two["loader_images_per_s"] == pytest.approx(2 * one["loader_images_per_s"], rel=0.3)


def test_an_evaluation_is_no_training() -> None:
    """A pause much longer than the steps changes no speed."""
    without, beside = measure(0.001, 0.01, 1), measure(0.001, 0.01, 1, pause_s=1.0)
    assert beside["images_per_s"] == pytest.approx(without["images_per_s"], rel=0.4)


def test_a_reading_starts_the_next() -> None:
    """Nothing is counted twice, and nothing done is 0."""
    speed = Speedometer(BATCH, 1)
    speed.loader.fetched, speed.loader.busy = 4, 2.0
    assert speed.read(4)["loader_images_per_s"] == 4 * BATCH / 2.0
    assert set(speed.read(0).values()) == {0.0}
