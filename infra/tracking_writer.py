"""A thread that writes records into the tracking store, in order, and outlives the store's absences.

The trials never wait for it, nor does the sweep for a store that fails. What the store can't take is tried again with
back-off; what it has not taken at the end is handed back, and `infra.tracking_kept` keeps it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

from infra.tracking_records import Record
from trainables.errors import TrackingError

logger = logging.getLogger("epoch14.tracking")

FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 30.0
LAST_DELAY_S = 1.0
"""Longest delay once the sweep is over."""
PATIENCE_S = 60.0
"""How long `close` waits for a store that has not failed; every written record starts it anew."""
FAILING_PATIENCE_S = 8.0
"""How long `close` waits for a store that fails."""
CATCH_UP_S = 20.0
"""How long `catch_up` waits for a store that has not failed, after the last record that it took."""
TRIES = 6
"""After so many failures of one record, ask whether the store works at all; if it does, the record is set aside."""
THREAD_NAME = "epoch14-tracking"
RETRIED = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)


class Recorder(Protocol):
    """What applies records; see `infra.tracking_runs.RunRecorder`."""

    parent_run_id: str | None

    def apply(self, record: Record) -> None:
        """Write one record; may be called with it again after a failure."""


@dataclass(frozen=True)
class Unwritten:
    """A record that is not in the store, and why."""

    record: Record
    reason: str


class TrackingWriter:
    """Queue, thread and back-off around a recorder, which is opened in the thread too: the first open is slow."""

    def __init__(self, open_recorder: Callable[[], Recorder], store_works: Callable[[], bool]) -> None:
        self._open_recorder = open_recorder
        self._store_works = store_works
        self._recorder: Recorder | None = None
        self._changed = threading.Condition()
        self._pending: deque[Record] = deque()
        self._refused: list[Unwritten] = []
        self._trouble = ""
        self._tries = 0
        self._last_progress = time.monotonic()
        self._closing = self._abandoned = False
        logging.getLogger("urllib3.connectionpool").addFilter(_not_ours)
        self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
        self._thread.start()

    @property
    def parent_run_id(self) -> str | None:
        """The sweep's run, once it is in the store."""
        return self._recorder.parent_run_id if self._recorder else None

    @property
    def refused(self) -> list[Unwritten]:
        """Records that the store answered with an error of theirs."""
        with self._changed:
            return list(self._refused)

    def put(self, record: Record) -> None:
        """Queue a record; returns at once."""
        with self._changed:
            assert not self._closing, "a closed writer takes no records"
            self._pending.append(record)
            self._changed.notify_all()

    def catch_up(self) -> bool:
        """Wait until everything queued is written, unless the store fails; returns whether it is."""
        return self._wait(CATCH_UP_S, 0.0)

    def flush(self) -> bool:
        """Wait until everything queued is written, as long as there is hope; returns whether it is."""
        return self._wait(PATIENCE_S, FAILING_PATIENCE_S)

    def _wait(self, patience_s: float, failing_patience_s: float) -> bool:
        with self._changed:
            self._last_progress = time.monotonic()
            while self._pending:
                patience = failing_patience_s if self._trouble else patience_s
                left = self._last_progress + patience - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(min(left, 1.0))
            return True

    def close(self) -> list[Unwritten]:
        """Write what can be written, end the thread, and hand back the rest."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self.flush()
        return self.abandon()

    def abandon(self) -> list[Unwritten]:
        """End the thread without waiting for the store, and hand back what is not written."""
        with self._changed:
            self._closing = self._abandoned = True
            rest = [Unwritten(record, self._trouble or "no answer") for record in self._pending]
            self._pending.clear()
            self._changed.notify_all()
        if not rest:
            self._thread.join(timeout=1.0)
        return self._refused + rest

    def _run(self) -> None:
        self._warm_up()
        while (record := self._next()) is not None:
            error = self._write(record)
            waits = error is not None and not self._gives_up_on(error)
            with self._changed:
                if self._abandoned:
                    return
                if waits:
                    self._back_off(_one_line(error))
                else:
                    self._settle(record, _one_line(error) if error else "")

    def _next(self) -> Record | None:
        """The record at the head of the queue, which stays there until it is settled; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._closing)
            return self._pending[0] if self._pending and not self._abandoned else None

    def _warm_up(self) -> None:
        """Import MLflow and make the tables of a new store before the first record comes."""
        try:
            self._recorder = self._open_recorder()
        except Exception as error:  # noqa: BLE001 - the first record meets the same error, and handles it
            logger.debug("store not opened yet: %s", error)

    def _write(self, record: Record) -> Exception | None:
        try:
            if self._recorder is None:
                self._recorder = self._open_recorder()
            self._recorder.apply(record)
        except Exception as error:  # noqa: BLE001 - whatever it is, the sweep goes on and the record is kept
            return error
        return None

    def _gives_up_on(self, error: Exception) -> bool:
        """Whether the error is the record's own, so that the next record may fare better."""
        if not is_passing(error):
            return True
        return self._tries + 1 >= TRIES and self._store_works()

    def _settle(self, record: Record, reason: str) -> None:
        if reason:
            self._refused.append(Unwritten(record, reason))
            logger.warning("tracking: a %s was not taken by the store: %s", type(record).__name__, reason)
        elif self._trouble:
            logger.warning("tracking: the store takes records again")
        self._pending.popleft()
        self._trouble, self._tries = "", 0
        self._last_progress = time.monotonic()
        self._changed.notify_all()

    def _back_off(self, reason: str) -> None:
        if not self._trouble:
            logger.warning("tracking: the store fails; records wait and are tried again: %s", reason)
        self._trouble = reason
        delay = min(FIRST_DELAY_S * 2**self._tries, LONGEST_DELAY_S)
        self._tries += 1
        if self._closing:
            self._changed.wait_for(lambda: self._abandoned, timeout=min(delay, LAST_DELAY_S))
        else:
            self._changed.wait_for(lambda: self._closing, timeout=delay)


def is_passing(error: Exception) -> bool:
    """Whether the same record may succeed later: no connection, an overloaded server, a locked file."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, TrackingError):
        return False
    if isinstance(error, MlflowException):
        status = error.get_http_status_code()
        return status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in RETRIED
    return isinstance(error, OSError)


def _one_line(error: Exception | None) -> str:
    # MLflow appends the nested exceptions of urllib3, which say the same three times over.
    text = " ".join(str(error).split()).partition(" with exception ")[0]
    return f"{type(error).__name__}: {text}"[:300]


def _not_ours(entry: logging.LogRecord) -> bool:
    """Filter: urllib3 tells of each failed try, which this thread tells of once."""
    return entry.threadName != THREAD_NAME
