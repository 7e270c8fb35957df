"""Ray jobs: this machine uploads a folder and a command, the cluster runs it; look at it, follow it, stop it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from infra.job_log import POLL_S, LogFollower, Write
from infra.job_server import client_errors, first_line, open_job_server, refusal
from trainables.errors import ClusterError, complaint

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

STOP_WAIT_S = 120
"""A job that is told to stop has so long to end in order, its records closed, before it is killed (Ray: 3 s)."""
ATTEMPTS = 5
"""Attempts to hand a job in: a dashboard that has just been started answers before its job server does."""
MOST_NAMED = 5
"""Jobs that an error names."""
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class JobState:
    """What the cluster knows of a job."""

    job_id: str
    status: str
    """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    message: str
    """Ray's last word on it."""
    command: str
    started: float | None
    """Seconds since 1970; None: not yet."""
    ended: float | None
    exit_code: int
    """0 for a job that is under way or has succeeded; else that of its command, 1 if it has none."""
    metadata: dict[str, str] = field(default_factory=dict)
    """What whoever submitted it has noted."""

    @property
    def is_over(self) -> bool:
        """Whether it runs no more."""
        return self.status in ("STOPPED", "SUCCEEDED", "FAILED")


@dataclass(frozen=True)
class Job:
    """A submitted job."""

    client: JobSubmissionClient
    job_id: str
    address: str

    def state(self) -> JobState:
        """What the cluster knows of it now; raises ClusterError, naming others, where it knows of none."""
        return _state(self._ask(lambda: self.client.get_job_info(self.job_id)))

    def log(self) -> str:
        """Its log up to now; raises ClusterError."""
        return str(self._ask(lambda: self.client.get_job_logs(self.job_id)))

    def follow(
        self, write: Write, notify: Write = lambda line: None, remedy: Callable[[], str] | None = None
    ) -> JobState:
        """Pass the log on as it grows until the job ends, over lost connections too; how it ended.

        `notify` takes a line on each connection lost and found again. Raises ClusterError, with what
        `remedy` gives, where the cluster is away for ten minutes, or comes back without the job.
        """
        try:
            return _state(LogFollower(self.client, self.job_id, write, notify).run())
        except client_errors() as error:
            allowed = f"a job that the cluster at {self.address} still knows ({first_line(error)})"
            look = remedy() if remedy else f"see what it has: epoch14 job status --address {self.address}"
            raise ClusterError(complaint("job", self.job_id, allowed, look)) from None

    def stop(self) -> JobState:
        """Tell it to stop, with time to end in order, and wait for its end; raises ClusterError."""
        self._ask(lambda: self.client.stop_job(self.job_id))
        while not (state := self.state()).is_over:
            time.sleep(POLL_S)
        return state

    def _ask(self, question: Callable[[], Answer]) -> Answer:
        try:
            return question()
        except client_errors() as error:
            if "does not exist" not in str(error):
                raise ClusterError(refusal(self.address, error)) from None
        known = ", ".join(state.job_id for state in list_jobs(self.address)[:MOST_NAMED]) or "none"
        allowed = f"a job of the cluster at {self.address} ({known})"
        raise ClusterError(complaint("JOB", self.job_id, allowed, f"epoch14 job status --address {self.address}"))


def submit_job(
    address: str,
    entrypoint: str,
    *,
    working_dir: Path,
    excludes: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Job:
    """Upload `working_dir`, less `excludes` and what its .gitignore names; start the shell command `entrypoint` in it.

    `address` is the URL of the cluster's dashboard, `http://HOST:8265`; `metadata` is kept with the job. Raises
    ClusterError within seconds if there is no Ray, if it wants a token, or if it refuses the job.
    """
    client = open_job_server(address)
    runtime_env = {
        "working_dir": str(working_dir),
        "excludes": list(excludes),
        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), **(environment or {})},
    }
    job_id = f"epoch14_{secrets.token_hex(8)}"
    for attempt in range(ATTEMPTS):
        try:
            client.submit_job(
                entrypoint=entrypoint,
                runtime_env=dict(runtime_env),
                metadata=dict(metadata or {}),
                submission_id=job_id,
            )
        except client_errors() as error:
            if attempt and "already exists" in str(error):
                # The attempt before came through, and its answer got lost.
                break
            if not isinstance(error, OSError) or attempt == ATTEMPTS - 1:
                raise ClusterError(refusal(address, error)) from None
            time.sleep(POLL_S * 2**attempt)
        else:
            break
    return Job(client, job_id, address)


def open_job(address: str, job_id: str) -> Job:
    """A job that somebody has submitted; raises ClusterError where the cluster can't be reached."""
    return Job(open_job_server(address), job_id, address)


def list_jobs(address: str) -> list[JobState]:
    """Every job that was submitted to the cluster, the newest first; raises ClusterError."""
    client = open_job_server(address)
    try:
        every = client.list_jobs()
    except client_errors() as error:
        raise ClusterError(refusal(address, error)) from None
    submitted = [_state(details) for details in every if details.submission_id]
    return sorted(submitted, key=lambda state: -(state.started or 0.0))


def _state(details: Any) -> JobState:
    """Ray's JobDetails as ours."""
    status = str(details.status.value)
    failed = status in ("FAILED", "STOPPED")
    return JobState(
        job_id=str(details.submission_id),
        status=status,
        # After its first line Ray repeats the log.
        message=(details.message or "").partition(", last available logs")[0].strip(),
        command=str(details.entrypoint),
        started=details.start_time / 1000 if details.start_time else None,
        ended=details.end_time / 1000 if details.end_time else None,
        exit_code=(details.driver_exit_code or 1) if failed else 0,
        metadata=dict(details.metadata or {}),
    )
