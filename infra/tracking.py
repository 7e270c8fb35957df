"""The tracking store: where it is, whether it answers, how to open it and its UI.

Nothing here imports mlflow before a function needs it (3 s), and nothing uses MLflow's global state.
"""

from __future__ import annotations

import http.client
import importlib
import logging
import os
import re
import socket
import sys
import tempfile
import threading
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from trainables.errors import ConfigError, TrackingError, complaint

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEY = "tracking.uri"
ALLOWED = "sqlite:///FILE.db, http(s)://HOST:PORT, or a postgresql, mysql or mssql URL that MLflow takes"
DEFAULT_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
DATABASES = ("sqlite", *DEFAULT_PORTS)
STORE_MODULE = "mlflow.store.tracking.sqlalchemy_store"
ANSWER_TIMEOUT_S = 4.0
"""MLflow's own retries go on for minutes; a check asks once and waits this long."""
SQLITE_HEADER = b"SQLite format 3\x00"
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
"""Set where the user has not: silent, and quick to fail, since the writer has retries of its own."""


def default_tracking_uri(storage: str | Path) -> str:
    """The store of a sweep that names none: `sqlite:///<absolute storage>/mlflow.db`."""
    return f"sqlite:///{Path(storage).expanduser().resolve() / 'mlflow.db'}"


def import_mlflow(uri: str) -> None:
    """Import what MLflow needs for the store at `uri` (3 s), as quiet and as quick to fail as we want it.

    Variables that the user has set win.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import mlflow  # noqa: F401

    logging.getLogger("alembic").setLevel(logging.WARNING)
    # It prints the trace of every locked or full database, beside raising it; and its migrations.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    if dialect_of(uri) in DATABASES and STORE_MODULE not in sys.modules:
        with warnings.catch_warnings():
            # MLflow's tables use a loader strategy that SQLAlchemy 2.1 deprecates.
            warnings.simplefilter("ignore", DeprecationWarning)
            importlib.import_module(STORE_MODULE)


def open_client(uri: str) -> MlflowClient:
    """A client of the store at `uri`; the first one on a new SQLite file creates the tables (seconds)."""
    import_mlflow(uri)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite store; None for any other store, and for one in memory."""
    head, separator, rest = uri.partition(":///")
    if dialect_of(head + "://") != "sqlite" or not separator:
        return None
    name = rest.partition("?")[0]
    return Path(name).absolute() if name and name != ":memory:" else None


def dialect_of(uri: str) -> str:
    """`postgresql` of `postgresql+psycopg://...`; empty where there is no scheme."""
    scheme, separator, _ = uri.partition("://")
    return scheme.partition("+")[0].lower() if separator else ""


def without_password(uri: str) -> str:
    """`uri` as it may be shown."""
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", uri)


def check_tracking(uri: str) -> None:
    """Raise TrackingError, within about 5 s, unless the store at `uri` can be used."""
    dialect = dialect_of(uri)
    if dialect in ("http", "https"):
        _check_server(uri)
    elif dialect == "sqlite":
        _check_sqlite(uri)
    elif dialect in DEFAULT_PORTS:
        _within_time(uri, lambda: _ask_port(uri, DEFAULT_PORTS[dialect]))
    else:
        raise TrackingError(_complaint(uri, ALLOWED, f"correct {KEY}, or leave it out for a local store"))


def check_recorded(uri: str) -> None:
    """Raise TrackingError unless there is a store to read at `uri`; unlike `check_tracking`, makes no folder."""
    file = sqlite_file(uri)
    if file is not None and not file.exists():
        remedy = "run a sweep first, or name its storage"
        raise TrackingError(_complaint(uri, "a store that a sweep has written", remedy))
    check_tracking(uri)


def _check_sqlite(uri: str) -> None:
    file = sqlite_file(uri)
    if file is None:
        raise TrackingError(_complaint(uri, "sqlite:///FILE.db", "name a file that the sweep may write"))
    remedy = f"choose another folder with {KEY}=sqlite:///FOLDER/mlflow.db or storage=FOLDER"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=file.parent):
            pass
        if file.exists():
            with file.open("r+b") as store:
                header = store.read(len(SQLITE_HEADER))
            if header not in (b"", SQLITE_HEADER):
                raise TrackingError(_complaint(uri, f"an SQLite file ({file.name} is none)", remedy))
    except OSError as error:
        raise TrackingError(_complaint(uri, f"a folder that can be written ({error.strerror})", remedy)) from None


def _check_server(uri: str) -> None:
    """Ask /health, which is open on every MLflow server, then one page of the API, which may want a password."""
    status = _within_time(uri, lambda: _get_status(uri.rstrip("/") + "/health"))
    if status != http.client.OK:
        remedy = "give the address of an MLflow server (`mlflow server --port 5000` starts one)"
        raise TrackingError(_complaint(uri, f"an MLflow server; this one answers /health with {status}", remedy))
    client = open_client(uri)
    status = _within_time(uri, lambda: _ask_api(client))
    if status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
        remedy = "export MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or add the host to its --allowed-hosts"
        raise TrackingError(_complaint(uri, f"a server that lets you in; this one answers {status}", remedy))
    if status != http.client.OK:
        remedy = "see the server's log; epoch14 is made for MLflow 3"
        raise TrackingError(_complaint(uri, f"a server whose API works; this one answers {status}", remedy))


def _get_status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_TIMEOUT_S) as answer:  # noqa: S310 - http(s), checked above
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def _ask_api(client: MlflowClient) -> int:
    """Status of a search for one experiment, with the user's own credentials and TLS settings."""
    from mlflow.exceptions import MlflowException
    from mlflow.utils.rest_utils import http_request

    try:
        answer = http_request(
            host_creds=client._tracking_client.store.get_host_creds(),  # noqa: SLF001 - the public way retries
            endpoint="/api/2.0/mlflow/experiments/search",
            method="POST",
            max_retries=0,
            timeout=ANSWER_TIMEOUT_S,
            raise_on_status=False,
            json={"max_results": 1},
        )
    except MlflowException as error:
        raise ConnectionError(error.message) from None
    return int(answer.status_code)


def _ask_port(uri: str, default_port: int) -> int:
    address = urlsplit(uri)
    socket.create_connection((address.hostname or "localhost", address.port or default_port), ANSWER_TIMEOUT_S).close()
    return http.client.OK


def _within_time(uri: str, ask: Callable[[], int]) -> int:
    """Answer of `ask`, which may hang in a name server beyond any socket's timeout; raises TrackingError."""
    outcome: list[int | Exception] = []

    def run() -> None:
        try:
            outcome.append(ask())
        except (OSError, ValueError, http.client.HTTPException) as error:
            outcome.append(error)

    thread = threading.Thread(target=run, name="epoch14-tracking-check", daemon=True)
    thread.start()
    thread.join(ANSWER_TIMEOUT_S + 0.5)
    answer = outcome[0] if outcome else TimeoutError("no answer")
    if isinstance(answer, int):
        return answer
    reason = getattr(answer, "reason", answer)
    remedy = f"start the server or correct {KEY}; without it the records go to a local SQLite file"
    raise TrackingError(_complaint(uri, f"a store that answers within {ANSWER_TIMEOUT_S:.0f} s ({reason})", remedy))


def _complaint(uri: str, allowed: str, remedy: str) -> str:
    return complaint(KEY, without_password(uri), allowed, remedy)


def open_ui(uri: str, port: int = 5000) -> None:
    """Become `mlflow ui` on 127.0.0.1 for a local store (doesn't return), or print where a remote one is.

    Raises TrackingError if nothing was recorded yet, ConfigError if the port is taken.
    """
    if dialect_of(uri) in ("http", "https"):
        print(f"MLflow: {without_password(uri)}")  # noqa: T201 - this is the command's answer
        return
    file = sqlite_file(uri)
    if file is not None and not file.exists():
        raise TrackingError(
            _complaint(uri, "a store that a sweep has written", "run a sweep first, or name its storage")
        )
    check_port("127.0.0.1", port)
    print(f"MLflow: http://127.0.0.1:{port} (Ctrl-C ends it)", flush=True)  # noqa: T201 - this is the command's answer
    # MLflow's job runner serves its evaluation of language models: 240 MB and a process for nothing here.
    defaults = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    # MLflow's own, about what its next versions will use.
    defaults["PYTHONWARNINGS"] = "ignore:starlette.middleware.wsgi is deprecated"
    # The URI may hold a password, and a command line is for everyone to see.
    environment = {**defaults, **os.environ, "MLFLOW_BACKEND_STORE_URI": uri}
    arguments = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    if (file := sqlite_file(uri)) is not None:
        arguments += ["--artifacts-destination", str(file.parent / "mlartifacts")]
    os.execve(sys.executable, [sys.executable, "-m", "mlflow", "ui", *arguments], environment)  # noqa: S606 - no shell


def check_port(host: str, port: int) -> None:
    """Raise ConfigError unless a server can listen there."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or "out of range"
            raise ConfigError(complaint("--port", port, f"a free port ({reason})", f"--port {port + 1}")) from None
