"""What `kubectl kustomize` makes of an overlay, for the part of kustomize that infra/kubernetes uses and no other.

A key, a form of patch or an image field that is not known here is an error: a manifest must never pass a check because
something in it was skipped. Steps, in order: resources, components, patches, namespace, labels, images, replacements.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonpatch
import yaml

Manifest = dict[str, Any]

API_VERSIONS = {"Kustomization": "kustomize.config.k8s.io/v1beta1", "Component": "kustomize.config.k8s.io/v1alpha1"}
NOT_NAMESPACED = ("Namespace", "ClusterRole", "ClusterRoleBinding", "PersistentVolume")
CUSTOM_GROUPS = ("ray.io",)
"""Groups whose lists a strategic patch replaces as a whole, since kustomize has no schema of them."""


class KustomizeError(ValueError):
    """A kustomization has what this renderer doesn't know, or names what isn't there."""


class UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a mapping with a key twice, as the API server does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        """Build the mapping; raises KustomizeError where a key is there twice."""
        keys = [key.value for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise KustomizeError(f"{node.start_mark}: {', '.join(sorted(twice))} twice in one mapping")
        return super().construct_mapping(node, deep)


def render(folder: Path) -> list[Manifest]:
    """Every manifest of the kustomization in `folder`; raises KustomizeError."""
    return _build(folder, "Kustomization", [])


def read_documents(text: str) -> list[Any]:
    """The documents of a YAML text, less empty ones; raises KustomizeError."""
    try:
        return [document for document in yaml.load_all(text, UniqueKeyLoader) if document is not None]
    except yaml.YAMLError as error:
        raise KustomizeError(" ".join(str(error).split())) from None


def _build(folder: Path, kind: str, manifests: list[Manifest]) -> list[Manifest]:
    """`manifests` and those of the kustomization in `folder`, after its steps."""
    config = _read_config(folder, kind)
    for name in config.pop("resources", []):
        path = (folder / name).resolve()
        manifests += _build(path, "Kustomization", []) if path.is_dir() else _read_manifests(path)
    for name in config.pop("components", []):
        manifests = _build((folder / name).resolve(), "Component", manifests)
    steps: dict[str, Callable[[list[Manifest], Any], list[Manifest]]] = {
        "patches": lambda found, patches: _patch(found, patches, folder),
        "namespace": _set_namespace,
        "labels": _add_labels,
        "images": _set_images,
        "replacements": _replace,
    }
    for key, step in steps.items():
        if key in config:
            manifests = step(manifests, config.pop(key))
    _refuse(config, str(folder))
    _check_unique(manifests, folder)
    return manifests


def _read_config(folder: Path, kind: str) -> dict[str, Any]:
    file = folder / "kustomization.yaml"
    if not file.is_file():
        raise KustomizeError(f"{file}: missing")
    (config,) = read_documents(file.read_text(encoding="utf-8"))
    if (config.pop("apiVersion", None), config.pop("kind", None)) != (API_VERSIONS[kind], kind):
        raise KustomizeError(f"{file}: not a {API_VERSIONS[kind]} {kind}")
    return dict(config)


def _read_manifests(path: Path) -> list[Manifest]:
    if not path.is_file():
        raise KustomizeError(f"{path}: missing")
    # Aliases of YAML would have two places share one object, and a patch of one change the other.
    return [json.loads(json.dumps(document)) for document in read_documents(path.read_text(encoding="utf-8"))]


def _patch(manifests: list[Manifest], patches: Sequence[Mapping[str, Any]], folder: Path) -> list[Manifest]:
    for entry in patches:
        rest = dict(entry)
        target = rest.pop("target", None)
        text = rest.pop("patch", None) or (folder / rest.pop("path")).read_text(encoding="utf-8")
        _refuse(rest, f"{folder}: patch")
        (patch,) = read_documents(text)
        if isinstance(patch, list):
            selected = _select(manifests, target or {})
            for manifest in selected:
                jsonpatch.JsonPatch(patch).apply(manifest, in_place=True)
        elif target is None:
            manifests = _merge(manifests, json.loads(json.dumps(patch)))
        else:
            raise KustomizeError(f"{folder}: a strategic patch names its object itself")
    return manifests


def _merge(manifests: list[Manifest], patch: Manifest) -> list[Manifest]:
    (target,) = _select(manifests, {"kind": patch["kind"], "name": patch["metadata"]["name"]})
    if patch.get("$patch") == "delete":
        return [manifest for manifest in manifests if manifest is not target]
    if target["apiVersion"].partition("/")[0] not in CUSTOM_GROUPS:
        raise KustomizeError(f"{_name(target)}: lists of core kinds merge by keys; write a JSON 6902 patch")
    merged = merge_json(target, patch)
    return [merged if manifest is target else manifest for manifest in manifests]


def merge_json(target: Any, patch: Any) -> Any:
    """JSON merge patch: mappings are merged, null removes, all else is replaced. Source: RFC 7396, section 2."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    if any(key.startswith("$") for key in patch):
        raise KustomizeError(f"{', '.join(patch)}: directives of a strategic patch are not known")
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_json(merged.get(key), value)
    return merged


def _set_namespace(manifests: list[Manifest], namespace: str) -> list[Manifest]:
    accounts = {manifest["metadata"]["name"] for manifest in manifests if manifest["kind"] == "ServiceAccount"}
    for manifest in manifests:
        if manifest["kind"] == "Namespace":
            manifest["metadata"]["name"] = namespace
        elif manifest["kind"] not in NOT_NAMESPACED:
            manifest["metadata"]["namespace"] = namespace
        for subject in manifest.get("subjects", []):
            if subject["kind"] == "ServiceAccount" and subject["name"] in accounts:
                subject["namespace"] = namespace
    return manifests


def _add_labels(manifests: list[Manifest], labels: Sequence[Mapping[str, Any]]) -> list[Manifest]:
    for entry in labels:
        _refuse({key: value for key, value in entry.items() if key != "pairs"}, "labels")
        for manifest in manifests:
            manifest["metadata"].setdefault("labels", {}).update(entry["pairs"])
    return manifests


def _set_images(manifests: list[Manifest], images: Sequence[Mapping[str, Any]]) -> list[Manifest]:
    known = {}
    for entry in images:
        _refuse({key: 0 for key in entry if key not in ("name", "newName", "newTag", "digest")}, "images")
        tag = f":{entry['newTag']}" if "newTag" in entry else ""
        digest = f"@{entry['digest']}" if "digest" in entry else ""
        known[entry["name"]] = entry.get("newName", entry["name"]) + tag + digest
    for container in _containers(manifests):
        # One that has a tag or a digest already would need kustomize's own parser of names.
        if container.get("image") in known:
            container["image"] = known[container["image"]]
    return manifests


def _containers(value: Any) -> list[dict[str, Any]]:
    """Every mapping in a list named containers or initContainers, at any depth: what kustomize changes images in."""
    if isinstance(value, list):
        return [found for item in value for found in _containers(item)]
    if not isinstance(value, dict):
        return []
    here = [item for key in ("containers", "initContainers") for item in value.get(key) or []]
    return here + [found for item in value.values() for found in _containers(item)]


def _replace(manifests: list[Manifest], replacements: Sequence[Mapping[str, Any]]) -> list[Manifest]:
    for entry in replacements:
        source = dict(entry["source"])
        value: Any = _select(manifests, {"kind": source.pop("kind"), "name": source.pop("name")})[0]
        for key in source.pop("fieldPath").split("."):
            value = value[key]
        _refuse(source, "replacements.source")
        for target in entry["targets"]:
            if set(target) != {"select", "fieldPaths", "options"} or target["options"] != {"create": True}:
                raise KustomizeError(f"replacements.targets: {target} is not known")
            for manifest in _select(manifests, target["select"]):
                for path in target["fieldPaths"]:
                    *parents, last = path.split(".")
                    place = manifest
                    for key in parents:
                        place = place.setdefault(key, {})
                    place[last] = copy.deepcopy(value)
    return manifests


def _select(manifests: Sequence[Manifest], target: Mapping[str, str]) -> list[Manifest]:
    if set(target) != {"kind", "name"}:
        raise KustomizeError(f"{dict(target)}: a target names kind and name")
    found = [one for one in manifests if (one["kind"], one["metadata"]["name"]) == (target["kind"], target["name"])]
    if len(found) != 1:
        raise KustomizeError(f"{target['kind']} {target['name']}: {len(found)} manifests, wanted one")
    return found


def _refuse(unknown: Mapping[str, Any], where: str) -> None:
    if unknown:
        raise KustomizeError(f"{where}: {', '.join(unknown)} is not known to this renderer")


def _check_unique(manifests: Sequence[Manifest], folder: Path) -> None:
    names = [_name(manifest) for manifest in manifests]
    if twice := {name for name in names if names.count(name) > 1}:
        raise KustomizeError(f"{folder}: {', '.join(sorted(twice))} twice")


def _name(manifest: Manifest) -> str:
    return f"{manifest['apiVersion']} {manifest['kind']} {manifest['metadata']['name']}"
