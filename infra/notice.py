"""SIGTERM as a notice: the trials of this process end at their next step, each with a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_told = threading.Event()


def told_to_stop() -> bool:
    """Whether this process has got a SIGTERM under `listening`."""
    return _told.is_set()


@contextmanager
def listening() -> Iterator[None]:
    """Take SIGTERM as a notice for the time being; for the main thread, elsewhere it changes nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def hear(_number: int, _frame: FrameType | None) -> None:
        _told.set()

    before = signal.signal(signal.SIGTERM, hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _told.clear()
