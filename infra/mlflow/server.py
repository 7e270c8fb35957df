"""Start an MLflow server for a team: passwords, a check of the Host header, SQLite or PostgreSQL, artifacts at S3.

Clients need the server's address and their password alone: artifacts go through the server, which has the credentials
of the bucket. Users and permissions lie in the same database as the records.

Secrets come from the environment, and are in no file and on no command line:

    MLFLOW_AUTH_ADMIN_PASSWORD       of the user `admin` (MLFLOW_AUTH_ADMIN_USERNAME), from 12 characters on; MLflow
                                     reads it at its first start only, later its API changes it
    MLFLOW_FLASK_SERVER_SECRET_KEY   signs the forms of the sign-up page; the same for every copy of the server
    MLFLOW_BACKEND_STORE_URI         where the database's address has a password; PGPASSWORD does it too
    AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL or MLFLOW_S3_ENDPOINT_URL: as boto3 and MLflow read them
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from infra.mlflow.stores import check_artifacts, check_database, open_database
from infra.tracking import check_port, default_tracking_uri, sqlite_file, without_password
from trainables.errors import ConfigError, complaint

if TYPE_CHECKING:
    from sqlalchemy import URL

BACKEND = "MLFLOW_BACKEND_STORE_URI"
PASSWORD = "MLFLOW_AUTH_ADMIN_PASSWORD"  # noqa: S105 - the variable's name
SECRET_KEY = "MLFLOW_FLASK_SERVER_SECRET_KEY"  # noqa: S105 - the variable's name
REFUSED_PASSWORD = "password1234"  # noqa: S105 - what MLflow once shipped, and now refuses
LEAST_CHARACTERS = {PASSWORD: 12, SECRET_KEY: 16}
LOCAL_HOSTS = ("localhost", "127.0.0.1", "[::1]")
"""Always allowed: a person or a probe on the server's own machine."""
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
"""MLflow's job runner serves its evaluation of language models: 240 MB and a process for nothing here."""
AUTH_CONFIG = """\
[mlflow]
default_permission = READ
database_uri = {database}
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = {cache_s}
"""
CACHE_S = 60
"""For which a worker remembers a password that it has checked. Without, each request hashes it anew, which is most of
its time; with it, other workers than the one that changed a password may take the old one for so long."""


@dataclass(frozen=True)
class ServerOptions:
    """What a server is started with."""

    backend: str | None = None
    """Where records and users lie: sqlite:///FILE.db, or postgresql://USER@HOST/NAME. None: as the environment says,
    else the store of the sweeps in ./outputs."""
    artifacts: str | None = None
    """s3://bucket/prefix, or a folder. None: beside an SQLite file."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 5000
    allowed_hosts: Sequence[str] = ()
    """Names by which clients may call the server, beside this machine's own; without a port, on every port."""
    workers: int = 2
    """Processes that answer."""


def start_server(options: ServerOptions) -> NoReturn:
    """Check all that it needs, and become the server.

    Raises ConfigError where an option, a secret or the port won't do, TrackingError where the database can't be used,
    CheckpointError where the place of the artifacts can't.
    """
    _check_secrets(os.environ)
    hosts = _hosts(options.allowed_hosts)
    database = open_database(_backend(options.backend, os.environ))
    artifacts = options.artifacts or _beside(database)
    check_port(options.host, options.port)
    check_database(database)
    check_artifacts(artifacts)
    print(f"MLflow: http://{options.host}:{options.port} (Ctrl-C ends it)", flush=True)  # noqa: T201 - the command's answer
    command = [sys.executable, "-m", "mlflow", "server", *_arguments(options, artifacts, hosts)]
    os.execve(sys.executable, command, _environment(database))  # noqa: S606 - no shell


def _check_secrets(environ: Mapping[str, str]) -> None:
    for name, least in LEAST_CHARACTERS.items():
        secret = environ.get(name, "")
        if len(secret) < least or secret == REFUSED_PASSWORD:
            state = "unset" if not secret else f"{len(secret)} characters"
            allowed = f"a secret of at least {least} characters in the environment, other than MLflow's old default"
            raise ConfigError(complaint(name, state, allowed, f"export {name}=$(openssl rand -hex 16), and keep it"))


def _backend(given: str | None, environ: Mapping[str, str]) -> str:
    if given is not None and without_password(given) != given:
        allowed = "an address without its password, since everyone on the machine sees a command line"
        remedy = f"export {BACKEND} with the whole address, and leave --backend out"
        raise ConfigError(complaint("--backend", without_password(given), allowed, remedy))
    return given or environ.get(BACKEND) or default_tracking_uri("outputs")


def _beside(database: URL) -> str:
    file = sqlite_file(str(database))
    if file is None:
        allowed = "s3://bucket/prefix or a folder, where the records lie in PostgreSQL"
        raise ConfigError(complaint("--artifacts", None, allowed, "add --artifacts s3://bucket/mlflow"))
    return str(file.parent / "mlartifacts")


def _hosts(given: Sequence[str]) -> list[str]:
    """Patterns of Host headers: MLflow compares the whole header, port included."""
    for name in given:
        if not name.strip("*. ") or "/" in name or "," in name:
            allowed = "a host's name or address, with a port or without, such as mlflow.example.org or *.example.org"
            raise ConfigError(complaint("--allowed-host", name, allowed, "name it as clients call it"))
    named = [*LOCAL_HOSTS, *given]
    return [pattern for name in named for pattern in ([name] if _has_port(name) else [name, f"{name}:*"])]


def _has_port(name: str) -> bool:
    return name.rpartition(":")[2].isdigit() and not name.endswith("]")


def _arguments(options: ServerOptions, artifacts: str, hosts: Sequence[str]) -> list[str]:
    # A browser names the page's own address as the origin of its requests; MLflow refuses those that it doesn't know.
    origins = [f"{scheme}://{host}" for host in hosts for scheme in ("http", "https")]
    return [
        *("--app-name", "basic-auth"),
        *("--host", options.host, "--port", str(options.port), "--workers", str(options.workers)),
        *("--serve-artifacts", "--artifacts-destination", artifacts),
        # A bracket is a pattern's own sign.
        *("--allowed-hosts", ",".join(_escaped(hosts)), "--cors-allowed-origins", ",".join(_escaped(origins))),
    ]


def _escaped(patterns: Sequence[str]) -> list[str]:
    return [pattern.replace("[", "[[]", 1) if "*" in pattern else pattern for pattern in patterns]


def _environment(database: URL) -> dict[str, str]:
    """The server's environment; the database's password goes the way that libpq has for it."""
    secrets = {} if database.password is None else {"PGPASSWORD": str(database.password)}
    address = database.set(password=None).render_as_string(hide_password=False)
    config = Path(tempfile.mkdtemp(prefix="epoch14-mlflow-")) / "auth.ini"
    config.write_text(AUTH_CONFIG.format(database=address.replace("%", "%%"), cache_s=CACHE_S), encoding="utf-8")
    settings = {**QUIET, "MLFLOW_AUTH_CONFIG_PATH": str(config)}
    return {**settings, **os.environ, **secrets, BACKEND: address}
