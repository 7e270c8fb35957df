"""What pods may do: users, privileges, resources, images, tokens, secrets, and whom they may reach."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.infra.manifests.__main__ import overlays
from tests.infra.manifests.kustomize import Manifest, render
from tests.infra.manifests.network import lets_in, may_reach
from tests.infra.manifests.pods import Pod, pods

PINNED = re.compile(r"[a-z0-9.-]+(?:/[a-z0-9._-]+)*:(?P<tag>[\w][\w.-]*)(?:@sha256:[0-9a-f]{64})?")
SECRETS = {
    "epoch14-ray-token": {"auth_token"},
    "epoch14-postgres": {"password"},
    "epoch14-mlflow": {"admin-password", "user-password", "flask-secret-key"},
}
API_CREDENTIALS = "/var/run/secrets/kubernetes.io/serviceaccount"
ANY_PORT = 23456
PORTS = (22, 443, 5000, 5432, 6379, 8265, 10001, ANY_PORT)


@pytest.fixture(scope="module", params=overlays(), ids=lambda path: path.name)
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    """What one overlay makes."""
    folder: Path = request.param
    return render(folder)


def containers(manifests: list[Manifest]) -> Iterator[tuple[str, Pod, dict[str, Any]]]:
    """Every container with its pod, and a name for both."""
    for pod in pods(manifests):
        for container in pod.containers:
            yield f"{pod.name}: {container['name']}", pod, container


def values(value: Any, key: str) -> list[Any]:
    """What stands under `key`, at any depth."""
    if isinstance(value, list):
        return [found for item in value for found in values(item, key)]
    if not isinstance(value, dict):
        return []
    here = [value[key]] if key in value else []
    return here + [found for item in value.values() for found in values(item, key)]


def test_pods_run_as_users_without_rights(manifests: list[Manifest]) -> None:
    """No pod runs as root or without seccomp; no container gains privileges, keeps a capability or writes its image."""
    for name, pod, container in containers(manifests):
        of_pod, of_container = pod.spec["securityContext"], container["securityContext"]
        assert of_pod["runAsNonRoot"] is True, name
        assert of_pod["runAsUser"] > 0, name
        assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert of_container["allowPrivilegeEscalation"] is False, name
        assert of_container["readOnlyRootFilesystem"] is True, name
        assert of_container["capabilities"] == {"drop": ["ALL"]}, name
        assert not {"privileged", "runAsUser"} & of_container.keys(), name


def test_pods_share_nothing_with_their_node(manifests: list[Manifest]) -> None:
    """No host network, process space or path; the namespace enforces Kubernetes' restricted standard."""
    for pod in pods(manifests):
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.spec.keys(), pod.name
        assert all("hostPath" not in volume for volume in pod.spec.get("volumes", [])), pod.name
    (namespace,) = (one for one in manifests if one["kind"] == "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    others = {one["metadata"].get("namespace") for one in manifests if one is not namespace}
    assert others == {namespace["metadata"]["name"]}


def test_containers_ask_for_resources_and_have_limits(manifests: list[Manifest]) -> None:
    """Each says how much CPU and memory it needs and may take."""
    for name, _, container in containers(manifests):
        for bound in ("requests", "limits"):
            assert {"cpu", "memory"} <= container["resources"][bound].keys(), (name, bound)


def test_images_are_pinned(manifests: list[Manifest]) -> None:
    """Every image names its registry and a version; none is `latest`, none is left as the base has it."""
    found = {container["image"] for _, _, container in containers(manifests)}
    assert len(found) >= 4
    for image in found:
        match = PINNED.fullmatch(image)
        assert match, image
        assert re.search(r"\d+\.\d+", match["tag"]), image
    assert "latest" not in json.dumps(manifests)


def test_images_of_others_are_pinned_by_digest(manifests: list[Manifest]) -> None:
    """What we don't build is pinned by its content."""
    others = {image for _, _, one in containers(manifests) if "/epoch14/" not in (image := one["image"])}
    assert others
    assert all("@sha256:" in image for image in others)


def test_no_pod_gets_a_token_but_the_autoscaler(manifests: list[Manifest]) -> None:
    """Each pod names its account; neither mounts a token by itself, and of all containers one mounts the head's."""
    accounts = {one["metadata"]["name"]: one for one in manifests if one["kind"] == "ServiceAccount"}
    assert all(account["automountServiceAccountToken"] is False for account in accounts.values())
    assert {pod.spec["serviceAccountName"] for pod in pods(manifests)} == accounts.keys()
    assert all(pod.spec["automountServiceAccountToken"] is False for pod in pods(manifests))
    mounting = [
        name
        for name, _, one in containers(manifests)
        if any(m["mountPath"] == API_CREDENTIALS for m in one.get("volumeMounts", []))
    ]
    assert len(mounting) == 1
    assert mounting[0].endswith(" head: autoscaler")


def test_every_mount_has_its_volume(manifests: list[Manifest]) -> None:
    """What a container mounts is a volume of its pod, or a claim of its set."""
    claims = {claim["metadata"]["name"] for one in values(manifests, "volumeClaimTemplates") for claim in one}
    for name, pod, container in containers(manifests):
        known = {volume["name"] for volume in pod.spec.get("volumes", [])} | claims
        assert {mount["name"] for mount in container.get("volumeMounts", [])} <= known, name


def test_rights_are_few_and_named(manifests: list[Manifest]) -> None:
    """One role without wildcards, in its namespace, for the head's account: read pods, read and patch RayClusters."""
    roles = [one for one in manifests if one["kind"] in ("Role", "ClusterRole")]
    assert [one["kind"] for one in roles] == ["Role"]
    assert {
        (resource, verb) for rule in roles[0]["rules"] for resource in rule["resources"] for verb in rule["verbs"]
    } == {
        *itertools.product(["pods"], ["get", "list", "watch"]),
        *itertools.product(["rayclusters"], ["get", "patch"]),
    }
    assert "*" not in json.dumps(roles)
    (binding,) = (one for one in manifests if one["kind"].endswith("RoleBinding"))
    assert binding["kind"] == "RoleBinding"
    assert binding["roleRef"]["name"] == roles[0]["metadata"]["name"]
    namespace = binding["metadata"]["namespace"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "ray-head", "namespace": namespace}]


def test_secrets_are_named_and_never_held(manifests: list[Manifest]) -> None:
    """No manifest is a Secret; every variable that holds one refers to a key that README.md has made."""
    assert all(one["kind"] != "Secret" for one in manifests)
    references = values(manifests, "secretKeyRef")
    assert references
    assert all(one["key"] in SECRETS[one["name"]] for one in references)
    assert {one["name"] for one in references} == SECRETS.keys()
    readme = (overlays()[0].parents[1] / "README.md").read_text(encoding="utf-8")
    for name, keys in SECRETS.items():
        assert f"create secret generic {name} " in readme
        assert all(f"--from-literal={key}=" in readme for key in keys)


def test_no_variable_holds_a_password(manifests: list[Manifest]) -> None:
    """What is called a password, key or token has no value in a manifest, and no URL has a password in it."""
    for name, _, container in containers(manifests):
        for variable in container.get("env", []):
            if re.search(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY", variable["name"]):
                assert "value" not in variable, (name, variable["name"])
    assert not re.search(r"://[^/@\s\"]*:[^/@\s\"]+@", json.dumps(manifests))


def test_no_service_becomes_a_variable(manifests: list[Manifest]) -> None:
    """Else the Service mlflow sets MLFLOW_PORT=tcp://..., which MLflow takes for its own option."""
    assert all(pod.spec["enableServiceLinks"] is False for pod in pods(manifests))


@pytest.mark.parametrize("allows", [may_reach, lets_in])
def test_only_what_must_reaches_the_head_and_mlflow(
    manifests: list[Manifest], allows: Callable[[list[Manifest], dict[str, str], dict[str, str], int], bool]
) -> None:
    """The whole matrix: who may open which port of whom; all else is shut, by the rules of the target alone, too."""
    labels = {pod.component: pod.labels for pod in pods(manifests)} | {"stranger": {"app": "stranger"}}
    open_ports = {
        (source, target, port)
        for source, target in itertools.product(labels, labels)
        for port in PORTS
        if allows(manifests, labels[source], labels[target], port)
    }
    nodes = itertools.product(["ray-head", "ray-worker"], ["ray-head", "ray-worker"], PORTS)
    submitter = {("ray-submitter", "ray-head", 8265)} if "ray-submitter" in labels else set()
    assert open_ports == {
        *nodes,
        *submitter,
        ("ray-head", "mlflow", 5000),
        ("mlflow-user", "mlflow", 5000),
        ("mlflow", "postgres", 5432),
    }


def test_from_outside_only_the_operator_comes_in(manifests: list[Manifest]) -> None:
    """The one peer of another namespace that may open a port is KubeRay's operator, to ask the dashboard."""
    policies = [one["spec"] for one in manifests if one["kind"] == "NetworkPolicy"]
    incoming = [rule for policy in policies for rule in policy.get("ingress", [])]
    assert all("ipBlock" not in peer for rule in incoming for peer in rule["from"])
    foreign = [(peer, rule["ports"]) for rule in incoming for peer in rule["from"] if "namespaceSelector" in peer]
    ((peer, ports),) = foreign
    assert peer["podSelector"]["matchLabels"] == {"app.kubernetes.io/component": "kuberay-operator"}
    assert peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "kuberay-system"}
    assert [port["port"] for port in ports] == [8265]


def test_nobody_asks_the_node_for_its_credentials(manifests: list[Manifest]) -> None:
    """Wherever addresses outside are open, the cloud's metadata address is not."""
    blocks = values([one for one in manifests if one["kind"] == "NetworkPolicy"], "ipBlock")
    assert blocks
    assert all("169.254.169.254/32" in block["except"] for block in blocks)


def test_mlflow_wants_passwords_and_knows_its_hosts(manifests: list[Manifest]) -> None:
    """Basic auth without rights by default, named hosts, records in Postgres, artifacts through the server to S3."""
    (server,) = (one for _, pod, one in containers(manifests) if pod.component == "mlflow")
    arguments = set(server["args"])
    assert "--app-name=basic-auth" in arguments
    assert "--allowed-hosts=mlflow:5000,localhost:5000" in arguments
    assert any(one.startswith("--artifacts-destination=s3://") for one in arguments)
    assert "--no-serve-artifacts" not in arguments
    environment = {one["name"]: one.get("value") for one in server["env"]}
    assert str(environment["MLFLOW_BACKEND_STORE_URI"]).startswith("postgresql")
    (config,) = (one["data"]["basic_auth.ini"] for one in manifests if one["kind"] == "ConfigMap")
    assert "default_permission = NO_PERMISSIONS" in config
    assert "postgresql" in config
    assert "admin_password" not in config


def test_postgres_keeps_its_data(manifests: list[Manifest]) -> None:
    """Its set claims a volume, and the server's data lies on it."""
    (database,) = (one["spec"] for one in manifests if one["kind"] == "StatefulSet")
    (claim,) = database["volumeClaimTemplates"]
    (server,) = database["template"]["spec"]["containers"]
    (mount,) = (one for one in server["volumeMounts"] if one["name"] == claim["metadata"]["name"])
    environment = {one["name"]: one.get("value") for one in server["env"]}
    assert str(environment["PGDATA"]).startswith(mount["mountPath"] + "/")
