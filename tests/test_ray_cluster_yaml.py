"""ray_cluster.yaml is accepted by Ray, and keeps what the sweeps rely on."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

WITH_EFA = re.compile(r"^  #\| ", re.MULTILINE)
CLUSTER = Path(__file__).resolve().parents[1] / "ray_cluster.yaml"


@pytest.fixture
def cluster() -> dict[str, Any]:
    """The file as `ray up` reads it, with Ray's defaults filled in."""
    from ray.autoscaler._private.util import prepare_config

    prepared = prepare_config(yaml.safe_load(CLUSTER.read_text(encoding="utf-8")))
    assert isinstance(prepared, dict)
    return prepared


def test_ray_accepts_the_file(cluster: dict[str, Any]) -> None:
    """Ray's own schema check takes the prepared file."""
    from ray.autoscaler._private.util import validate_config

    validate_config(cluster)


def test_aws_bootstrap_adds_only_keys_and_networks(
    cluster: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's AWS set-up, run against a simulated EC2, keeps our profiles and finds each node a subnet in every zone."""
    from moto import mock_aws
    from ray.autoscaler._private.aws.config import bootstrap_aws

    (tmp_path / ".ssh").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "simulated")
    profiles = {
        name: node["node_config"]["IamInstanceProfile"] for name, node in cluster["available_node_types"].items()
    }
    with mock_aws():
        ready = bootstrap_aws(cluster)
    for name, node in ready["available_node_types"].items():
        assert node["node_config"]["IamInstanceProfile"] == profiles[name]
        assert len(node["node_config"]["SubnetIds"]) == 3
        assert node["node_config"]["SecurityGroupIds"]


def test_efa_nodes_are_ready_to_be_uncommented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its comment signs taken away as the file says, and a subnet and a group, Ray and EC2 take the EFA type."""
    import boto3
    from moto import mock_aws
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.util import prepare_config, validate_config

    (tmp_path / ".ssh").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "simulated")
    with mock_aws():
        ec2 = boto3.client("ec2", region_name="us-west-2")
        subnet = ec2.describe_subnets(Filters=[{"Name": "availability-zone", "Values": ["us-west-2a"]}])["Subnets"][0]
        group = ec2.create_security_group(GroupName="efa", Description="efa", VpcId=subnet["VpcId"])["GroupId"]
        boto3.client("iam").create_instance_profile(InstanceProfileName="epoch14-worker")
        text = WITH_EFA.sub("  ", CLUSTER.read_text(encoding="utf-8"))
        text = text.replace("subnet-CHANGE", subnet["SubnetId"]).replace("sg-CHANGE", group)
        cluster = prepare_config(yaml.safe_load(text))
        validate_config(cluster)
        node = bootstrap_aws(cluster)["available_node_types"]["gpu_efa"]["node_config"]
        # As Ray's node provider does.
        started = {key: value for key, value in node.items() if key not in ("SubnetIds", "SecurityGroupIds")}
        (instance,) = ec2.run_instances(MinCount=1, MaxCount=1, **started)["Instances"]
    assert instance["SubnetId"] == subnet["SubnetId"]
    assert node["Placement"] == {"GroupName": "epoch14"}
    cards = [(card["NetworkCardIndex"], card["DeviceIndex"]) for card in node["NetworkInterfaces"]]
    assert cards == [(0, 0), (1, 1), (2, 1), (3, 1)]
    assert {card["InterfaceType"] for card in node["NetworkInterfaces"]} == {"efa"}


def test_trials_stay_off_the_head(cluster: dict[str, Any]) -> None:
    """The head offers no CPU to trials, only the resource that drivers of multi-worker trials take."""
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"]["CPU"] == 0
    assert head["resources"]["trial_driver"] >= 1
    assert "InstanceMarketOptions" not in head["node_config"]


def test_gpu_workers_are_on_demand_and_spot(cluster: dict[str, Any]) -> None:
    """There is a GPU node type of either market, and none runs while nothing needs it."""
    workers = {name: node for name, node in cluster["available_node_types"].items() if name != "head"}
    markets = [node["node_config"].get("InstanceMarketOptions", {}).get("MarketType") for node in workers.values()]
    assert sorted(markets, key=str) == [None, "spot"]
    assert all(node["min_workers"] == 0 for node in workers.values())


def test_every_node_type_names_its_instance_profile(cluster: dict[str, Any]) -> None:
    """Ray's automatic profile grants all of EC2 and S3, so no node type leaves it to Ray; workers have another one."""
    profiles = {
        name: node["node_config"]["IamInstanceProfile"]["Name"]
        for name, node in cluster["available_node_types"].items()
    }
    assert all(profile != profiles["head"] for name, profile in profiles.items() if name != "head")


def test_credentials_are_not_handed_to_a_fetched_page(cluster: dict[str, Any]) -> None:
    """Every node asks for IMDSv2, one hop away."""
    for node in cluster["available_node_types"].values():
        assert node["node_config"]["MetadataOptions"] == {"HttpTokens": "required", "HttpPutResponseHopLimit": 1}


def test_file_holds_no_secret() -> None:
    """No access key, no token and no password, only the path of the token's file."""
    text = CLUSTER.read_text(encoding="utf-8")
    assert not re.search(r"AKIA|aws_secret|password|RAY_AUTH_TOKEN=|[0-9a-f]{32}", text)


def test_cluster_wants_a_token_and_listens_on_loopback(cluster: dict[str, Any]) -> None:
    """Both start commands ask for the token, which is mounted, and the dashboard can't be reached from outside."""
    starts = [cluster["head_start_ray_commands"][-1], cluster["worker_start_ray_commands"][-1]]
    assert all("export RAY_AUTH_MODE=token;" in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert cluster["file_mounts"].items() >= {("/home/ubuntu/.ray/auth_token", "~/.ray/auth_token")}


def test_nodes_install_the_lock_by_hash(cluster: dict[str, Any]) -> None:
    """Every node's set-up installs uv and the lock by hash, and nothing of Ray's own defaults."""
    for commands in (cluster["head_setup_commands"], cluster["worker_setup_commands"]):
        installs = [command for command in commands if "pip install" in command or "pip sync" in command]
        assert len(installs) == 2
        assert all("--require-hashes" in command for command in installs)
    assert cluster["file_mounts"]["/home/ubuntu/epoch14/requirements-cluster.lock"] == "requirements-cluster.lock"


def test_commands_are_valid_shell(cluster: dict[str, Any]) -> None:
    """The shell parses every command of the file."""
    keys = ("head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")
    script = "\n".join(command for key in keys for command in cluster[key])
    parsed = subprocess.run(["bash", "-n", "-c", script], check=False, capture_output=True, text=True)
    assert parsed.stderr == ""
