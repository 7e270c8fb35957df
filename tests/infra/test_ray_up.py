"""`ray up` of the repository's own ray_cluster.yaml, by Ray's AWS provider on simulated EC2; an instance is namespaces.

Up, submit, scale up to spot nodes, lose one in the middle of a trial, finish, scale down, down. Not covered: real AWS,
real GPUs (the nodes' are logical), EFA, and the two minutes of a spot instance's notice. `--log-cli-level=INFO` shows
the course of events with wall times.
"""

from __future__ import annotations

import json
import logging
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
import yaml
from botocore.exceptions import ClientError
from mlflow.entities import Run

from infra.tracking import open_client
from tests.infra.cluster.bridge import ADDRESS, namespaces
from tests.infra.cluster.config import ROOT
from tests.infra.cluster.laptop import end, status
from tests.infra.cluster.node import Node
from tests.infra.cluster.simulation import BUCKET, Simulation, simulation, why_not
from tests.infra.conftest import MlflowServer

log = logging.getLogger(__name__)
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

STEPS = 61
"""One more than a checkpoint's, to see that what is trained on from it is the same too."""
EVERY = 10
HOLD = 25
"""Step at which a node is lost."""
MLFLOW_PORT = 5000
WITNESS = "tests.infra.cluster.witness:witness"
LIMIT_S = 600.0


def sweep(folder: Path) -> dict[str, Any]:
    """Two trials that train the same weights, each on two nodes of its own; one is to lose a node."""
    trial = {
        "max_steps": STEPS,
        "global_batch_size": 8,
        "threads": 1,
        "eval_every": STEPS,
        "report_every": EVERY,
        "device": "cpu",
        "model": {"name": "resnet18", "width": 0.5, "norm": "gn"},
        "data": {"image_size": 16},
        "precision": {"channels_last": False},
        "schedule": {"kind": "constant"},
        "diagnosis": {"enabled": False},
        "checkpoint": {"every": EVERY},
    }
    witnesses = [
        [{"use": WITNESS, "params": {"folder": str(folder), "name": name, "hold": HOLD}}]
        for name in ("lost", "undisturbed")
    ]
    return {
        "name": "spot",
        "trial": trial,
        "space": {"faults": witnesses},
        "search": {"max_concurrent": 2},
        "resources": {"workers": 2, "cpus_per_worker": 1, "gpus_per_worker": 4, "placement": "strict_spread"},
        "checkpoints": f"s3://{BUCKET}/checkpoints",
    }


def wait_for(condition: Callable[[], bool], what: str, limit_s: float = LIMIT_S) -> None:
    """Return when it holds."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"no {what} in {limit_s:g} s"
        time.sleep(0.3)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, digits_cache: Path) -> Iterator[Simulation]:
    """The cluster, after `ray up`."""
    if reason := why_not():
        pytest.skip(reason)
    with simulation(tmp_path_factory.mktemp("cluster"), {"EPOCH14_CACHE": str(digits_cache)}) as simulated:
        log.info("ray up")
        simulated.laptop.ray("up", "--yes", "--no-config-cache", str(simulated.file))
        log.info("ray up has ended")
        yield simulated


@pytest.fixture(scope="module")
def head(cluster: Simulation) -> Node:
    """The head's node."""
    (instance,) = (
        one["InstanceId"]
        for one in cluster.machines.running()
        if {"Key": "ray-node-type", "Value": "head"} in one["Tags"]
    )
    return cluster.machines.nodes[instance]


@dataclass(frozen=True)
class Swept:
    """What the sweep left, and what happened in it."""

    folder: Path
    output: str
    exit_code: int
    lost_instance: str
    tracking_uri: str
    markets: tuple[str, ...]
    """Of every worker node that the autoscaler started."""

    def steps(self, name: str, rank: int) -> list[tuple[int, str]]:
        """(step, node) as that rank of that trial ran them."""
        return witnessed(self.folder, name, rank)

    def runs(self) -> list[Run]:
        """The runs in MLflow: the sweep's first, then the trials' by id."""
        client = open_client(self.tracking_uri)
        experiment = client.get_experiment_by_name("epoch14")
        assert experiment is not None
        return sorted(client.search_runs([experiment.experiment_id]), key=lambda run: run.data.tags.get("trial_id", ""))


def witnessed(folder: Path, name: str, rank: int) -> list[tuple[int, str]]:
    """(step, node) as that rank of that trial has run them so far."""
    file = folder / f"{name}-{rank}.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    entries = [json.loads(line) for line in lines]
    processes = [list(group) for _, group in groupby(entries, key=lambda entry: (entry["node"], entry["process"]))]
    # As a run is set up it asks for step 0, to see what there is.
    return [(entry["step"], entry["node"]) for process in processes for entry in process[1:]]


def checkpoints(cluster: Simulation, step: int) -> list[str]:
    """Keys of the manifests of the trials' checkpoints at that step."""
    found = cluster.keys["owner"].client("s3").list_objects_v2(Bucket=BUCKET, Prefix="checkpoints/")
    name = f"step-{step:09d}/manifest.json"
    return [one["Key"] for one in found.get("Contents", []) if one["Key"].endswith(name)]


@pytest.fixture(scope="module")
def tracking(cluster: Simulation, empty_store: Path) -> Iterator[str]:
    """URI of an MLflow server on the bridge, where the nodes reach it."""
    server = MlflowServer(cluster.folder / "mlflow", MLFLOW_PORT, ADDRESS)
    server.folder.mkdir()
    shutil.copy(empty_store, server.folder / "server.db")
    try:
        server.start()
        yield server.uri
    finally:
        server.kill()


@pytest.fixture(scope="module")
def swept(cluster: Simulation, tracking: str) -> Swept:
    """`epoch14 submit` through `ray dashboard`; a node of the first trial is taken away after its second checkpoint."""
    folder = cluster.folder / "witness"
    folder.mkdir()
    output = cluster.folder / "submit.log"
    with (
        tempfile.NamedTemporaryFile("w", dir=ROOT / "tests", prefix="submitted-", suffix=".yaml") as file,
        cluster.laptop.dashboard(cluster.file, cluster.folder / "dashboard.log") as address,
    ):
        file.write(yaml.safe_dump(sweep(folder)))
        file.flush()
        log.info("epoch14 submit")
        job = cluster.laptop.submit(output, file.name, address, "--set", f"tracking.uri={tracking}")
        try:
            held = [(name, rank) for name in ("lost", "undisturbed") for rank in (0, 1)]
            wait_for(
                lambda: (
                    job.poll() is not None
                    or (
                        all(len(witnessed(folder, *one)) == HOLD + 1 for one in held)
                        and len(checkpoints(cluster, HOLD - HOLD % EVERY)) == 2
                    )
                ),
                "two trials with checkpoints",
            )
            assert job.poll() is None, output.read_text()
            _, node = witnessed(folder, "lost", 0)[-1]
            (lost,) = (one for one in cluster.machines.nodes if node.endswith(one[-8:]))
            log.info("both trials are at step %d; %s, with rank 0 of the first, is taken away", HOLD, lost)
            cluster.machines.reclaim(lost)
            wait_for(lambda: lost not in cluster.machines.nodes, "end of a node", 30)
            (folder / "lost.go").touch()
            wait_for(
                lambda: job.poll() is not None or len(witnessed(folder, "lost", 0)) > HOLD + 1,
                "going on of the trial that lost a node",
            )
            log.info("the first trial goes on; the second is let go")
            (folder / "undisturbed.go").touch()
            code = job.wait(timeout=LIMIT_S)
        finally:
            end(job)
    log.info("the sweep has ended with exit code %d", code)
    markets = tuple(cluster.machines.markets.values())[1:]
    return Swept(folder, output.read_text(encoding="utf-8"), code, lost, tracking, markets)


def test_dashboard_is_on_the_head_only(cluster: Simulation, head: Node) -> None:
    """From another namespace SSH is reached and the dashboard is not, on the head's address or any of its ports."""
    folder = cluster.folder / "stranger"
    stranger = Node("i-00stranger", "172.31.200.200", folder)
    stranger.start("", Path(sys.prefix), {})
    try:
        reach = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5)"
        command = ["ip", "netns", "exec", stranger.name, sys.executable, "-c", reach, head.address]
        ended = {
            port: subprocess.run([*command, str(port)], check=False, capture_output=True, text=True, timeout=60)
            for port in (22, 8265)
        }
    finally:
        stranger.end()
    assert ended[22].returncode == 0, ended[22].stderr
    assert "ConnectionRefusedError" in ended[8265].stderr
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((head.address, 8265), timeout=5)


def test_api_wants_the_token(cluster: Simulation) -> None:
    """Through the tunnel, 401 without the token, 403 with another one, and the list of jobs with the right one."""
    with cluster.laptop.dashboard(cluster.file, cluster.folder / "tunnel.log") as address:
        assert status(address) == 401
        assert status(address, "0" * 64) == 403
        assert status(address, cluster.laptop.token) == 200


def test_roles_are_narrow(cluster: Simulation) -> None:
    """All of this runs with keys that may do what infra/aws says: what it doesn't say is refused."""
    with pytest.raises(ClientError, match="not authorized to perform: ec2:DescribeInstances"):
        cluster.keys["worker"].client("ec2").describe_instances()
    with pytest.raises(ClientError, match="not authorized to perform: iam:CreateUser"):
        cluster.keys["head"].client("iam").create_user(UserName="me-too")
    with pytest.raises(ClientError, match="Access Denied"):
        cluster.keys["worker"].client("s3").create_bucket(
            Bucket="mine", CreateBucketConfiguration={"LocationConstraint": "us-west-2"}
        )


def test_sweep_finishes_on_spot_nodes(swept: Swept) -> None:
    """The autoscaler starts a spot node for each of the four workers and one for the lost node; both trials finish."""
    assert swept.exit_code == 0, swept.output
    assert set(swept.markets) == {"spot"}
    assert len(swept.markets) >= 5
    assert f"MLflow: {swept.tracking_uri}/#/experiments/" in swept.output


def test_trial_goes_on_from_its_checkpoint_on_other_nodes(swept: Swept) -> None:
    """Each rank goes back to the last checkpoint before the loss, and on from there, on two other nodes than before."""
    again = HOLD - HOLD % EVERY
    after = set()
    for rank in (0, 1):
        ran = swept.steps("lost", rank)
        steps = [step for step, _ in ran]
        back = len(steps) - (STEPS - again)
        # The survivor is a few steps ahead when it hears of the loss.
        assert HOLD < back <= HOLD + EVERY
        assert steps == [*range(back), *range(again, STEPS)]
        after |= {node for _, node in ran[back:]}
    assert len(after) == 2
    assert not any(node.endswith(swept.lost_instance[-8:]) for node in after)


def test_no_other_trial_is_disturbed(swept: Swept) -> None:
    """The other trial, which ran at the same time, runs each step once, on the two nodes that it started on."""
    nodes = set()
    for rank in (0, 1):
        ran = swept.steps("undisturbed", rank)
        assert [step for step, _ in ran] == list(range(STEPS))
        nodes |= {node for _, node in ran}
    assert len(nodes) == 2


def test_weights_equal_an_undisturbed_runs(cluster: Simulation, swept: Swept) -> None:
    """Both trials' checkpoints before the last step hold the same bytes, by their BLAKE2b; the last scores the same."""
    assert swept.exit_code == 0
    client = cluster.keys["owner"].client("s3")
    manifests = [
        json.loads(client.get_object(Bucket=BUCKET, Key=key)["Body"].read()) for key in checkpoints(cluster, STEPS - 1)
    ]
    digests = [manifest["files"]["state.safetensors"]["blake2b"] for manifest in manifests]
    log.info("BLAKE2b of weights and optimizer: %s", digests)
    assert len(digests) == 2
    assert digests[0] == digests[1]
    scores = {(run.data.metrics["loss"], run.data.metrics["val_top1"]) for run in swept.runs()[1:]}
    assert len(scores) == 1


def test_mlflow_has_one_run_a_trial(swept: Swept) -> None:
    """The sweep and its two trials, all finished, with the loss of each step once."""
    runs = swept.runs()
    assert [run.info.status for run in runs] == ["FINISHED"] * 3
    assert ["mlflow.parentRunId" in run.data.tags for run in runs] == [False, True, True]
    client = open_client(swept.tracking_uri)
    for run in runs[1:]:
        log.info("MLflow run %s %s %s", run.info.run_id, run.info.status, run.info.run_name)
        points = client.get_metric_history(run.info.run_id, "loss")
        assert sorted(point.step for point in points) == list(range(STEPS))


def test_idle_nodes_go(cluster: Simulation, swept: Swept, head: Node) -> None:
    """After the sweep the autoscaler takes every worker away."""
    assert swept.exit_code == 0
    wait_for(lambda: len(cluster.machines.running()) == 1, "end of the idle nodes", 300)
    wait_for(lambda: namespaces() == [head.name], "end of their namespaces", 30)
    log.info("the workers are gone")


def test_down_leaves_nothing(cluster: Simulation) -> None:
    """`ray down` ends the head too: no instance runs, and no node."""
    cluster.laptop.ray("down", "--yes", str(cluster.file))
    log.info("ray down has ended")
    assert cluster.machines.running() == []
    wait_for(lambda: namespaces() == [], "end of the namespaces", 30)
