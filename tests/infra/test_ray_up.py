"""`ray up` of the repository's own ray_cluster.yaml, by Ray's AWS provider on simulated EC2; an instance is namespaces.

Up, submit, scale up to spot nodes, lose one in the middle of a trial, finish; lose one under a trial of one worker, and
then the head, and go on from S3 with a new one; scale down, down. Not covered: real AWS, real GPUs (the nodes' are
logical), EFA, and the two minutes of a spot instance's notice. `make test-cluster` shows the course of events with
wall times.
"""

from __future__ import annotations

import json
import logging
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from botocore.exceptions import ClientError

from tests.infra.cluster.bridge import ADDRESS, namespaces
from tests.infra.cluster.config import ROOT
from tests.infra.cluster.laptop import end, status
from tests.infra.cluster.lost_head import NAME, TRIALS, Outlived, lose_node_then_head
from tests.infra.cluster.node import Node
from tests.infra.cluster.simulation import Simulation, simulation, why_not
from tests.infra.cluster.watch import (
    EVERY,
    HOLD,
    KEPT,
    LIMIT_S,
    STEPS,
    check_records,
    digests,
    head_of,
    lose_first_node,
    runs,
    sweep,
    trial,
    wait_for,
    witnessed,
)
from tests.infra.conftest import MlflowServer
from trainables.checkpoint import CheckpointStore
from trainables.config import TrialConfig
from trainables.trial import run_trial

log = logging.getLogger(__name__)
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

MLFLOW_PORT = 5000
PAIRS = ("lost", "undisturbed")


@contextmanager
def preset(values: dict[str, Any]) -> Iterator[str]:
    """A sweep as a file in the working tree, which is all that the cluster gets."""
    with tempfile.NamedTemporaryFile("w", dir=ROOT / "tests", prefix="submitted-", suffix=".yaml") as file:
        file.write(yaml.safe_dump(values))
        file.flush()
        yield file.name


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
        preset(sweep(folder, "pairs", PAIRS, workers=2)) as file,
        cluster.laptop.dashboard(cluster.file, cluster.folder / "dashboard.log") as address,
    ):
        log.info("epoch14 submit")
        job = cluster.laptop.submit(output, file, address, "--set", f"tracking.uri={tracking}")
        try:
            lost = lose_first_node(cluster, job, output, folder, "pairs", PAIRS, ranks=2)
            wait_for(
                lambda: job.poll() is not None or len(witnessed(folder, "lost")) > HOLD + 1,
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


@pytest.fixture(scope="module")
def outlived(cluster: Simulation, tracking: str) -> Outlived:
    """A sweep of one-worker trials, one of which loses its node and one the head."""
    folder = cluster.folder / "lone-witness"
    folder.mkdir()
    with preset(sweep(folder, NAME, TRIALS, workers=1)) as file:
        return lose_node_then_head(cluster, file, folder, ("--set", f"tracking.uri={tracking}"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, digits_cache: Path) -> str:
    """BLAKE2b of the last checkpoint of the same trial, run in this process and disturbed by nobody."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EPOCH14_CACHE", str(digits_cache))
        config = TrialConfig.parse(trial(folder, "alone", hold=-1))
        assert run_trial(config, lambda row: None, checkpoints=str(folder)).phase == "finished"
    with CheckpointStore(str(folder), keep=2) as store:
        *_, last = store.manifests()
    assert last.step == STEPS
    manifest = json.loads((folder / f"step-{STEPS:09d}" / "manifest.json").read_text())
    return str(manifest["files"]["state.safetensors"]["blake2b"])


def test_dashboard_is_on_the_head_only(cluster: Simulation) -> None:
    """From another namespace SSH is reached and the dashboard is not, on the head's address or any of its ports."""
    folder, head = cluster.folder / "stranger", head_of(cluster)
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
    after = set()
    for rank in (0, 1):
        ran = swept.steps("lost", rank)
        steps = [step for step, _ in ran]
        back = len(steps) - (STEPS - KEPT)
        # The survivor is a few steps ahead when it hears of the loss.
        assert HOLD < back <= HOLD + EVERY
        assert steps == [*range(back), *range(KEPT, STEPS)]
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
    """Both trials' checkpoints after the last step hold the same bytes, by their BLAKE2b, and score the same."""
    assert swept.exit_code == 0
    lost, undisturbed = digests(cluster, "pairs")
    assert lost == undisturbed
    scores = {(run.data.metrics["loss"], run.data.metrics["val_top1"]) for run in runs(swept.tracking_uri, "pairs")[1:]}
    assert len(scores) == 1


def test_mlflow_has_one_run_a_trial(swept: Swept) -> None:
    """The sweep and its two trials, all finished, with the loss of each step, and nothing twice."""
    check_records(swept.tracking_uri, "pairs", len(PAIRS))


def test_one_worker_goes_on_on_another_node(outlived: Outlived) -> None:
    """A trial of one worker, whose node is lost with all of it, goes on from its last checkpoint on another."""
    ran = witnessed(outlived.folder, "node")
    assert [step for step, _ in ran] == [*range(HOLD + 1), *range(KEPT, STEPS)]
    before, after = ({node for _, node in part} for part in (ran[: HOLD + 1], ran[HOLD + 1 :]))
    assert [node.endswith(outlived.lost_instance[-8:]) for node in before] == [True]
    assert len(after) == 1
    assert before != after


def test_sweep_goes_on_after_its_head_is_lost(outlived: Outlived) -> None:
    """`submit --resume` on a new head, which has nothing of the old one's, ends it; what was over is not run again."""
    assert outlived.exit_code == 0, outlived.outputs[1]
    assert [step for step, _ in witnessed(outlived.folder, "head")] == [*range(HOLD + 1), *range(KEPT, STEPS)]


def test_records_are_as_if_nothing_was_lost(outlived: Outlived, tracking: str) -> None:
    """In MLflow: one sweep, one run for each trial, no step of a metric twice."""
    assert outlived.exit_code == 0
    check_records(tracking, NAME, len(TRIALS))


def test_weights_are_as_if_nothing_was_lost(cluster: Simulation, outlived: Outlived, alone: str) -> None:
    """Both trials' last checkpoints hold the bytes of one that was run here in one go."""
    assert outlived.exit_code == 0
    assert digests(cluster, NAME) == [alone] * len(TRIALS)


def test_idle_nodes_go(cluster: Simulation, outlived: Outlived) -> None:
    """After the sweeps the autoscaler takes every worker away, those of the lost head too."""
    assert outlived.exit_code == 0
    wait_for(lambda: len(cluster.machines.running()) == 1, "end of the idle nodes", 300)
    wait_for(lambda: namespaces() == [head_of(cluster).name], "end of their namespaces", 120)
    log.info("the workers are gone")


def test_down_leaves_nothing(cluster: Simulation) -> None:
    """`ray down` ends the head too: no instance runs, and no node."""
    cluster.laptop.ray("down", "--yes", str(cluster.file))
    log.info("ray down has ended")
    assert cluster.machines.running() == []
    wait_for(lambda: namespaces() == [], "end of the namespaces", 120)
