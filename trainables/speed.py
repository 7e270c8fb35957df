"""Images a second: of the run, of its loader alone, and of its steps alone, so that a stall shows where it is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from trainables.data.loader_times import LoaderTimes

SPEEDS = ("images_per_s", "loader_images_per_s", "step_images_per_s")
"""The run's; what its loader makes; what its steps take where no batch is waited for."""


class Speedometer:
    """Measures a run from one reading to the next; evaluations don't count.

    The run waits for data where `images_per_s` is near `loader_images_per_s` and below `step_images_per_s`, and for the
    step where it is the other way round. All are those of this process, scaled to all ranks. On a CPU loader and step
    share the cores: each is then measured as slow as the other makes it.

    Args:
        global_batch_size: images of a step.
        loader_threads: threads that make batches; 0: the step's own.

    """

    def __init__(self, global_batch_size: int, loader_threads: int) -> None:
        self.global_batch_size = global_batch_size
        self.loader_threads = max(loader_threads, 1)
        self.loader = LoaderTimes()
        self.read_before = LoaderTimes()
        self.began = time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What happens meanwhile is no part of training."""
        began = time.perf_counter()
        yield
        self.began += time.perf_counter() - began

    def read(self, steps: int) -> dict[str, float]:
        """SPEEDS over the `steps` since the last reading, in images a second; 0 where there is nothing to tell."""
        now, loader, before = time.perf_counter(), replace(self.loader), self.read_before
        elapsed, waited = now - self.began, loader.waited - before.waited
        images = steps * self.global_batch_size
        made = (loader.fetched - before.fetched) * self.global_batch_size * self.loader_threads
        values = (_rate(images, elapsed), _rate(made, loader.busy - before.busy), _rate(images, elapsed - waited))
        self.began, self.read_before = now, loader
        return dict(zip(SPEEDS, values, strict=True))


def _rate(images: int, seconds: float) -> float:
    return images / seconds if images and seconds > 0 else 0.0
