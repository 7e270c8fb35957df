"""The log of a job as it grows, over as many connections as it takes: each part is passed on once.

A server sends the log from its start on every connection; what was passed on is skipped.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from infra.job_server import client_errors, first_line, says_no

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

Write = Callable[[str], None]
POLL_S = 0.5
"""Time between two looks at a job that says nothing, and before the first of a series of attempts."""
PULL_S = 3.0
"""Time between two fetches of the whole log, where there is no stream of it."""
LONGEST_DELAY_S = 10.0
SILENCE_S = 60.0
"""After so long without a word the connection is opened anew: a router may have forgotten it, and told nobody."""
PATIENCE_S = 600.0
"""So long a cluster may be away."""


class LogFollower:
    """Passes the log of one job on to `write`, and what becomes of the connection to `notify`, a line each."""

    def __init__(self, client: JobSubmissionClient, job_id: str, write: Write, notify: Write) -> None:
        self._client, self._job_id = client, job_id
        self._write, self._notify = write, notify
        self._written = 0
        self._lost_at: float | None = None
        self._attempts = 0

    def run(self) -> Any:
        """Follow the job to its end; Ray's JobDetails of it.

        Raises what JobSubmissionClient does (`client_errors`): at once where the server answers that there is no such
        job, else when it has been away for PATIENCE_S.
        """
        return asyncio.run(self._run())

    async def _run(self) -> Any:
        while True:
            trouble: Exception | None = None
            try:
                await self._tail()
            except client_errors() as error:
                trouble = error
            try:
                details = self._client.get_job_info(self._job_id)
                if trouble is not None:
                    # The server is there, though the stream is not: a proxy may not pass streams on.
                    self._pass_on(self._client.get_job_logs(self._job_id), 0)
            except client_errors() as error:
                self._away(error)
                await asyncio.sleep(self._delay())
                continue
            self._back()
            if details.status.is_terminal():
                return details
            await asyncio.sleep(POLL_S if trouble is None else PULL_S)

    async def _tail(self) -> None:
        """Write what one connection sends, until it ends, breaks, or has been silent for SILENCE_S."""
        position = 0
        stream = aiter(self._client.tail_job_logs(self._job_id))
        while True:
            try:
                async with asyncio.timeout(SILENCE_S):
                    text = await anext(stream)
            except (StopAsyncIteration, TimeoutError):
                return
            self._back()
            position = self._pass_on(text, position)

    def _pass_on(self, text: str, position: int) -> int:
        """Write what is new in `text`, which begins at `position` of the log; the position after it."""
        fresh = text[max(0, self._written - position) :]
        position += len(text)
        self._written = max(self._written, position)
        if fresh:
            self._write(fresh)
        return position

    def _away(self, error: Exception) -> None:
        """Note that the cluster doesn't answer; raises `error` where waiting is of no use, or no longer."""
        now = time.monotonic()
        if says_no(error):
            raise error
        if self._lost_at is None:
            self._lost_at = now
            limit = round(PATIENCE_S / 60)
            self._notify(f"no connection to the cluster ({first_line(error)}); trying again for {limit} min")
        elif now - self._lost_at > PATIENCE_S:
            raise error

    def _back(self) -> None:
        """Note that the cluster answers."""
        if self._lost_at is not None:
            self._notify("connected again")
        self._lost_at, self._attempts = None, 0

    def _delay(self) -> float:
        self._attempts += 1
        return float(min(POLL_S * 2 ** (self._attempts - 1), LONGEST_DELAY_S))
