"""The pods that a manifest leads to, and the containers in them, wherever the manifest keeps them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.infra.manifests.kustomize import Manifest

TEMPLATED = ("Deployment", "StatefulSet", "Job")


@dataclass(frozen=True)
class Pod:
    """A pod's template, and where it stands."""

    name: str
    """Kind, name, and the group within a Ray cluster."""
    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def containers(self) -> list[dict[str, Any]]:
        """All of its containers, those that run first included."""
        return [*self.spec["containers"], *self.spec.get("initContainers", [])]

    @property
    def component(self) -> str:
        """What NetworkPolicies know it by."""
        return self.labels["app.kubernetes.io/component"]


def cluster_specs(manifests: Iterable[Manifest]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The Ray clusters, as (name, spec): those that stand, and those that jobs make."""
    for manifest in manifests:
        name = f"{manifest['kind']} {manifest['metadata']['name']}"
        if manifest["kind"] == "RayCluster":
            yield name, manifest["spec"]
        elif manifest["kind"] == "RayJob":
            yield name, manifest["spec"]["rayClusterSpec"]


def pods(manifests: Iterable[Manifest]) -> Iterator[Pod]:
    """Every pod; the autoscaler, which KubeRay adds to the head, counts as a container of the head."""
    manifests = list(manifests)
    for manifest in manifests:
        name = f"{manifest['kind']} {manifest['metadata']['name']}"
        if manifest["kind"] in TEMPLATED:
            yield _pod(name, manifest["spec"]["template"])
        elif manifest["kind"] == "RayJob":
            yield _pod(f"{name} submitter", manifest["spec"]["submitterPodTemplate"])
    for name, cluster in cluster_specs(manifests):
        head = _pod(f"{name} head", cluster["headGroupSpec"]["template"])
        image = head.containers[0]["image"]
        autoscaler = {"name": "autoscaler", "image": image} | cluster["autoscalerOptions"]
        yield Pod(head.name, head.labels, head.spec | {"containers": [*head.spec["containers"], autoscaler]})
        for group in cluster["workerGroupSpecs"]:
            yield _pod(f"{name} {group['groupName']}", group["template"])


def _pod(name: str, template: dict[str, Any]) -> Pod:
    return Pod(name, template["metadata"]["labels"], template["spec"])
