"""Schemas that manifests are checked against: unknown fields, missing ones, types, enumerations and quantities.

Core kinds: made from the typed models of the `kubernetes` package, which are generated from Kubernetes' own OpenAPI
document (release 1.30 in the lock). KubeRay's kinds: tests/infra/schemas, whose pod templates refer to these models.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

KUBERAY = "kuberay-1.7.0"
KUBERAY_FILE = Path(__file__).resolve().parents[1] / "schemas" / f"{KUBERAY}.json"
SCHEME = "kubernetes:"
"""URI scheme of a model: kubernetes:V1PodTemplateSpec."""
CORE_KINDS = {
    "v1": ("ConfigMap", "Namespace", "PersistentVolumeClaim", "Service", "ServiceAccount"),
    "apps/v1": ("Deployment", "StatefulSet"),
    "batch/v1": ("Job",),
    "networking.k8s.io/v1": ("NetworkPolicy",),
    "rbac.authorization.k8s.io/v1": ("Role", "RoleBinding"),
}
RAY_KINDS = ("RayCluster", "RayJob")
SIMPLE: dict[str, dict[str, Any]] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "bool": {"type": "boolean"},
    "float": {"type": "number"},
    "datetime": {"type": "string"},
    # The generator's name for int-or-string; objects of any form are in no kind that is used here.
    "object": {"type": ["integer", "string"]},
}
QUANTITY = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$"}
"""Source: Kubernetes' apimachinery, resource.Quantity; without signs and exponents."""
ONE_OF = {
    ("V1Capabilities", "drop"): {"type": "array", "items": {"type": "string", "pattern": "^[A-Z_]+$"}},
    ("V1Container", "imagePullPolicy"): {"enum": ["Always", "IfNotPresent", "Never"]},
    ("V1ContainerPort", "protocol"): {"enum": ["TCP", "UDP", "SCTP"]},
    ("V1DeploymentStrategy", "type"): {"enum": ["Recreate", "RollingUpdate"]},
    ("V1LabelSelectorRequirement", "operator"): {"enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
    ("V1NetworkPolicyPort", "protocol"): {"enum": ["TCP", "UDP", "SCTP"]},
    ("V1NetworkPolicySpec", "policyTypes"): {"type": "array", "items": {"enum": ["Ingress", "Egress"]}},
    ("V1PodSecurityContext", "fsGroupChangePolicy"): {"enum": ["OnRootMismatch", "Always"]},
    ("V1PodSpec", "restartPolicy"): {"enum": ["Always", "OnFailure", "Never"]},
    ("V1SeccompProfile", "type"): {"enum": ["RuntimeDefault", "Localhost", "Unconfined"]},
    ("V1ServicePort", "protocol"): {"enum": ["TCP", "UDP", "SCTP"]},
    ("V1ServiceSpec", "type"): {"enum": ["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]},
    ("V1Toleration", "effect"): {"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
    ("V1Toleration", "operator"): {"enum": ["Exists", "Equal"]},
    ("V1EmptyDirVolumeSource", "sizeLimit"): QUANTITY,
    ("V1ResourceRequirements", "limits"): {"type": "object", "additionalProperties": QUANTITY},
    ("V1ResourceRequirements", "requests"): {"type": "object", "additionalProperties": QUANTITY},
    ("V1VolumeResourceRequirements", "requests"): {"type": "object", "additionalProperties": QUANTITY},
    ("V1PersistentVolumeClaimSpec", "accessModes"): {
        "type": "array",
        "items": {"enum": ["ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"]},
    },
}
"""What the models leave open: enumerations, quantities. Source: the field descriptions of the same document."""


def schema_name(manifest: Mapping[str, Any]) -> str:
    """What the manifest is checked against, for a person; raises KeyError for a kind that has no schema here."""
    if manifest["apiVersion"] == "ray.io/v1" and manifest["kind"] in RAY_KINDS:
        return f"KubeRay {KUBERAY.partition('-')[2]}, {manifest['kind']}"
    return f"Kubernetes {kubernetes_release()}, {_core_model(manifest)}"


def complaints(manifest: Mapping[str, Any]) -> list[str]:
    """What is wrong with a manifest: `path: reason`, empty where its schema accepts it; raises KeyError as above."""
    if manifest["apiVersion"] == "ray.io/v1" and manifest["kind"] in RAY_KINDS:
        schema = {"$ref": f"{KUBERAY}#/$defs/{manifest['kind']}"}
    else:
        schema = core_schema(_core_model(manifest), manifest["apiVersion"], manifest["kind"])
    errors = jsonschema.Draft202012Validator(schema, registry=registry()).iter_errors(manifest)
    return sorted(f"{'.'.join(map(str, error.absolute_path)) or '.'}: {error.message[:200]}" for error in errors)


def kubernetes_release() -> str:
    """The release whose document the models were generated from: package 30.1.0 is release 1.30."""
    return "1." + importlib.metadata.version("kubernetes").partition(".")[0]


def core_schema(model: str, api_version: str, kind: str) -> dict[str, Any]:
    """Schema of a manifest of a core kind: its model, less the status, which the cluster writes."""
    properties = model_schema(model)["properties"]
    whole = {key: value for key, value in properties.items() if key != "status"}
    whole |= {"apiVersion": {"const": api_version}, "kind": {"const": kind}}
    required = [*model_schema(model).get("required", []), "apiVersion", "kind", "metadata"]
    return {"type": "object", "properties": whole, "required": required, "additionalProperties": False}


@functools.cache
def model_schema(name: str) -> dict[str, Any]:
    """JSON schema of one model of the `kubernetes` package; raises KeyError where there is none of that name."""
    from kubernetes.client import Configuration, models

    model = vars(models)[name]
    configuration = Configuration()
    instance = model.__new__(model)
    instance.local_vars_configuration = configuration
    properties, required = {}, []
    for attribute, field in model.attribute_map.items():
        properties[field] = ONE_OF.get((name, field)) or _type_schema(model.openapi_types[attribute])
        try:
            setattr(instance, attribute, None)
        except ValueError:
            required.append(field)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


@functools.cache
def registry() -> Any:
    """Where `$ref` finds the models and KubeRay's schema."""

    def retrieve(uri: str) -> Resource[Any]:
        if uri == KUBERAY:
            return DRAFT202012.create_resource(json.loads(KUBERAY_FILE.read_text(encoding="utf-8")))
        return DRAFT202012.create_resource(model_schema(uri.removeprefix(SCHEME)))

    make: Any = Registry  # mypy does not see the constructor that attrs makes
    return make(retrieve=retrieve)


def _core_model(manifest: Mapping[str, Any]) -> str:
    if manifest["kind"] not in CORE_KINDS[manifest["apiVersion"]]:
        raise KeyError(manifest["kind"])
    return f"V1{manifest['kind']}"


def _type_schema(text: str) -> dict[str, Any]:
    if text in SIMPLE:
        return dict(SIMPLE[text])
    if inner := re.fullmatch(r"list\[(.+)\]", text):
        return {"type": "array", "items": _type_schema(inner.group(1))}
    if inner := re.fullmatch(r"dict\(str, (.+)\)", text):
        return {"type": "object", "additionalProperties": _type_schema(inner.group(1))}
    return {"$ref": f"{SCHEME}{text}"}
