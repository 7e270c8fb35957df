"""Sweeps as jobs on a real Ray cluster: started here with `ray start --head`, with a token, ended at the end."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipelines.submit import RECORD, entrypoint, submit_sweep
from trainables.errors import ClusterError

ROOT = Path(__file__).resolve().parents[2]
SWEEP = """\
name: submitted
trial:
  max_steps: 3
  global_batch_size: 8
  threads: 1
  eval_every: 3
  report_every: 3
  model: {name: resnet18, width: 0.5, norm: gn}
  data: {image_size: 16}
  precision: {channels_last: false}
  schedule: {kind: constant}
  diagnosis: {enabled: false}
space: {optim.lr: [0.01, 0.02]}
resources: {cpus_per_worker: 1}
"""


@dataclass(frozen=True)
class RunningCluster:
    """A cluster of one head node on this machine."""

    address: str
    """Of the dashboard."""
    environment: dict[str, str]
    """Of a client that holds the token."""

    def epoch14(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run the command as a user would, with changes to the environment (an empty value takes a variable away)."""
        environment = {name: value for name, value in (self.environment | changes).items() if value}
        command = [sys.executable, "-m", "pipelines", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True, timeout=240
        )


def free_ports(count: int) -> list[str]:
    """Ports that nothing listens on now.

    They lie below those that the kernel hands out: Ray takes half a minute to bind them, and one that is gone by then
    ends the whole cluster.
    """
    found: list[str] = []
    for port in secrets.SystemRandom().sample(range(20_000, 32_000), 100):
        with contextlib.suppress(OSError):
            socket.create_server(("127.0.0.1", port)).close()
            found.append(str(port))
    return found[:count]


def wait_for_dashboard(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when the dashboard answers, if only to ask for the token."""
    for _ in range(600):
        assert process.poll() is None, log.read_text(encoding="utf-8")
        try:
            urllib.request.urlopen(f"{address}/api/version", timeout=2).close()  # noqa: S310 - our own address
        except urllib.error.HTTPError as error:
            error.close()
            return
        except OSError:
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"no dashboard at {address}: {log.read_text(encoding='utf-8')}")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, digits_cache: Path) -> Iterator[RunningCluster]:
    """`ray start --head` with a token, on free ports and in a folder of its own."""
    home = tmp_path_factory.mktemp("home")
    token = home / "auth_token"
    token.write_text(secrets.token_hex(32), encoding="utf-8")
    token.chmod(0o600)
    # Ray's sockets lie below it, and a socket's path has 107 characters at most.
    scratch = tempfile.mkdtemp(prefix="e14-", dir="/tmp")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        "EPOCH14_CACHE": str(digits_cache),
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    port, dashboard, agent, client = free_ports(4)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--temp-dir", scratch]
    command += ["--num-cpus", "2", "--object-store-memory", str(128 * 2**20)]
    command += ["--port", port, "--dashboard-host", "127.0.0.1", "--dashboard-port", dashboard]
    command += ["--dashboard-agent-listen-port", agent, "--ray-client-server-port", client]
    log = home / "ray-start.log"
    with log.open("wb") as output:
        head = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    address = f"http://127.0.0.1:{dashboard}"
    try:
        wait_for_dashboard(address, head, log)
        yield RunningCluster(address, environment)
    finally:
        head.send_signal(signal.SIGTERM)
        try:
            head.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
            head.wait()
        shutil.rmtree(scratch, ignore_errors=True)


@pytest.fixture(scope="module")
def sweep_file() -> Iterator[str]:
    """A tiny sweep of two trials, in the working tree, which is all that the cluster gets."""
    with tempfile.NamedTemporaryFile("w", dir=ROOT / "tests", prefix="submitted-", suffix=".yaml") as file:
        file.write(SWEEP)
        file.flush()
        yield file.name


@pytest.mark.parametrize(
    ("storage", "added"),
    [
        ("/mnt/results", ""),
        ("s3://bucket/results", ""),
        ("my outputs", """ --set "storage=$HOME"/'epoch14/my outputs'"""),
    ],
)
def test_results_outlive_the_jobs_folder(storage: str, added: str) -> None:
    """Storage that is absolute stays; a relative one goes to the head node's home, for Ray deletes a job's folder."""
    command, _ = entrypoint("stories/a", ["optim.lr=[1, 2]"], storage)
    assert command == "python -m pipelines sweep stories/a --address auto --set 'optim.lr=[1, 2]'" + added


def test_sweep_runs_on_the_cluster(cluster: RunningCluster, sweep_file: str) -> None:
    """`epoch14 submit` streams the job's log, exits with 0 and says where in MLflow the sweep and its trials are."""
    ended = cluster.epoch14(
        "submit", sweep_file, "--address", cluster.address, "--set", "tracking.experiment=submitted"
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stderr == ""
    assert "val top-1" in ended.stdout
    *_, where = RECORD.findall(ended.stdout)
    uri = f"sqlite:///{cluster.environment['HOME']}/epoch14/outputs/mlflow.db"
    assert where.startswith(uri)
    from infra.tracking import open_client

    client = open_client(uri)
    experiment = client.get_experiment_by_name("submitted")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert [run.info.run_id in where for run in parents] == [True]
    assert sorted(run.data.params["optim.lr"] for run in children) == ["0.01", "0.02"]
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_exit_code_follows_the_job(cluster: RunningCluster, sweep_file: str) -> None:
    """A mistake that only the cluster sees ends the job in its one line, and `epoch14 submit` with the job's code.

    The job goes where --address says, though RAY_ADDRESS, which Ray itself would prefer, says otherwise.
    """
    wrong = ("--set", "data.path=/no/such/folder")
    ended = cluster.epoch14(
        "submit", sweep_file, "--address", cluster.address, *wrong, RAY_ADDRESS="http://127.0.0.1:1"
    )
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert [
        line for line in ended.stdout.splitlines() if line.startswith("epoch14: error: data.path: '/no/such/folder'")
    ]
    assert "MLflow: nothing was recorded" in ended.stdout


def test_cluster_wants_its_token(cluster: RunningCluster, sweep_file: str) -> None:
    """Without the cluster's token a job is refused in one line that says where the token belongs."""
    ended = cluster.epoch14("submit", sweep_file, "--address", cluster.address, RAY_AUTH_MODE="")
    assert ended.returncode == 2
    [line] = ended.stderr.splitlines()
    assert line.startswith(f"epoch14: error: --address: '{cluster.address}' is not allowed")
    assert "RAY_AUTH_MODE=token" in line


def test_server_that_never_answers(sweep_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that takes the connection and stays silent is given up, though Ray's own client would wait for ever."""
    monkeypatch.setattr("infra.jobs.CONNECT_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ClusterError, match=r"that answers \(.*timed out"):
            submit_sweep(sweep_file, [], address=address)


def test_working_tree_is_sent_without_what_does_not_belong(cluster: RunningCluster) -> None:
    """The job finds the code and the lock; git's folder, the environment, data, outputs and ignored files stay here."""
    code = (
        "import sys; from infra.jobs import submit_job; from pipelines.submit import EXCLUDED, ROOT; "
        # Without the log it is another package than the sweep's, whose job has left bytecode in it.
        "excludes = (*EXCLUDED, '/LOG.md'); "
        "submit_job(sys.argv[1], 'find . -type f', working_dir=ROOT, excludes=excludes).follow(sys.stdout.write)"
    )
    command = [sys.executable, "-c", code, cluster.address]
    ended = subprocess.run(
        command, cwd=ROOT, env=cluster.environment, check=True, capture_output=True, text=True, timeout=120
    )
    files = {line for line in ended.stdout.splitlines() if line.startswith("./")}
    assert {"./trainables/data/index.py", "./pipelines/cli.py", "./requirements.lock", "./tests/conftest.py"} <= files
    heads = {file.split("/")[1] for file in files}
    assert heads & {".git", ".venv", "data", "outputs", ".mypy_cache"} == set()
    assert [file for file in files if file.endswith(".pyc")] == []
