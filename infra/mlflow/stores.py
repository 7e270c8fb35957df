"""Where a tracking server keeps its records and artifacts: whether the database and the bucket can be used."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.tracking import without_password
from trainables.errors import CheckpointError, TrackingError, complaint
from trainables.places import store_remedy
from trainables.uris import is_uri

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection

KEY = "--backend"
ARTIFACTS = "--artifacts"
TIMEOUT_S = 4
ATTEMPTS = 3
"""Of each question, with growing pauses: S3 that throttles keeps no server from starting."""


def open_database(uri: str) -> URL:
    """The parsed address of an SQLite file, made absolute, or of a PostgreSQL database; raises TrackingError."""
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    allowed = "sqlite:///FILE.db or postgresql://USER@HOST:PORT/NAME"
    remedy = f"correct {KEY}, or MLFLOW_BACKEND_STORE_URI where it is left out"
    try:
        url = make_url(uri)
        dialect, named = url.get_backend_name(), bool(url.database)
    except (ArgumentError, ValueError):
        raise TrackingError(complaint(KEY, without_password(uri), allowed, remedy)) from None
    if dialect not in ("sqlite", "postgresql") or not named:
        raise TrackingError(complaint(KEY, without_password(uri), allowed, remedy))
    if dialect == "sqlite":
        return url.set(database=str(Path(str(url.database)).expanduser().absolute()))
    return url


def check_database(url: URL) -> None:
    """Raise TrackingError, within seconds, unless the database answers and takes tables."""
    from sqlalchemy import create_engine
    from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError

    is_file = url.get_backend_name() == "sqlite"
    try:
        if is_file:
            Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(url, connect_args={} if is_file else {"connect_timeout": TIMEOUT_S})
        try:
            with engine.connect() as connection:
                _check_rights(url, connection)
        finally:
            engine.dispose()
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        allowed = f"a database whose driver is installed ({error})"
        raise TrackingError(complaint(KEY, _shown(url), allowed, "write it as postgresql://...")) from None
    except (SQLAlchemyError, OSError) as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())[:300]
        remedy = "start the database, or correct the address or the password"
        raise TrackingError(complaint(KEY, _shown(url), f"a database that can be used ({reason})", remedy)) from None


def _check_rights(url: URL, connection: Connection) -> None:
    from sqlalchemy import text

    if url.get_backend_name() == "sqlite":
        # The file is opened by the first statement that needs it.
        connection.execute(text("SELECT count(*) FROM sqlite_master"))
        return
    # From PostgreSQL 15 on a new user may make no tables in the schema `public`.
    if not connection.execute(text("SELECT has_schema_privilege(current_schema(), 'CREATE')")).scalar():
        user = url.username or "the user"
        remedy = f"ALTER DATABASE {url.database} OWNER TO {user}, or GRANT CREATE ON SCHEMA public TO {user}"
        raise TrackingError(complaint(KEY, _shown(url), f"a database in which {user} may create tables", remedy))


def _shown(url: URL) -> str:
    return url.render_as_string(hide_password=True)


def check_artifacts(place: str) -> None:
    """Raise CheckpointError unless the bucket is there and lets us in, or the folder can be written."""
    if place.startswith("s3://"):
        _check_bucket(place)
    elif is_uri(place):
        allowed = "s3://bucket/prefix or a folder"
        raise CheckpointError(complaint(ARTIFACTS, place, allowed, "write it as s3://bucket/mlflow"))
    else:
        try:
            Path(place).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place):
                pass
        except OSError as error:
            allowed = f"a folder that can be written ({error.strerror})"
            raise CheckpointError(complaint(ARTIFACTS, place, allowed, "name another folder")) from None


def _check_bucket(place: str) -> None:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

    bucket = place.removeprefix("s3://").partition("/")[0]
    tries = {"mode": "standard", "total_max_attempts": ATTEMPTS}
    quick = Config(connect_timeout=TIMEOUT_S, read_timeout=TIMEOUT_S, retries=tries)
    try:
        # As MLflow makes its own.
        client: Any = boto3.client("s3", endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL"), config=quick)
        client.head_bucket(Bucket=bucket)
    except ClientError as error:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        remedy = store_remedy(f"HTTP status {status}") or "see that S3 works"
        raise CheckpointError(complaint(ARTIFACTS, place, f"a bucket to use (S3 answers {status})", remedy)) from None
    except ParamValidationError:
        raise CheckpointError(
            complaint(ARTIFACTS, place, "s3://bucket/prefix, by a valid name", "correct the bucket's name")
        ) from None
    except (BotoCoreError, ValueError) as error:
        remedy = "export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and AWS_ENDPOINT_URL where it is not Amazon's"
        raise CheckpointError(complaint(ARTIFACTS, place, f"a bucket to use ({error})", remedy)) from None
