"""Ray jobs over HTTP: this machine uploads a folder and a command, the cluster runs it.

HTTP is all that the two sides share, so a laptop's Ray may differ from the cluster's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from trainables.errors import ClusterError, complaint

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

CONNECT_TIMEOUT_S = 5.0
"""A dashboard that doesn't answer in this time counts as unreachable."""
POLL_S = 0.5
"""Time between two looks at a job's status."""
RECONNECTS = 5
"""How often a broken log connection is opened again."""
JOB_PORT = 8265
"""The port of Ray's dashboard, which takes jobs."""
OVERRIDING_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Ray lets these win over an address that is given; here the address given wins."""

CHATTY_LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray._private.runtime_env.packaging",
    "ray._private.runtime_env.working_dir",
)


@dataclass(frozen=True)
class JobEnd:
    """How a job ended: Ray's last word on it, and the exit code of its command (1 if it has none)."""

    status: str
    message: str
    exit_code: int


@dataclass(frozen=True)
class Job:
    """A submitted job."""

    client: JobSubmissionClient
    job_id: str

    def follow(self, write: Callable[[str], None]) -> JobEnd:
        """Pass the job's log on as it grows and wait for its end. Raises ClusterError if the cluster goes away."""
        try:
            asyncio.run(self._tail(write))
            while not (status := self.client.get_job_status(self.job_id)).is_terminal():
                time.sleep(POLL_S)
            info = self.client.get_job_info(self.job_id)
        except _client_errors() as error:
            remedy = f"see whether it still runs: ray job status {self.job_id} --address {self.client.get_address()}"
            reason = f"a job that can be followed ({_first_line(error)})"
            raise ClusterError(complaint("job", self.job_id, reason, remedy)) from None
        code = 0 if status.value == "SUCCEEDED" else info.driver_exit_code or 1
        # After its first line Ray repeats the log.
        return JobEnd(status.value, (info.message or "").partition(", last available logs")[0], code)

    async def _tail(self, write: Callable[[str], None]) -> None:
        """Write the log to its end; a connection that breaks is opened again, and what was written is skipped."""
        written = 0
        for attempt in range(RECONNECTS + 1):
            position = 0
            try:
                async for text in self.client.tail_job_logs(self.job_id):
                    fresh = text[max(0, written - position) :]
                    position += len(text)
                    written = max(written, position)
                    if fresh:
                        write(fresh)
            except _client_errors():
                if attempt == RECONNECTS:
                    raise
                await asyncio.sleep(POLL_S)
            else:
                return


def submit_job(
    address: str,
    entrypoint: str,
    *,
    working_dir: Path,
    excludes: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Job:
    """Upload `working_dir`, less `excludes` and what its .gitignore names; start the shell command `entrypoint` in it.

    `address` is the URL of the cluster's dashboard, `http://HOST:8265`. Raises ClusterError within seconds if there is
    no Ray, if it wants a token, or if it refuses the job.
    """
    _check_reachable(address)
    from ray.job_submission import JobSubmissionClient

    # Ray announces the upload in its log; what matters is said by the caller.
    for name in CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    runtime_env = {
        "working_dir": str(working_dir),
        "excludes": list(excludes),
        "env_vars": dict(environment or {}),
    }
    try:
        with _without(OVERRIDING_VARIABLES):
            client = JobSubmissionClient(address)
        job_id = client.submit_job(entrypoint=entrypoint, runtime_env=runtime_env)
    except _client_errors() as error:
        raise ClusterError(_refusal(address, error)) from None
    return Job(client, job_id)


def _check_reachable(address: str) -> None:
    """Raise ClusterError unless something answers HTTP at the URL `address` now: Ray's client would wait for ever."""
    import requests

    allowed = f"the URL of a Ray dashboard, http://HOST:{JOB_PORT}"
    try:
        url = urlsplit(address)
        host, port = url.hostname, url.port or {"http": 80, "https": 443}.get(url.scheme)
    except ValueError:
        host, port = None, None
    if host is None or port is None or url.scheme not in ("http", "https"):
        raise ClusterError(complaint("--address", address, allowed, f"write --address http://HOST:{JOB_PORT}"))
    try:
        socket.create_connection((host, port), timeout=CONNECT_TIMEOUT_S).close()
        requests.get(f"{address.rstrip('/')}/api/version", timeout=CONNECT_TIMEOUT_S).close()
    except OSError as error:
        remedy = "start the cluster (ray start --head, or ray up ray_cluster.yaml and ray dashboard ray_cluster.yaml)"
        raise ClusterError(
            complaint("--address", address, f"{allowed}, that answers ({_first_line(error)})", remedy)
        ) from None


def _client_errors() -> tuple[type[Exception], ...]:
    """What JobSubmissionClient raises when the other side is away, is no Ray, or says no."""
    import aiohttp
    import requests
    from ray.exceptions import AuthenticationError

    return (
        RuntimeError,
        ConnectionError,
        ValueError,
        KeyError,
        AuthenticationError,
        requests.RequestException,
        aiohttp.ClientError,
    )


def _refusal(address: str, error: Exception) -> str:
    if type(error).__name__ == "AuthenticationError":
        remedy = "export RAY_AUTH_MODE=token and put the cluster's token into ~/.ray/auth_token"
        return complaint("--address", address, "a cluster that lets you in (it wants a token)", remedy)
    remedy = "give the address of the dashboard of a running Ray cluster"
    return complaint("--address", address, f"a Ray dashboard that takes jobs ({_first_line(error)})", remedy)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]


@contextlib.contextmanager
def _without(names: Sequence[str]) -> Iterator[None]:
    """Take environment variables away for a moment."""
    saved = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(saved)
