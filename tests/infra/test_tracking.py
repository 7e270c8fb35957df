"""Whether there is a store that can be used, and people can look into it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest

from infra.tracking import (
    check_tracking,
    default_tracking_uri,
    dialect_of,
    open_client,
    open_ui,
    sqlite_file,
    without_password,
)
from tests.local_servers import free_port
from trainables.errors import ConfigError, TrackingError


class Stranger(BaseHTTPRequestHandler):
    """An HTTP server that answers what it is told: path -> status."""

    answers: ClassVar[dict[str, int]] = {}

    def do_GET(self) -> None:
        """Answer."""
        self.send_response(self.answers.get(self.path, 404))
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_GET  # noqa: N815 - http.server's name

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def stranger() -> Iterator[Callable[[dict[str, int]], str]]:
    """A factory: the statuses that a server is to answer -> its URI."""
    servers = []

    def start(answers: dict[str, int]) -> str:
        handler = type("Handler", (Stranger,), {"answers": answers})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def complaint_about(uri: str) -> str:
    """The one line that `check_tracking` raises, less the URI."""
    with pytest.raises(TrackingError) as caught:
        check_tracking(uri)
    message = str(caught.value)
    assert message.startswith("tracking.uri: ")
    assert "; remedy: " in message
    assert "\n" not in message
    return message


def test_a_store_that_works_passes(tmp_path: Path, mlflow_server: str) -> None:
    """A local file in a folder that is yet to be made, and a real server, are both fine."""
    check_tracking(default_tracking_uri(tmp_path / "new" / "folder"))
    check_tracking(mlflow_server)
    check_tracking(f"{mlflow_server}/")


@pytest.mark.parametrize(
    "uri", ["", "mlruns", "file:///tmp/mlruns", "ftp://host/x", "sqlite://", "sqlite:///:memory:", "mongodb://host/db"]
)
def test_a_uri_that_is_none_of_a_store_says_what_is(uri: str) -> None:
    """A scheme that MLflow or this project does not write to is named with those that are."""
    assert "sqlite:///FILE.db" in complaint_about(uri)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """SQLite below something that is no folder, or in a file that is no database, is found before the sweep starts."""
    (tmp_path / "file").write_text("not a database, by its first bytes")

    assert "a folder that can be written" in complaint_about(f"sqlite:///{tmp_path}/file/x/mlflow.db")
    assert "a folder that can be written" in complaint_about("sqlite:////proc/none/mlflow.db")
    assert "an SQLite file (file is none)" in complaint_about(f"sqlite:///{tmp_path}/file")


def test_a_server_that_is_not_there_is_named() -> None:
    """A closed port, an unknown host, a database behind a closed port and a silent server: one line each."""
    port = free_port()
    for uri in (
        f"http://127.0.0.1:{port}",
        "http://no-such-host.invalid:5000",
        "http://127.0.0.1:port",
        f"postgresql+psycopg://user:secret@127.0.0.1:{port}/mlflow",
    ):
        message = complaint_about(uri)
        assert "a store that answers within 4 s" in message
        assert "secret" not in message
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert "timed out" in complaint_about(f"http://127.0.0.1:{silent.getsockname()[1]}")


def test_a_server_that_is_no_mlflow_is_named(stranger: Callable[[dict[str, int]], str]) -> None:
    """Another service, a closed door and a broken API are told apart."""
    api = "/api/2.0/mlflow/experiments/search"

    assert "answers /health with 404" in complaint_about(stranger({}))
    assert "MLFLOW_TRACKING_USERNAME" in complaint_about(stranger({"/health": 200, api: 401}))
    assert "whose API works; this one answers 404" in complaint_about(stranger({"/health": 200}))


def test_uris_are_read_as_mlflow_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default lies in the storage folder; a relative file is relative to the working folder."""
    monkeypatch.chdir(tmp_path)

    assert default_tracking_uri("outputs") == f"sqlite:///{tmp_path}/outputs/mlflow.db"
    assert sqlite_file("sqlite:///a/b.db?timeout=3") == tmp_path / "a" / "b.db"
    assert sqlite_file(f"sqlite:///{tmp_path}/b.db") == tmp_path / "b.db"
    assert sqlite_file("http://host/x.db") is None
    assert dialect_of("mysql+pymysql://host/db") == "mysql"
    assert without_password("postgresql://me:p%40ss@host:1/db") == "postgresql://me:***@host:1/db"
    assert without_password("http://host:5000/") == "http://host:5000/"


def test_the_ui_of_a_local_store_shows_its_artifacts(tmp_path: Path) -> None:
    """`open_ui` becomes MLflow's UI: it serves the file's runs and the artifacts beside it, and leaves no litter."""
    client = open_client(default_tracking_uri(tmp_path))
    location = (tmp_path / "mlartifacts").as_uri()
    run = client.create_run(client.create_experiment("epoch14", artifact_location=location))
    client.log_text(run.info.run_id, "# why", "diagnosis.md")
    port = free_port()
    code = f"from infra.tracking import open_ui; open_ui({default_tracking_uri(tmp_path)!r}, {port})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with (tmp_path / "ui.log").open("wb") as log:
        command = [sys.executable, "-c", code]
        ui = subprocess.Popen(command, cwd=elsewhere, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        page = f"http://127.0.0.1:{port}/get-artifact?path=diagnosis.md&run_uuid={run.info.run_id}"
        assert fetch(page, ui) == b"# why"
        assert b"<title>MLflow</title>" in fetch(f"http://127.0.0.1:{port}/", ui)
    finally:
        os.killpg(ui.pid, signal.SIGTERM)
        ui.wait()

    assert f"MLflow: http://127.0.0.1:{port}" in (tmp_path / "ui.log").read_text()
    assert list(elsewhere.iterdir()) == []


def fetch(url: str, process: subprocess.Popen[bytes]) -> bytes:
    """The page at `url`, as soon as there is one."""
    while process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - our own server
                return bytes(answer.read())
        except OSError:
            time.sleep(0.2)
    raise AssertionError("the UI ended")


def test_the_ui_of_a_remote_store_is_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """For a server there is nothing to start: its address is printed, without its password."""
    open_ui("http://me:secret@host:5000", 5000)

    assert capsys.readouterr().out == "MLflow: http://me:***@host:5000\n"


def test_a_ui_that_cannot_start_says_why(tmp_path: Path) -> None:
    """Nothing recorded yet, a port that is taken and a port that is none are one line each; no folder is made."""
    with pytest.raises(TrackingError, match="run a sweep first"):
        open_ui(default_tracking_uri(tmp_path / "none"), free_port())
    assert not (tmp_path / "none").exists()

    (tmp_path / "mlflow.db").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port: {port} is not allowed.*remedy: --port {port + 1}"):
            open_ui(default_tracking_uri(tmp_path), port)
    with pytest.raises(ConfigError, match="--port: 99999"):
        open_ui(default_tracking_uri(tmp_path), 99999)
