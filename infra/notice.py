"""SIGTERM as a notice, such as a spot instance gives: trials end at their next step, each with a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_told = threading.Event()


class InterruptedTrialError(RuntimeError):
    """A trial was told to stop, and has written a checkpoint: it isn't over, and Tune must not take it for finished."""


def told_to_stop() -> bool:
    """Whether this process has got a SIGTERM since it listens."""
    return _told.is_set()


def tell() -> None:
    """Tell this process to stop, as a SIGTERM does."""
    _told.set()


def listen() -> None:
    """Take SIGTERM as a notice from now on; a process of Ray's, whose own handler would end it at once, calls this."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _hear)


@contextmanager
def listening() -> Iterator[None]:
    """Take SIGTERM as a notice and a Ctrl-C in one for the time being; off the main thread it changes nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def hear(number: int, frame: FrameType | None) -> None:
        _hear(number, frame)
        # Whoever runs the trials, Tune or the command, knows what to do on a Ctrl-C.
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGTERM, hear)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        _told.clear()


def _hear(_number: int, _frame: FrameType | None) -> None:
    tell()
