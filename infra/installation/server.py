"""The tracking store: whether it answers, lets us in, and takes a run with an artifact."""

from __future__ import annotations

import secrets
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from infra.installation.clock import clock_finding
from infra.installation.findings import of_error, ok
from infra.installation.folders import probe_folder
from infra.installation.wanted import Wanted
from infra.tracking import check_tracking, dialect_of, open_client, sqlite_file, without_password
from trainables.data.doctor.finding import Finding
from trainables.errors import TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHECK = "tracking"
ARTIFACT = "epoch14-doctor.txt"
ANSWER_TIMEOUT_S = 4.0


def check(wanted: Wanted) -> list[Finding]:
    """Whether the sweep can record its runs."""
    uri = wanted.tracking_uri
    try:
        check_tracking(uri)
    except TrackingError as error:
        return [of_error(CHECK, error)]
    file = sqlite_file(uri)
    if file is not None:
        return _sqlite(file)
    found = [_records(uri, wanted.experiment)]
    if dialect_of(uri) in ("http", "https"):
        clock = clock_finding(f"{uri.rstrip('/')}/health")
        found += [*_version(uri), *([clock] if clock else [])]
    return found


def _sqlite(file: Path) -> list[Finding]:
    """Room in its folder, and the right to write to the file now."""
    found = probe_folder(CHECK, file.parent, "set tracking.uri=sqlite:///FOLDER/mlflow.db")
    if not file.exists():
        return found
    try:
        with closing(sqlite3.connect(file, timeout=ANSWER_TIMEOUT_S)) as store:
            store.execute("BEGIN IMMEDIATE")
            store.rollback()
    except sqlite3.Error as error:
        remedy = "end who holds it, or let this user write to it"
        return [*found, Finding(CHECK, "error", f"{file} can't be written: {error}", remedy)]
    return found


def _version(uri: str) -> list[Finding]:
    """The server's MLflow against the one here; the server tells it to those whom it lets in."""
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.utils.rest_utils import http_request

    store = open_client(uri)._tracking_client.store  # noqa: SLF001 - no public way tells it
    try:
        answer = http_request(
            store.get_host_creds(), "/version", "GET", max_retries=0, timeout=ANSWER_TIMEOUT_S, raise_on_status=False
        )
        there = answer.text.strip()[:50] if answer.ok else ""
    except MlflowException:
        there = ""
    here = mlflow.__version__
    if not there:
        return [Finding(CHECK, "info", f"the server does not tell its version; here is MLflow {here}", "")]
    if there.partition(".")[0] != here.partition(".")[0]:
        remedy = f"start a server of MLflow {here.partition('.')[0]}"
        return [Finding(CHECK, "warning", f"the server is MLflow {there}, here is {here}", remedy)]
    return [ok(CHECK, f"the server is MLflow {there}, here is {here}")]


def _records(uri: str, experiment: str) -> Finding:
    """Make a run with an artifact, read it back, delete the run."""
    from mlflow.exceptions import MlflowException

    shown, client = without_password(uri), open_client(uri)
    try:
        with _experiment(client, experiment) as experiment_id:
            run = client.create_run(experiment_id, run_name="epoch14 doctor", tags={"epoch14.kind": "doctor"})
            try:
                client.log_metric(run.info.run_id, "doctor", 1.0)
                failed = _artifact(client, run.info.run_id)
            finally:
                client.delete_run(run.info.run_id)
    except (MlflowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        remedy = f"give this user the right to edit the experiment {experiment!r}, or see the server's log"
        return Finding(CHECK, "error", f"{shown} takes no run: {reason}", remedy)
    if failed:
        remedy = "see the server's --artifacts-destination: whether its bucket is there and lets the server write"
        return Finding(CHECK, "error", f"{shown} takes runs, but no artifacts: {failed}", remedy)
    return ok(CHECK, f"{shown}: a run and its artifact were written, read and deleted")


@contextmanager
def _experiment(client: MlflowClient, name: str) -> Iterator[str]:
    """The sweep's experiment; where it is still to be made, one for this check alone, which is deleted again."""
    there = client.get_experiment_by_name(name)
    if there is not None and there.lifecycle_stage == "active":
        yield there.experiment_id
        return
    made = client.create_experiment(f"epoch14 doctor {secrets.token_hex(4)}")
    try:
        yield made
    finally:
        client.delete_experiment(made)


def _artifact(client: MlflowClient, run_id: str) -> str:
    """Why an artifact can't be written and read; empty where it can."""
    text = secrets.token_hex(16)
    try:
        client.log_text(run_id, text, ARTIFACT)
        with tempfile.TemporaryDirectory() as folder:
            read = Path(client.download_artifacts(run_id, ARTIFACT, folder)).read_text(encoding="utf-8")
    except Exception as error:  # noqa: BLE001 - each artifact store raises what it likes
        return " ".join(str(error).split())[:200] or type(error).__name__
    return "" if read == text else "what was read is not what was written"
