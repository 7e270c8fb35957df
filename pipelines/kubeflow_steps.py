"""What each step of the Kubeflow pipeline does, as plain functions: values and folders in, values and files out.

`pipelines.kubeflow` makes components of them. Each step runs in a process of its own, in a pod of its own on Kubeflow,
so what the next one needs goes through its values, its files, the tracking server and the data set alone.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.config import SweepConfig
from trainables.errors import ConfigError, DataError, Epoch14Error, SweepError, complaint, error_line

if TYPE_CHECKING:
    from pipelines.evaluate import Scores
    from pipelines.sweep import SweepResult, TrialRow

NETWORK = "network"
"""Folder in a model artifact: the network as `trainables.serve` reads it."""
TRAINING = "training.json"
"""File in a model artifact: what made the network."""
MODEL_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,99}", re.ASCII)
NAMED = 3
"""Findings that a refusal names."""


@contextmanager
def one_line() -> Iterator[None]:
    """End the process with the one line of an error that a user can cause, and no traceback."""
    try:
        yield
    except Epoch14Error as error:
        sys.exit(error_line(error))


def load_config(preset: str, overrides: Sequence[str], **settings: str) -> SweepConfig:
    """A sweep by a preset's name, or by the text of a YAML file, since a file of the user's lies in no pod.

    Args:
        preset: the name, or the text.
        overrides: `key=value`, as of `--set`.
        settings: what the pipeline itself sets: data_path, tracking_uri, storage; an empty one changes nothing.

    Raises:
        ConfigError: as `SweepConfig.load`.

    """
    keys = {"data_path": "data.path", "tracking_uri": "tracking.uri", "storage": "storage"}
    changes = [*overrides, *(f"{keys[name]}={json.dumps(value)}" for name, value in settings.items() if value)]
    if "\n" not in preset.strip():
        return SweepConfig.load(preset, changes)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sweep.yaml"
        file.write_text(preset, encoding="utf-8")
        return SweepConfig.load(str(file), changes)


def check_model_name(name: str) -> None:
    """Raise ConfigError, hours before the last step would, where the registry takes no model of this name."""
    if not MODEL_NAME.fullmatch(name):
        allowed = "up to 100 letters, digits, '.', '_' and '-', the first of them a letter or digit"
        raise ConfigError(complaint("model_name", name, allowed, "correct it"))


def prepare_data(config: SweepConfig, shards: str, uri: str, index_file: Path) -> str:
    """Check what the later steps rely on, make shards of the data set where `shards` names a place, and list it.

    The index is JSON: path, root, classes, images, channel moments, fingerprint. Returns the path that the later steps
    are to use. Raises ConfigError, DataError, or TrackingError where the store at `uri` can't be used.
    """
    from infra.space import probe_points, trial_config
    from infra.tracking import check_tracking
    from pipelines.shard import shard
    from trainables.data.index import open_index

    check_tracking(uri)
    path = trial_config(config.trial, next(iter(probe_points(config.axes)))).data.path
    if shards:
        print(shard(path, shards, seed=0, shard_size="192MB", reencode=None, threads=None), flush=True)  # noqa: T201 - the step's log
        path = shards
    index = open_index(path)
    content = {
        "path": path,
        "root": index.root,
        "classes": index.classes,
        "images": {"train": len(index.train), "val": len(index.val)},
        "channel_mean": index.channel_mean,
        "channel_std": index.channel_std,
        "fingerprint": index.fingerprint(),
    }
    index_file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


def examine(config: SweepConfig, path: str, limit: int, json_file: Path, html_file: Path) -> dict[str, int]:
    """Examine the data set as `epoch14 doctor` does; returns severity -> findings. `limit` 0: every image is read."""
    from rich.console import Console

    from infra.space import probe_points, trial_config
    from pipelines.doctor import examine_data, print_findings, shown_progress, write_files
    from trainables.data.doctor.finding import SEVERITIES

    data = trial_config(config.trial, next(iter(probe_points(config.axes)))).data.model_copy(update={"path": path})
    console = Console()
    with shown_progress(console) as progress:
        examination = examine_data(data, limit=limit or None, progress=progress)
    print_findings(examination, console)
    write_files(examination, json_file, html_file)
    return {name: sum(found.severity == name for found in examination.findings) for name in SEVERITIES}


def check_findings(json_file: Path, fail_on: str) -> None:
    """Raise DataError where the doctor wrote of a finding as bad as `fail_on`, or worse; `never`: none is too bad.

    It is a step of its own, since Kubeflow keeps no report of a step that fails. Raises ConfigError where `fail_on` is
    no severity.
    """
    from trainables.data.doctor.finding import SEVERITIES

    grades = (*SEVERITIES, "never")
    if fail_on not in grades:
        raise ConfigError(complaint("fail_on", fail_on, ", ".join(grades), "choose one of these"))
    content = json.loads(json_file.read_text(encoding="utf-8"))
    bad = SEVERITIES[grades.index(fail_on) :]
    found = [finding for finding in content["findings"] if finding["severity"] in bad]
    if found:
        named = "; ".join(f"{one['check']} ({one['severity']}): {one['summary']}" for one in found[:NAMED])
        more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
        allowed = f"a data set without findings from {fail_on} on ({named}{more})"
        remedy = f"mend it as the doctor's report says, or run the pipeline with a higher fail_on than {fail_on}"
        raise DataError(complaint("data.path", content["path"], allowed, remedy))


def sweep_for_best(config: SweepConfig, result_file: Path) -> tuple[SweepResult, TrialRow]:
    """Run the sweep, write its result as JSON, and pick the healthy trial with the best val top-1.

    Raises as `run_sweep`, and SweepError where no trial stayed healthy.
    """
    from rich.console import Console

    from infra.tracking import without_password
    from pipelines.report import answer, healthy_rows, print_report
    from pipelines.sweep import run_sweep

    result = run_sweep(config)
    print_report(result, Console())
    healthy = healthy_rows(result.rows)
    best = max(healthy, key=lambda row: row.best_val_top1, default=None)
    content = {
        "name": result.name,
        "tracking_uri": without_password(result.tracking_uri),
        "experiment": result.experiment,
        "parent_run_id": result.parent_run_id,
        "answer": answer(result.rows),
        "best": best and best.trial_id,
        "trials": [asdict(row) for row in result.rows],
    }
    result_file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if best is None or result.interrupted:
        allowed = f"a sweep with a healthy trial that was not interrupted ({answer(result.rows)})"
        raise SweepError(complaint("sweep", result.name, allowed, "see the trials in MLflow, and mend the config"))
    return result, best


def train_network(trial_id: str, overrides: Sequence[str], uri: str, folder: Path) -> dict[str, Any]:
    """Train a recorded trial to its end, and write the network and what made it into `folder`.

    Returns what made it: run_id, classes, step, val_top1, tags. Raises as `run_training`, and SweepError where the run
    did not come to its end.
    """
    from rich.console import Console

    from pipelines.report import print_report
    from pipelines.sweep import run_sweep
    from pipelines.train import export_network, find_training

    training = find_training(trial_id, overrides, uri)
    result = run_sweep(training.config, folder=training.folder)
    print_report(result, Console())
    (row,) = result.rows
    if row.status != "finished":
        allowed = f"a run that comes to its end ({row.status} at step {row.steps}: {row.symptom or row.error})"
        remedy = "see its run in MLflow; train_overrides change the config of this run alone"
        raise SweepError(complaint("training", training.origin, allowed, remedy))
    (folder / NETWORK).mkdir(parents=True)
    network = asdict(export_network(training, result, folder / NETWORK))
    (folder / TRAINING).write_text(json.dumps(network, indent=1) + "\n", encoding="utf-8")
    return network


def evaluate_artifact(folder: Path, path: str) -> Scores:
    """Score the network of a model artifact on val/ of the data set."""
    from pipelines.evaluate import evaluate_network

    return evaluate_network(folder / NETWORK, path)


def register_artifact(folder: Path, uri: str, name: str, top1: float, min_top1: float) -> str:
    """Put the network of a model artifact into the registry; returns what MLflow loads it by.

    Args:
        folder: the artifact.
        uri: the tracking store.
        name: of the registered model.
        top1: what the evaluation gave.
        min_top1: least of it that may be registered.

    Raises:
        SweepError: it is less.

    """
    from pipelines.train import TrainedNetwork, register

    if top1 < min_top1:
        allowed = f"at least min_top1, {min_top1:g}"
        raise SweepError(complaint("val top-1", round(top1, 5), allowed, "train longer, or lower min_top1"))
    network = TrainedNetwork(**json.loads((folder / TRAINING).read_text(encoding="utf-8")))
    tags = {**network.tags, "epoch14.evaluated_top1": f"{top1:.5f}"}
    return register(uri, name, replace(network, tags=tags), folder / NETWORK).uri
