"""Batches made ahead of the step that needs them, by threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Self, TypeVar

import torch

from trainables.data.loader_times import LoaderTimes

START_S = 60.0
"""Within which threads must have started."""
Item = TypeVar("Item")


class Prefetcher(Generic[Item]):
    """Random access to `fetch(step)` with the steps that follow already in the making.

    Changes nothing but speed as long as `fetch` is a pure function of the step. Threads start with the first `get`.

    Args:
        fetch: makes the item of a step; called from several threads at once.
        threads: threads that work ahead; 0 calls `fetch` in `get`.
        ahead: steps made ahead, which bounds the memory; None: threads + 1.
        stop_step: first step that is never asked for, so that none is made for nothing; None: endless.
        times: takes the seconds that go by; None: nobody asks.

    """

    def __init__(
        self,
        fetch: Callable[[int], Item],
        threads: int,
        *,
        ahead: int | None = None,
        stop_step: int | None = None,
        times: LoaderTimes | None = None,
    ) -> None:
        assert threads >= 0
        self._fetch = fetch
        self._threads = threads
        self._ahead = threads + 1 if ahead is None else ahead
        self._stop_step = stop_step
        self._times = times or LoaderTimes()
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._futures: dict[int, Future[Item]] = {}
        self._closed = False

    def get(self, step: int) -> Item:
        """Return the item of `step`, waiting for it where it isn't ready; raises what `fetch(step)` raised."""
        began = time.perf_counter()
        if self._threads == 0:
            item = self._make(step)
        else:
            with self._lock:
                assert not self._closed, "get() after close()"
                self._plan(step)
                future = self._futures.pop(step)
            item = future.result()
        self._times.waited += time.perf_counter() - began
        return item

    def drop(self) -> None:
        """Forget everything made ahead, as after a rollback or when what `fetch` makes has changed.

        Work in progress ends unseen in the background: no later `get` returns it.
        """
        with self._lock:
            self._forget(list(self._futures))

    def close(self) -> None:
        """Drop everything and end the threads; returns when the last one is gone. May be called twice."""
        with self._lock:
            self._closed = True
            self._forget(list(self._futures))
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make(self, step: int) -> Item:
        began = time.perf_counter()
        item = self._fetch(step)
        with self._lock:
            self._times.busy += time.perf_counter() - began
            self._times.fetched += 1
        return item

    def _plan(self, step: int) -> None:
        """Have `step` and the steps after it in the making, and nothing else."""
        if self._pool is None:
            self._pool = _open_pool(self._threads)
        end = step + 1 + self._ahead
        if self._stop_step is not None:
            end = max(step + 1, min(end, self._stop_step))
        self._forget([other for other in self._futures if not step <= other < end])
        for wanted in range(step, end):
            if wanted not in self._futures:
                self._futures[wanted] = self._pool.submit(self._make, wanted)

    def _forget(self, steps: list[int]) -> None:
        for step in steps:
            self._futures.pop(step).cancel()


def _open_pool(threads: int) -> ThreadPoolExecutor:
    """Threads that run torch's operators alone; elsewhere as many share in an operator as before.

    Else each would have helpers of its own, which gain nothing at the size of an image, but spin on the other cores
    between two operators: a loader thread on two cores took twice the CPU time.
    """
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="prefetch")
    started = threading.Barrier(threads + 1, timeout=START_S)
    for _ in range(threads):
        pool.submit(_run_alone, started)
    started.wait()
    # What a thread sets holds for itself, and for all threads that start later.
    torch.set_num_threads(before)
    return pool


def _run_alone(started: threading.Barrier) -> None:
    # Torch asks for the general number at a thread's first need of it, which would undo what was set before.
    torch.get_num_threads()
    torch.set_num_threads(1)
    started.wait()
