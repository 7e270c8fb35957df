"""The Ray clusters and jobs of the overlays: what sweeps and trainings rely on, and what costs money."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from pipelines.cli import COMMANDS
from pipelines.config import SweepConfig
from pipelines.train import find_training
from tests.infra.manifests.__main__ import overlays
from tests.infra.manifests.kustomize import Manifest, render
from tests.infra.manifests.pods import cluster_specs

ROOT = Path(__file__).resolve().parents[2]
GPU = "nvidia.com/gpu"
QUEUE = "kueue.x-k8s.io/queue-name"


@pytest.fixture(scope="module", params=overlays(), ids=lambda path: path.name)
def manifests(request: pytest.FixtureRequest) -> list[Manifest]:
    """What one overlay makes."""
    folder: Path = request.param
    return render(folder)


@pytest.fixture
def cluster(manifests: list[Manifest]) -> dict[str, Any]:
    """The spec of the overlay's only cluster."""
    ((_, spec),) = cluster_specs(manifests)
    return spec


def ray_container(group: dict[str, Any]) -> dict[str, Any]:
    """The container of a group that runs Ray: KubeRay takes the first."""
    container: dict[str, Any] = group["template"]["spec"]["containers"][0]
    return container


def jobs(manifests: list[Manifest]) -> list[dict[str, Any]]:
    """The specs of the overlay's RayJobs."""
    return [one["spec"] for one in manifests if one["kind"] == "RayJob"]


def test_overlays_run_a_job_or_keep_a_cluster() -> None:
    """Dev and production are RayJobs, cluster is a RayCluster, and none is both."""
    kinds = {
        folder.name: [one["kind"] for one in render(folder) if one["apiVersion"] == "ray.io/v1"]
        for folder in overlays()
    }
    assert kinds == {"cluster": ["RayCluster"], "dev": ["RayJob"], "production": ["RayJob"]}


def test_every_node_wants_the_token(cluster: dict[str, Any]) -> None:
    """KubeRay is told to ask for our Secret's token; each Ray container has it even if KubeRay doesn't know how."""
    assert cluster["authOptions"] == {"mode": "token", "secretName": "epoch14-ray-token"}
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        environment = {one["name"]: one for one in ray_container(group)["env"]}
        assert environment["RAY_AUTH_MODE"]["value"] == "token"
        reference = environment["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]
        assert reference == {"name": "epoch14-ray-token", "key": "auth_token"}


def test_ray_is_the_lock_s(cluster: dict[str, Any]) -> None:
    """KubeRay, which decides by the version, is told the one that the images install."""
    lock = (ROOT / "requirements-cluster.lock").read_text(encoding="utf-8")
    assert f"\nray=={cluster['rayVersion']} " in lock


def test_trials_stay_off_the_head(cluster: dict[str, Any]) -> None:
    """The head offers no CPU and no GPU, only places for drivers, written as the shell hands them to `ray start`."""
    start = cluster["headGroupSpec"]["rayStartParams"]
    assert start["num-cpus"] == "0"
    (word,) = shlex.split(f"--resources={start['resources']}")
    drivers = json.loads(word.removeprefix("--resources="))
    assert drivers.keys() == {"trial_driver"}
    limits = ray_container(cluster["headGroupSpec"])["resources"]["limits"]
    assert GPU not in limits
    # 600 MB a driver: FACTS of Ray issue 65443.
    assert drivers["trial_driver"] * 0.6 < int(limits["memory"].removesuffix("Gi"))


def test_the_second_autoscaler_scales_to_nothing(cluster: dict[str, Any]) -> None:
    """Version 2, which needs pods that are never restarted; no group runs while nothing needs it."""
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["version"] == "v2"
    assert cluster["autoscalerOptions"]["idleTimeoutSeconds"] <= 600
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert group["template"]["spec"]["restartPolicy"] == "Never"
    for group in cluster["workerGroupSpecs"]:
        assert (group["replicas"], group["minReplicas"]) == (0, 0)
        assert group["maxReplicas"] >= 1


def test_gpu_groups_ask_for_gpus_and_stand_their_taint(request: pytest.FixtureRequest, cluster: dict[str, Any]) -> None:
    """On demand and spot, each with GPUs in its limits and the CUDA image; dev has neither group, GPU nor image."""
    groups = cluster["workerGroupSpecs"]
    if "[dev]" in request.node.name:
        assert all(GPU not in ray_container(group)["resources"]["limits"] for group in groups)
        assert all("cuda" not in ray_container(group)["image"] for group in groups)
        return
    assert [group["groupName"] for group in groups] == ["gpu-on-demand", "gpu-spot"]
    for group in groups:
        spec, resources = group["template"]["spec"], ray_container(group)["resources"]
        assert int(resources["limits"][GPU]) >= 1
        assert resources["limits"][GPU] == resources["requests"][GPU]
        assert {"key": GPU, "operator": "Exists", "effect": "NoSchedule"} in spec["tolerations"]
        assert "cuda" in ray_container(group)["image"]
    markets = [group["template"]["spec"]["nodeSelector"]["karpenter.sh/capacity-type"] for group in groups]
    assert markets == ["on-demand", "spot"]
    head = cluster["headGroupSpec"]["template"]["spec"]
    assert head["nodeSelector"]["karpenter.sh/capacity-type"] == "on-demand"


def test_spot_nodes_leave_time_for_a_checkpoint(cluster: dict[str, Any]) -> None:
    """Workers get longer than Kubernetes' 30 s, and no longer than the two minutes of a spot node's notice."""
    periods = [group["template"]["spec"]["terminationGracePeriodSeconds"] for group in cluster["workerGroupSpecs"]]
    assert all(60 <= period <= 120 for period in periods)


def test_kueue_knows_them(manifests: list[Manifest]) -> None:
    """Each names its queue, and says that its cluster grows, without which Kueue refuses an autoscaler."""
    for manifest in (one for one in manifests if one["apiVersion"] == "ray.io/v1"):
        assert manifest["metadata"]["labels"][QUEUE] == "epoch14"
        assert manifest["metadata"]["annotations"]["kueue.x-k8s.io/elastic-job"] == "true"
    for _, spec in cluster_specs(manifests):
        names = [group["groupName"] for group in spec["workerGroupSpecs"]]
        assert len(names) <= 7
        assert "head" not in names


def test_jobs_take_their_cluster_down(manifests: list[Manifest]) -> None:
    """The cluster goes after the job, within the hour."""
    for job in jobs(manifests):
        assert job["shutdownAfterJobFinishes"] is True
        assert 0 < job["ttlSecondsAfterFinished"] <= 3600
        assert "clusterSelector" not in job


def test_the_submitter_has_rays_client_and_the_token(manifests: list[Manifest]) -> None:
    """Its image is the head's, and KubeRay fills in its command."""
    for job in jobs(manifests):
        (submitter,) = job["submitterPodTemplate"]["spec"]["containers"]
        assert submitter["image"] == ray_container(job["rayClusterSpec"]["headGroupSpec"])["image"]
        assert "command" not in submitter
        assert "RAY_AUTH_TOKEN" in {one["name"] for one in submitter["env"]}


def entrypoint(job: dict[str, Any]) -> tuple[str, str, list[str], SweepConfig]:
    """Command, preset, overrides and config of a job's entrypoint."""
    program, command, preset, *options = shlex.split(job["entrypoint"])
    assert program == "epoch14"
    pairs = list(zip(options[::2], options[1::2], strict=True))
    assert [value for name, value in pairs if name == "--address"] == ["auto"]
    overrides = [value for name, value in pairs if name == "--set"]
    assert len(overrides) + 1 == len(pairs)
    return command, preset, overrides, SweepConfig.load(preset, overrides)


def test_entrypoints_are_commands_of_epoch14(manifests: list[Manifest]) -> None:
    """Each is a command whose preset and overrides the config takes; records and checkpoints outlive the pods."""
    for job in jobs(manifests):
        command, preset, overrides, config = entrypoint(job)
        assert command in COMMANDS
        if command == "train":
            assert find_training(preset, overrides, str(config.tracking.uri)).config.num_trials == 1
        assert config.tracking_uri == "http://mlflow:5000"
        assert str(config.checkpoints).startswith("s3://")
        (mount,) = (
            one
            for one in ray_container(job["rayClusterSpec"]["headGroupSpec"])["volumeMounts"]
            if one["name"] == "results"
        )
        assert config.storage == mount["mountPath"]


def test_a_trial_of_the_entrypoint_fits_its_cluster(manifests: list[Manifest]) -> None:
    """A worker fits on one pod, all workers of a trial on the pods of one group, GPUs included."""
    for job in jobs(manifests):
        need = entrypoint(job)[3].resources
        limits = [
            (group["maxReplicas"], ray_container(group)["resources"]["limits"])
            for group in job["rayClusterSpec"]["workerGroupSpecs"]
        ]
        places = [
            most
            * min(
                int(limit["cpu"]) // need.cpus_per_worker,
                int(int(limit.get(GPU, 0)) // need.gpus_per_worker) if need.gpus_per_worker else need.workers,
            )
            for most, limit in limits
        ]
        assert all(place >= need.workers for place in places)


def test_nodes_have_room_for_the_data_that_they_copy(manifests: list[Manifest]) -> None:
    """Shards at s3:// are copied by every node that opens them, the head included: ImageNet's are about 140 GB."""
    for job in jobs(manifests):
        if entrypoint(job)[3].trial["data"]["path"].startswith("s3://"):
            cluster = job["rayClusterSpec"]
            for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
                limit = ray_container(group)["resources"]["limits"]["ephemeral-storage"]
                assert int(limit.removesuffix("Gi")) >= 150


def test_a_run_again_goes_on_only_where_the_command_does() -> None:
    """`train` goes on after an interruption, so its job is tried again; a sweep would start anew, so it is not."""
    for folder in overlays():
        for job in jobs(render(folder)):
            command = entrypoint(job)[0]
            assert (job["backoffLimit"] > 0) == (command == "train")


def test_results_outlive_the_cluster(manifests: list[Manifest]) -> None:
    """The head's results lie on a claim that is no part of the cluster."""
    ((_, spec),) = cluster_specs(manifests)
    (volume,) = (one for one in spec["headGroupSpec"]["template"]["spec"]["volumes"] if one["name"] == "results")
    claims = {one["metadata"]["name"] for one in manifests if one["kind"] == "PersistentVolumeClaim"}
    assert volume["persistentVolumeClaim"]["claimName"] in claims


def test_caches_are_where_the_images_look(cluster: dict[str, Any]) -> None:
    """Each node has a volume at the folder that the images name in EPOCH14_CACHE."""
    dockerfile = (ROOT / "infra" / "docker" / "epoch14.Dockerfile").read_text(encoding="utf-8")
    cache = re.search(r"EPOCH14_CACHE=(\S+)", dockerfile)
    assert cache
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert cache[1] in {mount["mountPath"] for mount in ray_container(group)["volumeMounts"]}
