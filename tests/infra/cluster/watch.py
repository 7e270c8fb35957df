"""Sweeps whose trials write down which node ran which step, and what is left of them: checkpoints and MLflow runs."""

from __future__ import annotations

import json
import logging
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from mlflow.entities import Run

from infra.tracking import open_client
from tests.infra.cluster.node import Node
from tests.infra.cluster.simulation import BUCKET, Simulation

log = logging.getLogger(__name__)

STEPS = 61
"""One more than a checkpoint's, to see that what is trained on from it is the same too."""
EVERY = 10
HOLD = 25
"""Step at which a trial waits, for something to be lost."""
KEPT = HOLD - HOLD % EVERY
"""Step of the checkpoint that it goes on from."""
WITNESS = "tests.infra.cluster.witness:witness"
LIMIT_S = 900.0


def trial(folder: Path, name: str, hold: int = HOLD) -> dict[str, Any]:
    """A trial's config: it trains the same weights under any name, and waits at step `hold` for FOLDER/NAME.go."""
    return {
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
        "faults": [{"use": WITNESS, "params": {"folder": str(folder), "name": name, "hold": hold}}],
    }


def sweep(folder: Path, name: str, trials: Sequence[str], workers: int) -> dict[str, Any]:
    """A sweep of these trials at the same time, each worker on a node of its own; `name` is its experiment's too."""
    each = [trial(folder, one) for one in trials]
    return {
        "name": name,
        "trial": {key: value for key, value in each[0].items() if key != "faults"},
        "space": {"faults": [one["faults"] for one in each]},
        "search": {"max_concurrent": len(trials)},
        "resources": {"workers": workers, "cpus_per_worker": 1, "gpus_per_worker": 4, "placement": "strict_spread"},
        "checkpoints": f"s3://{BUCKET}/checkpoints",
        "tracking": {"experiment": name},
    }


def wait_for(condition: Callable[[], bool], what: str, limit_s: float = LIMIT_S) -> None:
    """Return when it holds."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"no {what} in {limit_s:g} s"
        time.sleep(0.3)


def witnessed(folder: Path, name: str, rank: int = 0) -> list[tuple[int, str]]:
    """(step, node) as that rank of that trial has run them so far."""
    file = folder / f"{name}-{rank}.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    entries = [json.loads(line) for line in lines]
    processes = [list(group) for _, group in groupby(entries, key=lambda entry: (entry["node"], entry["process"]))]
    # As a run is set up it asks for step 0, to see what there is.
    return [(entry["step"], entry["node"]) for process in processes for entry in process[1:]]


def is_held(folder: Path, name: str, ranks: int) -> bool:
    """Whether every rank of the trial has come to the step at which it waits, for the first time."""
    return all(len(witnessed(folder, name, rank)) == HOLD + 1 for rank in range(ranks))


def checkpoints(cluster: Simulation, name: str, step: int) -> list[str]:
    """Keys of the manifests of the checkpoints at that step, of the trials of that sweep."""
    prefix, end = f"checkpoints/{name}-", f"step-{step:09d}/manifest.json"
    found = cluster.keys["owner"].client("s3").list_objects_v2(Bucket=BUCKET, Prefix=prefix)
    return [one["Key"] for one in found.get("Contents", []) if one["Key"].endswith(end)]


def digests(cluster: Simulation, name: str, step: int = STEPS) -> list[str]:
    """BLAKE2b of weights and optimizer in those checkpoints; by default in the last of a trial that is over."""
    client = cluster.keys["owner"].client("s3")
    manifests = [
        json.loads(client.get_object(Bucket=BUCKET, Key=key)["Body"].read()) for key in checkpoints(cluster, name, step)
    ]
    found = [str(manifest["files"]["state.safetensors"]["blake2b"]) for manifest in manifests]
    log.info("%s: BLAKE2b of weights and optimizer after step %d: %s", name, step - 1, found)
    return found


def head_of(cluster: Simulation) -> Node:
    """The node of the head that runs now."""
    (instance,) = (
        one["InstanceId"]
        for one in cluster.machines.running()
        if {"Key": "ray-node-type", "Value": "head"} in one["Tags"]
    )
    return cluster.machines.nodes[instance]


def take_away(cluster: Simulation, instance_id: str) -> None:
    """Have AWS terminate an instance, and return when nothing of it runs."""
    cluster.machines.reclaim(instance_id)
    wait_for(lambda: instance_id not in cluster.machines.nodes, "end of a node", 120)


def instance_of(cluster: Simulation, host: str) -> str:
    """The instance whose host name that is."""
    (found,) = (one for one in cluster.machines.nodes if host.endswith(one[-8:]))
    return found


def lose_first_node(
    cluster: Simulation,
    job: subprocess.Popen[bytes],
    output: Path,
    folder: Path,
    name: str,
    trials: Sequence[str],
    *,
    ranks: int,
) -> str:
    """When all trials of a sweep wait at HOLD and are saved: lose the node of the first one's rank 0, and let it go.

    Returns the instance's id.
    """

    def ready() -> bool:
        held = all(is_held(folder, one, ranks) for one in trials)
        return held and len(checkpoints(cluster, name, KEPT)) == len(trials)

    wait_for(lambda: job.poll() is not None or ready(), "trials with checkpoints")
    assert job.poll() is None, output.read_text()
    _, host = witnessed(folder, trials[0])[-1]
    lost = instance_of(cluster, host)
    log.info("all trials are at step %d; %s, with rank 0 of the first, is taken away", HOLD, lost)
    take_away(cluster, lost)
    (folder / f"{trials[0]}.go").touch()
    return lost


def runs(tracking_uri: str, name: str) -> list[Run]:
    """The runs of that sweep in MLflow: its own first, then the trials' by id."""
    client = open_client(tracking_uri)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    return sorted(found, key=lambda run: str(run.data.tags.get("trial_id", "")))


def check_records(tracking_uri: str, name: str, trials: int) -> None:
    """One run for the sweep and one a trial, all finished; the loss of each step is there, and nothing twice."""
    found = runs(tracking_uri, name)
    assert [run.info.status for run in found] == ["FINISHED"] * (1 + trials)
    parents = [run.data.tags.get("mlflow.parentRunId") for run in found]
    assert parents == [None, *[found[0].info.run_id] * trials]
    client = open_client(tracking_uri)
    for run in found[1:]:
        log.info("MLflow run %s %s %s", run.info.run_id, run.info.status, run.info.run_name)
        histories = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
        assert sorted(point.step for point in histories["loss"]) == list(range(STEPS))
        points = Counter((key, point.step) for key, history in histories.items() for point in history)
        assert [point for point, count in points.items() if count > 1] == []
