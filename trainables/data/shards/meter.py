"""Work in several threads: counted, and stopped by the first failure or Ctrl-C."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TypeVar

Result = TypeVar("Result")


@dataclass(frozen=True)
class Progress:
    """Where a stage is."""

    stage: str
    """What is being done, such as `writing`."""
    images: int
    """Done so far in this run."""
    bytes: int
    """Done so far in this run."""
    total_bytes: int
    """Of this run."""
    seconds: float
    """Since the stage began."""


class Meter:
    """Counts the work of a stage, which any number of threads do.

    Args:
        listener: called after each piece of work, by one thread at a time.

    """

    def __init__(self, listener: Callable[[Progress], None]) -> None:
        self._listener = listener
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self.begin("", 0)

    def begin(self, stage: str, total_bytes: int) -> None:
        """Start to count anew."""
        self._stage, self._total, self._images, self._bytes = stage, total_bytes, 0, 0
        self._started = time.monotonic()

    def add(self, images: int, size: int) -> None:
        """Count a piece of work of `size` bytes. Raises StoppedError where the work is to end."""
        if self._stopped.is_set():
            raise StoppedError
        with self._lock:
            self._images += images
            self._bytes += size
            seconds = time.monotonic() - self._started
            self._listener(Progress(self._stage, self._images, self._bytes, self._total, seconds))

    def wait(self, seconds: float) -> None:
        """Sleep. Raises StoppedError as soon as the work is to end."""
        if self._stopped.wait(seconds):
            raise StoppedError

    def stop(self) -> None:
        """Let every thread end at its next piece of work."""
        self._stopped.set()


class StoppedError(Exception):
    """Another thread failed, or the user wants no more; seen by nobody but the pool."""


def run_jobs(jobs: Sequence[Callable[[], Result]], threads: int, meter: Meter) -> list[Result]:
    """Run the jobs in threads; returns their results in order, or raises the first failure when all threads are gone.

    Each job calls `meter.add` often, and ends by the StoppedError that it raises after a failure or a Ctrl-C.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="shard") as pool:
        futures = [pool.submit(_stopping, job, meter) for job in jobs]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        except BaseException:
            meter.stop()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    errors = [error for future in futures if not future.cancelled() and (error := future.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, StoppedError)):
        raise error
    return [future.result() for future in futures]


def _stopping(job: Callable[[], Result], meter: Meter) -> Result:
    try:
        return job()
    except BaseException:
        # Here, as this thread may begin its next job before another one hears of the failure.
        meter.stop()
        raise
