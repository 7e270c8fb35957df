"""Batches made ahead change nothing but speed."""

from __future__ import annotations

import threading
from concurrent.futures import wait

import pytest
import torch

from trainables.data.prefetch import Prefetcher

PATIENCE_S = 30.0


class Kitchen:
    """A fetch that notes what it was asked for, and can be held up."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.offset = 0
        self.open = threading.Event()
        self.open.set()
        self.started = threading.Semaphore(0)

    def hold_up(self) -> None:
        """Keep every fetch that begins from now on waiting until `open` is set."""
        self.open.clear()
        self.started = threading.Semaphore(0)

    def fetch(self, step: int) -> int:
        """The square of the step, plus the offset that held when the work began."""
        offset = self.offset
        self.asked.append(step)
        self.started.release()
        assert self.open.wait(PATIENCE_S)
        if step == 13:
            raise RuntimeError("step 13 is cursed")
        return step * step + offset


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_the_items_do_not_depend_on_threads(threads: int) -> None:
    """Any number of threads gives the items of a plain loop."""
    with Prefetcher(Kitchen().fetch, threads) as prefetcher:
        assert [prefetcher.get(step) for step in range(12)] == [step * step for step in range(12)]


@pytest.mark.parametrize("threads", [0, 2])
def test_the_order_of_steps_is_free(threads: int) -> None:
    """Backwards, repeated and far jumps give the items asked for."""
    steps = [5, 4, 5, 5, 1000, 0, 1, 2, 1, 999]
    with Prefetcher(Kitchen().fetch, threads) as prefetcher:
        assert [prefetcher.get(step) for step in steps] == [step * step for step in steps]


def test_work_runs_ahead_and_is_bounded() -> None:
    """After one get, the next `ahead` steps are made without being asked for, and no more."""
    kitchen = Kitchen()
    with Prefetcher(kitchen.fetch, 2, ahead=3) as prefetcher:
        prefetcher.get(0)
        for _ in range(4):
            assert kitchen.started.acquire(timeout=PATIENCE_S)
    assert sorted(kitchen.asked) == [0, 1, 2, 3]


def test_each_step_of_a_plain_run_is_made_once() -> None:
    """Nothing is made twice, nothing at or past stop_step."""
    kitchen = Kitchen()
    with Prefetcher(kitchen.fetch, 3, stop_step=10) as prefetcher:
        for step in range(10):
            prefetcher.get(step)
    assert sorted(kitchen.asked) == list(range(10))


@pytest.mark.parametrize("threads", [0, 2])
def test_an_error_surfaces_in_the_get_of_its_step(threads: int) -> None:
    """Steps before and after a failing one are unharmed, and asking again fails again."""
    with Prefetcher(Kitchen().fetch, threads, ahead=4) as prefetcher:
        assert prefetcher.get(12) == 144
        for _ in range(2):
            with pytest.raises(RuntimeError, match="step 13 is cursed"):
                prefetcher.get(13)
        assert prefetcher.get(14) == 196


def test_drop_forgets_what_was_made_ahead() -> None:
    """After a drop no item made before it comes back, not even one that was in the making."""
    kitchen = Kitchen()
    with Prefetcher(kitchen.fetch, 2, ahead=4) as prefetcher:
        prefetcher.get(0)
        assert not wait(prefetcher._futures.values(), PATIENCE_S).not_done
        kitchen.hold_up()
        prefetcher.get(1)
        assert kitchen.started.acquire(timeout=PATIENCE_S)
        assert kitchen.asked[-1] == 5
        kitchen.offset = 1000
        prefetcher.drop()
        kitchen.open.set()
        assert [prefetcher.get(step) for step in range(6)] == [1000 + step * step for step in range(6)]


def test_close_leaves_no_thread() -> None:
    """Close waits for work in progress; a second close is nothing."""
    before = set(threading.enumerate())
    prefetcher = Prefetcher(Kitchen().fetch, 4)
    assert set(threading.enumerate()) == before
    prefetcher.get(0)
    assert set(threading.enumerate()) != before
    prefetcher.close()
    assert set(threading.enumerate()) == before
    prefetcher.close()


def test_threads_end_when_the_loop_raises() -> None:
    """As a context manager it cleans up behind an error."""
    before = set(threading.enumerate())

    def loop() -> None:
        with Prefetcher(Kitchen().fetch, 2) as prefetcher:
            prefetcher.get(0)
            raise KeyError("loop")

    with pytest.raises(KeyError, match="loop"):
        loop()
    assert set(threading.enumerate()) == before


def test_operators_run_in_one_thread_there_and_nowhere_else() -> None:
    """Each loader thread works alone; the caller, and threads that start later, keep their number."""
    before = torch.get_num_threads()
    later: list[int] = []
    try:
        torch.set_num_threads(2)
        with Prefetcher(lambda step: torch.get_num_threads(), 3) as prefetcher:
            assert [prefetcher.get(step) for step in range(9)] == [1] * 9
            thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
            thread.start()
            thread.join()
        assert (torch.get_num_threads(), later) == (2, [2])
    finally:
        torch.set_num_threads(before)
