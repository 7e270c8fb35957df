"""Ctrl-C while Tune runs: the first one lets it stop the trials and write its state, a second one is the caller's."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ray.tune import Callback

Handler = Callable[[int, FrameType | None], Any]


class FirstInterrupt(Callback):
    """Tells of the first Ctrl-C, before Tune's own handler has it.

    Tune sets that handler just before it sets up its callbacks, and takes it away at the first Ctrl-C.
    """

    def __init__(self, tell: Callable[[], object]) -> None:
        self._tell: Callable[[], object] | None = tell
        self._tunes: Any = None
        self.told = False

    def setup(self, *args: Any, **info: Any) -> None:
        """Come before Tune's handler, which is set by now; off the main thread there is none."""
        del args, info
        if threading.current_thread() is threading.main_thread():
            self._tunes = signal.getsignal(signal.SIGINT)
            signal.signal(signal.SIGINT, self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.told = True
        if self._tell is not None:
            self._tell()
        self._tunes(number, frame)

    def __getstate__(self) -> dict[str, Any]:
        return {"_tell": None, "_tunes": None, "told": self.told}


@contextmanager
def interrupts(first: Callable[[], object], second: Callable[[], object]) -> Iterator[FirstInterrupt]:
    """A callback for Tune, beside which `first` is called on a Ctrl-C and `second` on each one after it.

    Where Tune runs no trials, as before and after them, a Ctrl-C is a KeyboardInterrupt; so it is off the main thread.
    """
    callback = FirstInterrupt(first)
    if threading.current_thread() is not threading.main_thread():
        yield callback
        return

    def hear(_number: int, _frame: FrameType | None) -> None:
        if callback.told:
            second()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, hear)
    try:
        yield callback
    finally:
        signal.signal(signal.SIGINT, before)
