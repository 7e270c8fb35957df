"""The IAM policies in infra/aws: what the cluster of ray_cluster.yaml needs, and nothing that a stranger would want."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra.iam import AWS, allows, as_list, read_policy

ROOT = Path(__file__).resolve().parents[2]
EC2 = "arn:aws:ec2:us-west-2:111122223333"
IAM = "arn:aws:iam::111122223333"
PARTS = (
    "arn:aws:ec2:us-west-2::image/ami-1",
    *(f"{EC2}:{kind}/1" for kind in ("key-pair", "network-interface", "security-group", "subnet", "volume")),
)
START = {
    "head": {
        "aws:RequestTag/ray-cluster-name": "epoch14",
        "ec2:InstanceType": "g6.12xlarge",
        "ec2:MetadataHttpTokens": "required",
        "ec2:InstanceProfile": f"{IAM}:instance-profile/epoch14-worker",
    }
}
START["operator"] = START["head"] | {
    "ec2:InstanceType": "m7i.2xlarge",
    "ec2:InstanceProfile": f"{IAM}:instance-profile/epoch14-head",
}
"""How each starts an instance; one line changed, and it must not."""


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    """ray_cluster.yaml."""
    text: dict[str, Any] = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text(encoding="utf-8"))
    return text


@pytest.mark.parametrize("who", ["head", "operator"])
def test_starts_the_nodes_of_its_cluster(who: str) -> None:
    """An instance of the cluster may be started, out of every part that RunInstances asks for, and be tagged."""
    policy = read_policy(who)
    assert allows(policy, "ec2:RunInstances", f"{EC2}:instance/*", START[who])
    assert [part for part in PARTS if not allows(policy, "ec2:RunInstances", part)] == []
    assert allows(policy, "ec2:CreateTags", f"{EC2}:instance/i-1", {"ec2:CreateAction": "RunInstances"})
    image = "parameter/aws/service/deeplearning/ami/x86_64/some/latest/ami-id"
    assert allows(policy, "ssm:GetParameters", f"arn:aws:ssm:us-west-2::{image}")


@pytest.mark.parametrize("who", ["head", "operator"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("aws:RequestTag/ray-cluster-name", "payroll"),
        ("aws:RequestTag/ray-cluster-name", None),
        ("ec2:InstanceType", "u-24tb1.metal"),
        ("ec2:InstanceProfile", f"{IAM}:instance-profile/admin"),
        ("ec2:InstanceProfile", None),
        ("ec2:MetadataHttpTokens", "optional"),
    ],
)
def test_starts_nothing_else(who: str, key: str, value: str | None) -> None:
    """Not outside its cluster, of no other type, with no other profile or none, and not with IMDSv1."""
    context = {name: text for name, text in (START[who] | {key: value}).items() if text is not None}
    assert not allows(read_policy(who), "ec2:RunInstances", f"{EC2}:instance/*", context)


def test_a_head_starts_no_second_head() -> None:
    """A job on the head can't get its hands on a node with the head's own rights."""
    context = START["head"] | {"ec2:InstanceProfile": f"{IAM}:instance-profile/epoch14-head"}
    assert not allows(read_policy("head"), "ec2:RunInstances", f"{EC2}:instance/*", context)
    passed = {"iam:PassedToService": "ec2.amazonaws.com"}
    assert allows(read_policy("head"), "iam:PassRole", f"{IAM}:role/epoch14-worker", passed)
    for role in ("epoch14-head", "admin"):
        assert not allows(read_policy("head"), "iam:PassRole", f"{IAM}:role/{role}", passed)
    other_service = {"iam:PassedToService": "lambda.amazonaws.com"}
    assert not allows(read_policy("head"), "iam:PassRole", f"{IAM}:role/epoch14-worker", other_service)


@pytest.mark.parametrize("who", ["head", "operator"])
@pytest.mark.parametrize("action", ["ec2:TerminateInstances", "ec2:CreateTags"])
def test_touches_only_nodes_of_its_cluster(who: str, action: str) -> None:
    """Instances of the cluster may be ended and tagged, others may not."""
    for name, may in (("epoch14", True), ("payroll", False)):
        context = {"aws:ResourceTag/ray-cluster-name": name}
        assert allows(read_policy(who), action, f"{EC2}:instance/i-1", context) == may
    assert not allows(read_policy(who), action, f"{EC2}:instance/i-1")


@pytest.mark.parametrize("who", ["head", "worker", "mlflow"])
def test_buckets(who: str) -> None:
    """Nodes read data and keep results, MLflow keeps results; data stays as it is, and other buckets are shut."""
    policy = read_policy(who)
    for action in ("s3:GetObject", "s3:PutObject", "s3:DeleteObject"):
        assert allows(policy, action, "arn:aws:s3:::epoch14-results/checkpoints/1")
        assert not allows(policy, action, "arn:aws:s3:::payroll/1")
        assert not allows(policy, action, "arn:aws:s3:::epoch14-results-2/1")
    assert allows(policy, "s3:ListBucket", "arn:aws:s3:::epoch14-results")
    reads = who != "mlflow"
    assert allows(policy, "s3:GetObject", "arn:aws:s3:::epoch14-data/imagenet/1") == reads
    assert allows(policy, "s3:ListBucket", "arn:aws:s3:::epoch14-data") == reads
    for action in ("s3:PutObject", "s3:DeleteObject"):
        assert not allows(policy, action, "arn:aws:s3:::epoch14-data/imagenet/1")
    for action in ("s3:DeleteBucket", "s3:PutBucketPolicy", "s3:PutBucketAcl"):
        assert not allows(policy, action, "arn:aws:s3:::epoch14-results")


@pytest.mark.parametrize("who", ["worker", "mlflow"])
def test_workers_and_mlflow_know_s3_only(who: str) -> None:
    """No action outside of S3 is named."""
    actions = {action for statement in read_policy(who)["Statement"] for action in as_list(statement["Action"])}
    assert {action.partition(":")[0] for action in actions} == {"s3"}


@pytest.mark.parametrize("path", sorted(AWS.glob("*.json")), ids=lambda path: path.stem)
def test_every_statement_is_narrow(path: Path) -> None:
    """No action has a wildcard; every resource is named, but for EC2's Describe actions, which know none."""
    for statement in read_policy(path.stem)["Statement"]:
        actions = as_list(statement["Action"])
        assert all("*" not in action for action in actions)
        if "*" in as_list(statement.get("Resource", [])):
            assert all(action.startswith("ec2:Describe") for action in actions)


def test_policies_are_about_the_clusters_own_names(cluster: dict[str, Any]) -> None:
    """Cluster name, region, instance types and profiles are those of ray_cluster.yaml."""
    kinds = dict(cluster["available_node_types"])
    head = kinds.pop(cluster["head_node_type"])
    assert cluster["provider"]["region"] == "us-west-2"
    for who, nodes in (("operator", [head]), ("head", list(kinds.values()))):
        for node in nodes:
            config = node["node_config"]
            context = {
                "aws:RequestTag/ray-cluster-name": cluster["cluster_name"],
                "ec2:InstanceType": config["InstanceType"],
                "ec2:MetadataHttpTokens": config["MetadataOptions"]["HttpTokens"],
                "ec2:InstanceProfile": f"{IAM}:instance-profile/{config['IamInstanceProfile']['Name']}",
            }
            assert allows(read_policy(who), "ec2:RunInstances", f"{EC2}:instance/*", context)
