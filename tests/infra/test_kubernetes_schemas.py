"""Every manifest of every overlay is what kustomize makes, and its schema takes it and nothing else."""

from __future__ import annotations

import copy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.infra.manifests import __main__ as table
from tests.infra.manifests.kustomize import KustomizeError, Manifest, read_documents, render
from tests.infra.manifests.schemas import complaints

OVERLAYS = table.overlays()
BASE = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
CONFIG_MAP = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {b: c}\n"


def named(manifests: list[Manifest]) -> dict[tuple[str, str], Manifest]:
    """(kind, name) -> manifest."""
    return {(manifest["kind"], manifest["metadata"]["name"]): manifest for manifest in manifests}


def mappings(value: Any) -> list[dict[str, Any]]:
    """Every mapping in a manifest, at any depth."""
    if isinstance(value, list):
        return [found for item in value for found in mappings(item)]
    return [value, *mappings(list(value.values()))] if isinstance(value, dict) else []


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_every_manifest_is_taken_by_its_schema(overlay: Path) -> None:
    """There are manifests, each has a schema, and none has anything to complain of."""
    manifests = render(overlay)
    assert len(manifests) > 20
    assert {name: found for name, manifest in named(manifests).items() if (found := complaints(manifest))} == {}


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_kustomize_makes_the_same(overlay: Path) -> None:
    """Where kubectl is there, its kustomize renders what our renderer does."""
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl on PATH: its kustomize is not compared with our renderer")
    made = subprocess.check_output(["kubectl", "kustomize", str(overlay)], text=True, timeout=60)
    assert named(render(overlay)) == named(list(yaml.safe_load_all(made)))


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_an_unknown_field_is_an_error_in_every_kind(overlay: Path) -> None:
    """A field that a schema does not know is named, beside the spec as well as in it, whatever the kind."""
    for (kind, name), manifest in named(render(overlay)).items():
        planted = copy.deepcopy(manifest) | {"plantedField": 1}
        assert any("plantedField" in text for text in complaints(planted)), (kind, name)
        if "spec" in manifest:
            planted = copy.deepcopy(manifest)
            planted["spec"]["plantedField"] = 1
            assert any("plantedField" in text for text in complaints(planted)), (kind, name)


def test_an_unknown_field_is_an_error_at_any_depth() -> None:
    """In a RayJob every mapping is closed but those of free keys: labels, start parameters, resources and the like."""
    (overlay,) = (path for path in OVERLAYS if path.name == "production")
    manifest = named(render(overlay))["RayJob", "epoch14"]
    open_mappings = set()
    for place, _ in enumerate(mappings(manifest)):
        planted = copy.deepcopy(manifest)
        target = mappings(planted)[place]
        target["planted-field"] = "1"
        if not complaints(planted):
            open_mappings.add(tuple(sorted(target)))
    free = {"planted-field", "app.kubernetes.io/component", "karpenter.sh/capacity-type", "cpu", "memory"}
    free |= {"ephemeral-storage", "nvidia.com/gpu", "num-cpus", "resources", "kueue.x-k8s.io/queue-name"}
    free |= {"kueue.x-k8s.io/elastic-job", "karpenter.sh/do-not-disrupt", "app.kubernetes.io/part-of"}
    free |= {"cluster-autoscaler.kubernetes.io/safe-to-evict"}
    assert {key for keys in open_mappings for key in keys} - free == set()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.rayClusterSpec.headGroupSpec.template.spec.containers.0.resources.limits.memory", "16 Gigabytes"),
        ("spec.rayClusterSpec.headGroupSpec.template.spec.containers.0.ports.0.containerPort", "6379"),
        ("spec.rayClusterSpec.headGroupSpec.template.spec.restartPolicy", "never"),
        ("spec.rayClusterSpec.headGroupSpec.rayStartParams.num-cpus", 0),
        ("spec.rayClusterSpec.autoscalerOptions.version", "v3"),
        ("spec.rayClusterSpec.workerGroupSpecs.0.maxReplicas", True),
        ("spec.submissionMode", "JobMode"),
        ("spec.shutdownAfterJobFinishes", False),
        ("spec.ttlSecondsAfterFinished", "1h"),
    ],
)
def test_wrong_values_are_errors(path: str, value: object) -> None:
    """Types, enumerations, quantities, and the rule that a time to live needs a shutdown."""
    (overlay,) = (folder for folder in OVERLAYS if folder.name == "dev")
    manifest: Any = named(render(overlay))["RayJob", "epoch14"]
    place = manifest
    *parents, last = path.split(".")
    for key in parents:
        place = place[int(key) if key.isdigit() else key]
    place[last] = value
    assert complaints(manifest)


@pytest.mark.parametrize(
    ("kind", "name", "path"),
    [
        ("RayJob", "epoch14", "spec.rayClusterSpec.headGroupSpec"),
        ("RayJob", "epoch14", "spec.rayClusterSpec.workerGroupSpecs.0.groupName"),
        ("RayJob", "epoch14", "spec.rayClusterSpec.headGroupSpec.template.spec.containers"),
        ("Deployment", "mlflow", "spec.selector"),
        ("StatefulSet", "postgres", "spec.template"),
        ("RoleBinding", "ray-autoscaler", "roleRef"),
        ("NetworkPolicy", "mlflow", "spec.podSelector"),
        ("Service", "mlflow", "apiVersion"),
    ],
)
def test_missing_fields_are_errors(kind: str, name: str, path: str) -> None:
    """What a kind requires is required here."""
    (overlay,) = (folder for folder in OVERLAYS if folder.name == "dev")
    manifest: Any = named(render(overlay))[kind, name]
    if path == "apiVersion":
        manifest[path] = "v2"
        with pytest.raises(KeyError):
            complaints(manifest)
        return
    place = manifest
    *parents, last = path.split(".")
    for key in parents:
        place = place[int(key) if key.isdigit() else key]
    del place[last]
    assert any(last in text for text in complaints(manifest))


def test_the_readme_has_the_table_as_it_is() -> None:
    """README.md lists every manifest and its schema; `python -m tests.infra.manifests --write` mends it."""
    assert table.written_table() == table.table()
    assert table.refused() == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("namePrefix: a-", "namePrefix is not known"),
        ("images: [{name: a, newNaem: b}]", "newNaem is not known"),
        ("labels: [{pairs: {a: b}, includeSelectors: true}]", "includeSelectors is not known"),
        ("resources: [none.yaml]", "missing"),
        ("patches: [{patch: '{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {b: d}}'}]", "JSON 6902"),
        ("patches: [{target: {kind: ConfigMap, name: z}, patch: '[{op: add, path: /x, value: 1}]'}]", "0 manifests"),
        ("patches: [{target: {kind: ConfigMap}, patch: '[{op: add, path: /x, value: 1}]'}]", "names kind and name"),
    ],
)
def test_the_renderer_refuses_what_it_does_not_know(text: str, complaint: str, tmp_path: Path) -> None:
    """Nothing of a kustomization is passed over in silence."""
    (tmp_path / "a.yaml").write_text(CONFIG_MAP, encoding="utf-8")
    resources = "" if text.startswith("resources") else "resources: [a.yaml]\n"
    (tmp_path / "kustomization.yaml").write_text(BASE + resources + text, encoding="utf-8")
    with pytest.raises(KustomizeError, match=complaint):
        render(tmp_path)


def test_a_key_twice_is_an_error() -> None:
    """YAML's last one wins elsewhere; here it is refused."""
    with pytest.raises(KustomizeError, match="twice"):
        read_documents("a: 1\nb: 2\na: 3\n")
