"""`epoch14 mlflow-server` for real: SQLite and PostgreSQL, passwords, hosts, artifacts through the proxy to S3."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import pytest
import sqlalchemy

from infra.installation import server
from infra.installation.wanted import Wanted
from infra.tracking import check_tracking, open_client
from infra.tracking_writer import is_passing
from pipelines.cli import main
from tests.s3_proxy import proxy_before
from trainables.errors import TrackingError

if TYPE_CHECKING:
    from tests.infra.mlflow.conftest import Postgres, TeamServer

ADMIN = ("admin", "correct horse battery staple")
DATABASE_PASSWORD = "p@ss/%word: 1"  # noqa: S105 - of the fixture's database
PYTHON_TOKEN = "signs-the-forms-of-the-page"  # noqa: S105 - of the fixture's server
Complain = Callable[..., str]


@pytest.fixture
def as_admin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client's environment: the admin's password, and no credentials of the bucket."""
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", ADMIN[0])
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", ADMIN[1])
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)


def rows(server: TeamServer, query: str) -> list[tuple[object, ...]]:
    """What the server's database holds."""
    engine = sqlalchemy.create_engine(server.backend)
    try:
        with engine.connect() as connection:
            return [tuple(row) for row in connection.execute(sqlalchemy.text(query))]
    finally:
        engine.dispose()


def test_a_password_is_wanted(team_server: TeamServer) -> None:
    """Without a password and with a wrong one the API answers 401, with the right one 200; /health is open."""
    assert team_server.status(user=None) == 401
    assert team_server.status(user=(ADMIN[0], "not the password")) == 401
    assert team_server.status(user=("nobody", ADMIN[1])) == 401
    assert team_server.status() == 200
    assert team_server.status("/health", user=None) == 200


def test_a_sweep_is_told_of_the_password(
    team_server: TeamServer, as_admin: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep that records there needs the password in its environment, and one line says so before it starts."""
    del as_admin
    check_tracking(team_server.uri)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "not the password")
    with pytest.raises(TrackingError, match=r"answers 401; remedy: export MLFLOW_TRACKING_USERNAME"):
        check_tracking(team_server.uri)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("mlflow.example.org", 200),
        ("mlflow.example.org:8443", 200),
        ("localhost:5000", 200),
        ("[::1]:5000", 200),
        ("attacker.example.org", 403),
        ("mlflow.example.org.attacker.org", 403),
        ("10.0.0.5", 403),
    ],
)
def test_hosts(team_server: TeamServer, host: str, status: int) -> None:
    """Only the names that were allowed and the machine's own are answered, on any port; others get 403."""
    assert team_server.status(headers={"Host": host}) == status


@pytest.mark.parametrize(
    ("origin", "status"), [("https://mlflow.example.org", 200), ("https://attacker.example.org", 403)]
)
def test_origins(team_server: TeamServer, origin: str, status: int) -> None:
    """The user interface works under an allowed name, and no other page can use a browser's password."""
    assert team_server.status(headers={"Origin": origin}) == status


def test_an_artifact_lands_in_the_bucket(team_server: TeamServer, as_admin: None, models: Any, tmp_path: Path) -> None:
    """A client with nothing but the password logs a run: its records are in the database, its artifact in S3."""
    del as_admin
    (tmp_path / "note.txt").write_text("through the proxy", encoding="utf-8")
    client = open_client(team_server.uri)
    run = client.create_run(client.create_experiment("proxied"), run_name="a run")
    client.log_metric(run.info.run_id, "loss", 0.25, step=7)
    client.log_artifact(run.info.run_id, str(tmp_path / "note.txt"))
    key = f"of-the-team/{run.info.experiment_id}/{run.info.run_id}/artifacts/note.txt"
    assert models.Object(key).get()["Body"].read() == b"through the proxy"
    assert run.info.artifact_uri.startswith("mlflow-artifacts:/")
    back = client.download_artifacts(run.info.run_id, "note.txt", str(tmp_path))
    assert Path(back).read_text(encoding="utf-8") == "through the proxy"
    found = f"SELECT key, value, step FROM metrics WHERE run_uuid = '{run.info.run_id}'"  # noqa: S608 - our own id
    assert rows(team_server, found) == [("loss", 0.25, 7)]


@pytest.mark.usefixtures("as_admin")
def test_artifacts_while_s3_is_in_trouble(team_server: TeamServer, models: Any) -> None:
    """Throttling and a dropped connection are the server's to bear; expired credentials it tells after few requests."""
    client = open_client(team_server.uri)
    run = client.create_run(client.create_experiment(f"in trouble {team_server.port}"))
    key = f"of-the-team/{run.info.experiment_id}/{run.info.run_id}/artifacts"
    for kind in ("SlowDown", "drop"):
        trouble = team_server.bucket.fail(kind, 2, methods=("PUT",))
        client.log_text(run.info.run_id, kind * 1000, f"{kind}.txt")
        assert trouble.seen == 2
        assert models.Object(f"{key}/{kind}.txt").get()["Body"].read() == kind.encode() * 1000
    expired = team_server.bucket.fail("ExpiredToken", methods=("PUT",))
    try:
        with pytest.raises(Exception, match=r".") as caught:
            client.log_text(run.info.run_id, "never there", "late.txt")
    finally:
        team_server.bucket.fault = None
    assert expired.seen <= 4
    assert is_passing(caught.value)
    client.log_text(run.info.run_id, "there again", "late.txt")
    assert models.Object(f"{key}/late.txt").get()["Body"].read() == b"there again"


def test_users_have_their_own_rights(team_server: TeamServer, as_admin: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new user reads what others recorded, can't delete it (403), and lies in the records' database."""
    del as_admin
    from mlflow.exceptions import MlflowException

    experiment = open_client(team_server.uri).create_experiment("the admin's")
    account = {"username": "reader", "password": "reads but does not write"}
    assert team_server.status("/api/2.0/mlflow/users/create", body=account) == 200
    assert {("admin",), ("reader",)} <= set(rows(team_server, "SELECT username FROM users"))
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "reader")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", account["password"])
    reader = open_client(team_server.uri)
    assert reader.get_experiment(experiment).name == "the admin's"
    with pytest.raises(MlflowException, match=r"403.*Permission denied"):
        reader.delete_experiment(experiment)


@pytest.mark.usefixtures("as_admin")
def test_the_doctor_of_a_client(team_server: TeamServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves no run and no experiment behind; where the password is wrong, it says what to export."""
    found = server.check(Wanted(storage="outputs", tracking_uri=team_server.uri, experiment="doctored"))
    assert [finding.severity for finding in found] == ["ok", "ok", "ok"]
    assert found[0].summary == f"{team_server.uri}: a run and its artifact were written, read and deleted"
    assert f"the server is MLflow {mlflow.__version__}" in found[1].summary
    assert not [each for each in open_client(team_server.uri).search_experiments() if "doctor" in each.name]
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a guess")
    (refused,) = server.check(Wanted(storage="outputs", tracking_uri=team_server.uri))
    assert (refused.severity, "this one answers 401" in refused.summary) == ("error", True)
    assert "export MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in refused.remedy


def test_a_changed_password_counts_at_once(team_server: TeamServer) -> None:
    """A worker that remembers the passwords it has checked forgets one that is changed or whose user is deleted."""
    old, new = ("leaver", "an old password of mine"), ("leaver", "a new password of mine")
    account = {"username": old[0], "password": old[1]}
    assert team_server.status("/api/2.0/mlflow/users/create", body=account) == 200
    assert team_server.status(user=old) == 200
    change = {"username": new[0], "password": new[1]}
    assert team_server.status("/api/2.0/mlflow/users/update-password", body=change, method="PATCH") == 200
    assert (team_server.status(user=old), team_server.status(user=new)) == (401, 200)
    gone = {"username": new[0]}
    assert team_server.status("/api/2.0/mlflow/users/delete", body=gone, method="DELETE") == 200
    assert team_server.status(user=new) == 401


def test_no_secret_is_on_a_command_line_or_in_a_file(team_server: TeamServer) -> None:
    """Neither the processes' command lines nor the file with the settings of the passwords hold a secret."""
    secrets = (ADMIN[1], PYTHON_TOKEN, DATABASE_PASSWORD, "p%40ss", "the-servers-own")
    family = team_server.family()
    lines = "\n".join(" ".join(process.cmdline()) for process in family)
    settings = Path(family[0].environ()["MLFLOW_AUTH_CONFIG_PATH"])
    assert "basic-auth" in lines
    assert "database_uri" in settings.read_text(encoding="utf-8")
    assert [secret for secret in secrets if secret in lines + settings.read_text(encoding="utf-8")] == []
    assert settings.parent.stat().st_mode & 0o077 == 0


@pytest.fixture
def complain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Complain:
    """Starts a server that can't start: the line that it ends with."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.execve", lambda *_: pytest.fail("the server was started"))
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", ADMIN[1])
    monkeypatch.setenv("MLFLOW_FLASK_SERVER_SECRET_KEY", PYTHON_TOKEN)
    monkeypatch.delenv("MLFLOW_BACKEND_STORE_URI", raising=False)

    def run(*options: str, **environment: str) -> str:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        assert main(["mlflow-server", "--port", "0", *options]) == 2
        written = capfd.readouterr()
        (line,) = written.err.splitlines()
        assert written.out == ""
        return line

    return run


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("MLFLOW_AUTH_ADMIN_PASSWORD", "", "'unset' is not allowed; allowed: a secret of at least 12 characters"),
        ("MLFLOW_AUTH_ADMIN_PASSWORD", "short", "'5 characters' is not allowed"),
        ("MLFLOW_AUTH_ADMIN_PASSWORD", "password1234", "MLflow's old default"),
        ("MLFLOW_FLASK_SERVER_SECRET_KEY", "", "remedy: export MLFLOW_FLASK_SERVER_SECRET_KEY=$(openssl rand -hex 16)"),
    ],
)
def test_secrets_are_wanted(complain: Complain, name: str, value: str, says: str) -> None:
    """A missing, short or well-known secret is one line that doesn't repeat it."""
    line = complain(**{name: value})
    assert name in line
    assert says in line
    assert not value or value not in line


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--backend", "mysql://somewhere/records"], "--backend: 'mysql://somewhere/records' is not allowed"),
        (["--backend", "nonsense"], "allowed: sqlite:///FILE.db or postgresql://"),
        (["--backend", "sqlite://"], "allowed: sqlite:///FILE.db"),
        (["--backend", "sqlite:////proc/none/mlflow.db"], "a database that can be used"),
        (["--backend", "sqlite:///server.log"], "file is not a database"),
        (["--backend", "postgresql://me:secret@h/records"], "export MLFLOW_BACKEND_STORE_URI with the whole address"),
        (["--backend", "postgresql://me@127.0.0.1:1/records"], "add --artifacts s3://bucket/mlflow"),
        (["--backend", "postgresql://me@127.0.0.1:1/records", "--artifacts", "here"], "remedy: start the database"),
        (["--backend", "postgresql+pg8000://me@127.0.0.1/r", "--artifacts", "here"], "whose driver is installed"),
        (["--artifacts", "gs://bucket/models"], "--artifacts: 'gs://bucket/models'"),
        (["--artifacts", "/proc/none"], "a folder that can be written"),
        (["--allowed-host", "*"], "--allowed-host: '*' is not allowed"),
        (["--allowed-host", "https://mlflow.example.org"], "name it as clients call it"),
        (["--port", "70000"], "--port: 70000 is not allowed"),
    ],
)
def test_options_that_will_not_do(complain: Complain, tmp_path: Path, options: list[str], says: str) -> None:
    """Each is one line with the remedy, no password in it, before a server starts."""
    (tmp_path / "server.log").write_text("this is a log and no database " * 40, encoding="utf-8")
    line = complain(*options)
    assert says in line
    assert "secret@" not in line


def test_a_bucket_that_will_not_do(complain: Complain, s3_server: str) -> None:
    """A bucket that isn't there, a name that is none, and S3 that doesn't answer are told apart."""
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    line = complain("--artifacts", "s3://no-such-bucket/models", AWS_ENDPOINT_URL=s3_server, **keys)
    assert "--artifacts: 's3://no-such-bucket/models' is not allowed; allowed: a bucket to use (S3 answers 404)" in line
    assert "remedy: make the bucket, or correct its name" in line
    with proxy_before(s3_server) as proxy:
        proxy.fail("ExpiredToken")
        line = complain("--artifacts", "s3://models/m", AWS_ENDPOINT_URL=proxy.url, **keys)
        assert "(S3 answers 400); remedy: renew the credentials" in line
    assert "correct the bucket's name" in complain("--artifacts", "s3://No Bucket/")
    line = complain("--artifacts", "s3://models", AWS_ENDPOINT_URL="http://127.0.0.1:1")
    assert "Could not connect" in line


def test_a_database_that_lets_nobody_in(complain: Complain, postgres: Postgres) -> None:
    """A wrong password, and a user who may make no tables, are found before the server starts."""
    wrong = complain("--artifacts", "here", MLFLOW_BACKEND_STORE_URI=postgres.uri(password="wrong-one"))  # noqa: S106 - wrong
    assert "password authentication failed" in wrong
    assert "wrong-one" not in wrong
    guest = complain("--artifacts", "here", MLFLOW_BACKEND_STORE_URI=postgres.uri("guest", "guest"))
    assert "GRANT CREATE ON SCHEMA public TO guest" in guest


def test_sigterm_ends_it(team_server: TeamServer) -> None:
    """A container's end is the server's end: no process of it is left."""
    family = team_server.family()
    assert len(family) > 1
    team_server.stop()
    assert [process for process in family if process.is_running()] == []
