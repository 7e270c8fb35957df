"""Ctrl-C while Tune runs: at the first the trials end with a checkpoint each, then Tune; a second is the caller's."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ray.tune import Callback

from infra.notice import tell

Handler = Callable[[int, FrameType | None], Any]
GRACE_S = 60.0
"""So long trials have to come to their next step and write a checkpoint; half of what a job gets (jobs.STOP_WAIT_S)."""


class FirstInterrupt(Callback):
    """Hears the first Ctrl-C in the place of Tune's own handler, which has it when the running trials have ended.

    Tune sets that handler just before it sets up its callbacks, and takes it away at the first Ctrl-C. `show` is called
    from the handler; `tell_trials` later, from Tune's loop, as it asks the cluster for something.
    """

    def __init__(self, show: Callable[[], object], tell_trials: Callable[[], object]) -> None:
        self._show: Callable[[], object] | None = show
        self._tell_trials: Callable[[], object] | None = tell_trials
        self._tunes: Any = None
        self._callers: Any = None
        self._running: frozenset[str] | None = None
        """Ids of the trials that were told and have not ended yet; None: none was told."""
        self._deadline = 0.0
        self.told = False

    def setup(self, *args: Any, **info: Any) -> None:
        """Come before Tune's handler, which is set by now; off the main thread there is none."""
        del args, info
        if threading.current_thread() is threading.main_thread():
            self._tunes = signal.getsignal(signal.SIGINT)
            signal.signal(signal.SIGINT, self._hear)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """After a Ctrl-C, tell the trials, wait for those that run, and let Tune end."""
        del iteration, info
        if not self.told or self._tunes is None:
            return
        running = frozenset(trial.trial_id for trial in trials if trial.status == "RUNNING")
        if self._running is None:
            if running and self._tell_trials is not None:
                self._tell_trials()
            self._running, self._deadline = running, time.monotonic() + GRACE_S
        # One that starts again, or only now, is not waited for.
        self._running &= running
        if not self._running or time.monotonic() >= self._deadline:
            tunes, self._tunes = self._tunes, None
            tunes(signal.SIGINT, None)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.told = True
        # Tune's own handler would put it back too.
        signal.signal(signal.SIGINT, self._callers)
        # In local mode the trial runs in this process.
        tell()
        if self._show is not None:
            self._show()

    def __getstate__(self) -> dict[str, Any]:
        nothing = dict.fromkeys(("_show", "_tell_trials", "_tunes", "_callers", "_running"))
        return {**nothing, "_deadline": 0.0, "told": self.told}

    def lead_back_to(self, callers: Handler) -> None:
        """Have `callers` handle what comes after the first Ctrl-C."""
        self._callers = callers


@contextmanager
def interrupts(
    first: Callable[[], object], second: Callable[[], object], tell_trials: Callable[[], object]
) -> Iterator[FirstInterrupt]:
    """A callback for Tune, by which `first` is called on a Ctrl-C, and `second` on each one after it.

    `tell_trials` makes the trials end at their next step, wherever they run. Where Tune runs no trials, as before and
    after them, a Ctrl-C is a KeyboardInterrupt; so it is off the main thread.
    """
    callback = FirstInterrupt(first, tell_trials)
    if threading.current_thread() is not threading.main_thread():
        yield callback
        return

    def hear(_number: int, _frame: FrameType | None) -> None:
        if callback.told:
            second()
        raise KeyboardInterrupt

    callback.lead_back_to(hear)
    before = signal.signal(signal.SIGINT, hear)
    try:
        yield callback
    finally:
        signal.signal(signal.SIGINT, before)
