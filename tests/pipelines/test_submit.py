"""Sweeps as jobs on a real Ray cluster: started here with `ray start --head`, with a token, ended at the end."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import ray

from infra.installation.wanted import Wanted
from pipelines.submit import RECORD, RESULTS, entrypoint, submit_sweep
from trainables.errors import ClusterError, ConfigError

if TYPE_CHECKING:
    from tests.pipelines.conftest import Proxy, RunningCluster

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
LONG = (
    *("--set", "max_steps=400", "--set", "eval_every=400", "--set", "detector.enabled=false"),
    *("--set", "space={optim.lr: [0.01]}"),
)
"""One trial that takes long enough to be interrupted."""


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
    assert "go on with" not in ended.stdout
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
    monkeypatch.setattr("infra.job_server.CONNECT_TIMEOUT_S", 0.2)
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
    command = [cluster.laptop, "-c", code, cluster.address]
    ended = subprocess.run(
        command, cwd=ROOT, env=cluster.environment, check=True, capture_output=True, text=True, timeout=120
    )
    files = {line for line in ended.stdout.splitlines() if line.startswith("./")}
    assert {"./trainables/data/index.py", "./pipelines/cli.py", "./requirements.lock", "./tests/conftest.py"} <= files
    heads = {file.split("/")[1] for file in files}
    assert heads & {".git", ".venv", "data", "outputs", ".mypy_cache"} == set()
    assert [file for file in files if file.endswith(".pyc")] == []


def test_the_log_outlives_a_lost_connection(cluster: RunningCluster, proxy: Proxy, tmp_path: Path) -> None:
    """A tunnel that is cut in the middle of the log and comes back costs no line and repeats none."""
    lines = [f"line {number}" for number in range(60)]
    job = cluster.submit("for k in $(seq 0 59); do echo line $k; sleep 0.2; done; exit 7", tmp_path)
    with cluster.start_epoch14("job", "logs", job, "--follow", "--address", proxy.address) as follower:
        assert follower.stdout is not None
        assert follower.stderr is not None
        seen = [next(follower.stdout).rstrip() for _ in range(5)]
        proxy.cut()
        assert next(follower.stderr).startswith("epoch14: no connection to the cluster (")
        proxy.restore()
        assert next(follower.stderr) == "epoch14: connected again\n"
        rest, errors = follower.stdout.read(), follower.stderr.read()
    assert [line for line in [*seen, *rest.splitlines()] if line.startswith("line ")] == lines
    assert "job: failed: " in rest
    assert (follower.returncode, errors) == (7, "")


def test_a_log_is_followed_without_streams(cluster: RunningCluster, proxy: Proxy, tmp_path: Path) -> None:
    """Connections that break again and again, as behind a proxy without WebSockets, still give each line once."""
    job = cluster.submit("for k in $(seq 0 39); do echo line $k; sleep 0.2; done", tmp_path)
    with cluster.start_epoch14("job", "logs", job, "--follow", "--address", proxy.address) as follower:
        assert follower.stdout is not None
        seen = []
        for _ in range(5):
            seen += [next(follower.stdout).rstrip() for _ in range(3)]
            proxy.break_all()
        rest = follower.stdout.read()
    shown = [line for line in [*seen, *rest.splitlines()] if line.startswith("line ")]
    assert shown == [f"line {number}" for number in range(40)]
    assert follower.returncode == 0


def wait_for_step(submitter: subprocess.Popen[str], least: int) -> str:
    """What `submit` prints until a trial has done so many steps."""
    assert submitter.stdout is not None
    log = ""
    while max(map(int, re.findall(r": step (\d+)/", log)), default=0) < least:
        line = submitter.stdout.readline()
        assert line, log
        log += line
    return log


def test_a_sweep_is_stopped(cluster: RunningCluster, sweep_file: str) -> None:
    """`job stop` ends a running sweep in order, with a checkpoint; it and `submit` tell the command that goes on."""
    at = ("--address", cluster.address)
    with cluster.start_epoch14("submit", sweep_file, *at, *LONG, "--set", "storage=stopped") as submitter:
        assert submitter.stdout is not None
        log = wait_for_step(submitter, 3)
        [job] = re.findall(r"^job: (\w+) on ", log)
        status = cluster.epoch14("job", "status", job, *at).stdout
        stopped = cluster.epoch14("job", "stop", job, *at)
        log += submitter.stdout.read()
    [folder] = set(RESULTS.findall(log))
    home = cluster.environment["HOME"]
    assert folder.startswith(f"{home}/epoch14/stopped/submitted-")
    assert list(Path(folder).glob("train/*/checkpoints/step-*/manifest.json"))
    assert f"results: {folder}\n" in status
    assert "job: running: " in status
    assert f"MLflow: sqlite:///{home}/epoch14/stopped/mlflow.db" in status
    assert (stopped.returncode, stopped.stderr) == (0, "")
    assert stopped.stdout.startswith("job: stopped: ")
    go_on = f"go on with: epoch14 submit {sweep_file} --address {cluster.address} "
    assert [line.endswith(f" --resume {folder}") for line in log.splitlines() if line.startswith(go_on)] == [True]
    assert go_on in stopped.stdout
    assert "epoch14: interrupted: go on with: " in log


def test_jobs_are_listed_and_unknown_ones_are_refused(cluster: RunningCluster, tmp_path: Path) -> None:
    """`job status` alone lists what runs; an unknown id and a folder that isn't the head's are refused in one line."""
    at = ("--address", cluster.address)
    job = cluster.submit("echo of no sweep", tmp_path)
    listed = cluster.epoch14("job", "status", *at).stdout
    assert re.search(rf"{job} +\w+ .* echo of no sweep", listed)
    for command in ("status", "logs", "stop"):
        ended = cluster.epoch14("job", command, "epoch14_none", *at)
        assert ended.returncode == 2
        [line] = ended.stderr.splitlines()
        assert line.startswith("epoch14: error: JOB: 'epoch14_none' is not allowed; allowed: a job of the cluster at ")
        assert job in line
    with pytest.raises(ConfigError, match=r"^--resume: 'outputs/x' is not allowed; .* absolute path on the head"):
        submit_sweep("schedule", [], address=cluster.address, resume="outputs/x")


def test_the_doctor_finds_the_cluster(cluster: RunningCluster, tmp_path: Path) -> None:
    """Its Ray's version is told to whom the cluster lets in; to others, what it wants."""
    wanted = Wanted(storage="outputs", tracking_uri="sqlite:///none.db", address=cluster.address)
    (tmp_path / "wanted.json").write_text(wanted.to_json(), encoding="utf-8")
    command = [cluster.laptop, "-m", "infra.installation", "cluster", str(tmp_path)]
    told = []
    stranger = {name: value for name, value in cluster.environment.items() if name != "RAY_AUTH_MODE"}
    for environment in (cluster.environment, stranger):
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=120)
        told += json.loads((tmp_path / "cluster.json").read_text(encoding="utf-8"))
    assert [each["severity"] for each in told] == ["ok", "error"]
    assert f"the cluster at {cluster.address} takes jobs: Ray {ray.__version__}, " in told[0]["summary"]
    assert "it wants a token" in told[1]["summary"]
