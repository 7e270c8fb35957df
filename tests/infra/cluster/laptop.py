"""The machine that a person sits at: a home with the cluster's token, and the commands that they run."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.infra.cluster.cloud import Keys
from tests.infra.cluster.config import ROOT
from tests.local_servers import free_port, status_of

TUNNEL_LIMIT_S = 300.0


@dataclass(frozen=True)
class Laptop:
    """Its own home, so that the user's keys and tokens stay out of it."""

    home: Path
    keys: Keys

    def __post_init__(self) -> None:
        for folder in (".ssh", ".ray"):
            (self.home / folder).mkdir(parents=True)
        token = self.home / ".ray" / "auth_token"
        token.write_text(secrets.token_hex(32), encoding="utf-8")
        token.chmod(0o600)

    @property
    def token(self) -> str:
        """The cluster's."""
        return (self.home / ".ray" / "auth_token").read_text(encoding="utf-8")

    @property
    def environment(self) -> dict[str, str]:
        """Of its commands."""
        mine = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "AWS_", "MLFLOW_"))}
        path = f"{Path(sys.executable).parent}{os.pathsep}{mine['PATH']}{os.pathsep}/usr/sbin"
        return mine | self.keys.environment | {"HOME": str(self.home), "PATH": path, "RAY_USAGE_STATS_ENABLED": "0"}

    def ray(self, *words: str, timeout_s: float = 600) -> str:
        """Run a command of Ray's that must succeed; returns its output."""
        ended = subprocess.run(
            ["ray", *words],
            cwd=ROOT,
            env=self.environment,
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
        )
        assert ended.returncode == 0, ended.stdout
        return ended.stdout

    def submit(self, log: Path, preset: str, address: str, *words: str) -> subprocess.Popen[bytes]:
        """Start `epoch14 submit` with its output in `log`."""
        command = [sys.executable, "-m", "pipelines", "submit", preset, "--address", address, *words]
        environment = self.environment | {"RAY_AUTH_MODE": "token"}
        with log.open("wb") as output:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @contextlib.contextmanager
    def dashboard(self, cluster: Path, log: Path) -> Iterator[str]:
        """`ray dashboard` for the time being; the URL by which it leads to the head's."""
        port = free_port()
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["ray", "dashboard", "--no-config-cache", "--port", str(port), str(cluster)],
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        address = f"http://127.0.0.1:{port}"
        try:
            deadline = time.monotonic() + TUNNEL_LIMIT_S
            while status(address) == 0:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            yield address
        finally:
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that was started here, and its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def status(address: str, token: str | None = None) -> int:
    """HTTP status of the list of jobs at a dashboard; 0: nothing answers."""
    request = urllib.request.Request(f"{address}/api/jobs/")  # noqa: S310 - our own
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    return status_of(request, timeout_s=10)
