"""A real PostgreSQL, and the team's server as a process on it or on SQLite, with artifacts in a real bucket."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest

from tests.local_servers import free_port, status_of
from tests.s3_proxy import Proxy, proxy_before

BACKEND = "MLFLOW_BACKEND_STORE_URI"
START_LIMIT_S = 120.0
"""A guard against hanging, not a claim."""
ADMIN = ("admin", "correct horse battery staple")
SECRETS = {"MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN[1], "MLFLOW_FLASK_SERVER_SECRET_KEY": "signs-the-forms-of-the-page"}
S3_USER = {
    "AWS_ACCESS_KEY_ID": "the-servers",
    "AWS_SECRET_ACCESS_KEY": "the-servers-own",
    "AWS_DEFAULT_REGION": "us-east-1",
}
DATABASE_PASSWORD = "p@ss/%word: 1"  # noqa: S105 - of a database that lives as long as the tests


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL server with an empty database `records` of the user `mlflow`, and a user who may make no tables."""

    port: int

    def uri(self, user: str = "mlflow", password: str = DATABASE_PASSWORD, database: str = "records") -> str:
        """Address of a database for a user."""
        return f"postgresql://{user}:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Debian's PostgreSQL in a folder of its own; tests that need it are skipped where it is not installed."""
    programs = _programs()
    # It refuses to run as root.
    owner: dict[str, Any] = {"user": "nobody", "extra_groups": []} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory(prefix="epoch14-postgres-") as name:
        folder, port = Path(name), free_port()
        (folder / "password").write_text(DATABASE_PASSWORD, encoding="utf-8")
        if owner:
            for path in (folder, folder / "password"):
                shutil.chown(path, "nobody")
        make = ["--username", "mlflow", "--pwfile", str(folder / "password"), "--auth", "scram-sha-256", "--no-sync"]
        subprocess.run(
            [programs / "initdb", "--pgdata", folder / "data", *make],
            check=True,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            **owner,
        )
        listen = ["-p", str(port), "-h", "127.0.0.1", "-k", "", "-F"]
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [programs / "postgres", "-D", folder / "data", *listen], cwd=folder, stderr=log, **owner
            )
        try:
            _make_database(port, folder / "log")
            yield Postgres(port)
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(timeout=30)


def _programs() -> Path:
    """The folder with initdb and postgres; Debian keeps it off PATH."""
    versions = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name.partition(".")[0])
    )
    found = shutil.which("initdb")
    for folder in [*([Path(found).parent] if found else []), *reversed(versions)]:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    pytest.skip("PostgreSQL (apt-get install postgresql) is absent")


def _make_database(port: int, log: Path) -> None:
    import psycopg

    deadline = time.monotonic() + START_LIMIT_S
    while True:
        try:
            connection = psycopg.connect(
                host="127.0.0.1",
                port=port,
                user="mlflow",
                password=DATABASE_PASSWORD,
                dbname="postgres",
                autocommit=True,
            )
            break
        except psycopg.OperationalError:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
    with connection:
        connection.execute("CREATE DATABASE records")
        connection.execute("CREATE ROLE guest LOGIN PASSWORD 'guest'")


@dataclass
class TeamServer:
    """`epoch14 mlflow-server` as a process."""

    backend: str
    """Address of its database, password included."""
    artifacts: str
    port: int
    bucket: Proxy
    """What the server takes for its S3."""
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def uri(self) -> str:
        """The tracking URI."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, folder: Path, options: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start it and wait until /health answers."""
        command = [sys.executable, "-m", "pipelines", "mlflow-server", "--port", str(self.port), "--workers", "1"]
        command += ["--artifacts", self.artifacts, *options]
        log = folder / "server.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **SECRETS, **environment, BACKEND: self.backend, "TMPDIR": str(folder)},
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.processes.append(process)
        deadline = time.monotonic() + START_LIMIT_S
        while self.status("/health", user=None) != 200:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)

    def status(
        self,
        path: str = "/api/2.0/mlflow/experiments/search",
        *,
        user: tuple[str, str] | None = ADMIN,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
        method: str | None = None,
    ) -> int:
        """HTTP status of a request; 0 where nobody answers. What goes to the API is by default a POST of `body`."""
        asked = urllib.request.Request(f"{self.uri}{path}", headers=dict(headers or {}), method=method)  # noqa: S310 - our own
        if path.startswith("/api"):
            asked.data = json.dumps(body or {"max_results": 1}).encode()
            asked.add_header("Content-Type", "application/json")
        if user is not None:
            asked.add_header("Authorization", f"Basic {b64encode(':'.join(user).encode()).decode()}")
        return status_of(asked, timeout_s=20)

    def family(self) -> list[psutil.Process]:
        """The server and all processes that it has started."""
        (process,) = self.processes
        first = psutil.Process(process.pid)
        return [first, *first.children(recursive=True)]

    def stop(self) -> int:
        """SIGTERM, as a container gets it; returns the exit code."""
        process = self.processes.pop()
        process.terminate()
        try:
            return process.wait(timeout=30)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture(scope="module")
def models(s3_server: str) -> Iterator[Any]:
    """The bucket of that name."""
    from boto3.session import Session

    someone = Session("someone", "something", region_name="us-east-1")
    bucket = someone.resource("s3", endpoint_url=s3_server).Bucket("models")
    bucket.create()
    yield bucket
    bucket.objects.delete()
    bucket.delete()


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def team_server(
    request: pytest.FixtureRequest, s3_server: str, models: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TeamServer]:
    """The server on each kind of database, with artifacts in the bucket `models`, called mlflow.example.org."""
    folder = tmp_path_factory.mktemp("team")
    if request.param == "sqlite":
        backend = f"sqlite:///{folder / 'records' / 'mlflow.db'}"
    else:
        backend = request.getfixturevalue("postgres").uri()
    with proxy_before(s3_server) as bucket:
        server = TeamServer(backend, f"s3://{models.name}/of-the-team", free_port(), bucket)
        try:
            options = ["--allowed-host", "mlflow.example.org"]
            server.start(folder, options, {**S3_USER, "AWS_ENDPOINT_URL": bucket.url})
            yield server
        finally:
            if server.processes:
                server.stop()
