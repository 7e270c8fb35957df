"""A cluster's job server over HTTP: whether it is there, a client that never waits for ever, and what its errors say.

HTTP is all that the two sides share, so a laptop's Ray may differ from the cluster's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from trainables.errors import ClusterError, complaint

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

CONNECT_TIMEOUT_S = 5.0
"""A dashboard that doesn't answer in this time counts as unreachable."""
ANSWER_TIMEOUT_S = 60.0
"""An answer that is silent for so long counts as lost; the head takes seconds to store a large working tree."""
JOB_PORT = 8265
"""The port of Ray's dashboard, which takes jobs."""
OVERRIDING_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Ray lets these win over an address that is given; here the address given wins."""
CHATTY_LOGGERS = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray._private.runtime_env.packaging",
    "ray._private.runtime_env.working_dir",
)


def open_job_server(address: str) -> JobSubmissionClient:
    """A client of the cluster whose dashboard is at the URL `address`, `http://HOST:8265`.

    Raises ClusterError within seconds if there is no Ray, or if it wants a token.
    """
    _check_reachable(address)
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        """Ray's own would wait for ever for an answer that got lost."""

        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            limits = {"timeout": (CONNECT_TIMEOUT_S, ANSWER_TIMEOUT_S)}
            return super()._do_request(method, endpoint, **(limits | options))

    # Ray announces the upload in its log; what matters is said by the caller.
    for name in CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with _without(OVERRIDING_VARIABLES):
            return Client(address)
    except client_errors() as error:
        raise ClusterError(refusal(address, error)) from None


def client_errors() -> tuple[type[Exception], ...]:
    """What JobSubmissionClient raises when the other side is away, is no Ray, or says no."""
    import aiohttp
    import requests
    from ray.exceptions import AuthenticationError

    return (
        RuntimeError,
        OSError,
        ValueError,
        KeyError,
        AuthenticationError,
        requests.RequestException,
        aiohttp.ClientError,
    )


def says_no(error: Exception) -> bool:
    """Whether the server has answered, and will answer the same again: no such job, no entry."""
    return type(error).__name__ == "AuthenticationError" or "does not exist" in str(error)


def refusal(address: str, error: Exception) -> str:
    """One line on why the job server at `address` can't be used."""
    if type(error).__name__ == "AuthenticationError":
        remedy = "export RAY_AUTH_MODE=token and put the cluster's token into ~/.ray/auth_token"
        return complaint("--address", address, "a cluster that lets you in (it wants a token)", remedy)
    remedy = "give the address of the dashboard of a running Ray cluster"
    return complaint("--address", address, f"a Ray dashboard that takes jobs ({first_line(error)})", remedy)


def first_line(error: Exception) -> str:
    """What an error says, on one line."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]


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
            complaint("--address", address, f"{allowed}, that answers ({first_line(error)})", remedy)
        ) from None


@contextlib.contextmanager
def _without(names: Sequence[str]) -> Iterator[None]:
    """Take environment variables away for a moment."""
    saved = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(saved)
