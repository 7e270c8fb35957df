"""run_training: one config to its last step, resumed by itself, and its best checkpoint in the model registry.

A training is a sweep of one trial whose folder is a function of what is trained: the same command goes on where it was,
and so does one with other resources, records or detector settings.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.tracking import without_password
from infra.tracking_search import find_trial, recorded_config
from pipelines.checks import resolve_paths
from pipelines.config import PRESETS, SweepConfig, preset_names
from pipelines.overrides import apply_overrides
from pipelines.sweep import SweepResult, run_sweep
from pipelines.sweep_folder import checkpoint_places
from trainables.config import TrialConfig
from trainables.errors import CheckpointError, ConfigError, TrackingError, complaint
from trainables.identity import what_is_trained

if TYPE_CHECKING:
    from infra.registry import RegisteredModel

KEY = "PRESET_OR_TRIAL"


@dataclass(frozen=True)
class Training:
    """What is to be trained."""

    config: SweepConfig
    """A sweep of one trial."""
    origin: str
    """The preset, the file, or the trial that it is the config of."""

    @property
    def folder(self) -> Path:
        """Where its state lies: a function of what is trained, and of which images."""
        trial = _only_trial(self.config)
        trained = what_is_trained(trial.model_dump(mode="json"))
        identity = json.dumps([trained, trial.data.path, self.config.checkpoints], sort_keys=True)
        digest = hashlib.blake2b(identity.encode(), digest_size=4).hexdigest()
        return Path(self.config.storage) / f"{self.config.name}-{digest}"


@dataclass(frozen=True)
class TrainedNetwork:
    """The best checkpoint of a run that came to its end, as `trainables.serve` reads it, and what made it."""

    run_id: str
    """The MLflow run that trained it."""
    classes: int
    step: int
    """Of the checkpoint."""
    val_top1: float
    """Of that checkpoint, as the run itself evaluated it."""
    tags: Mapping[str, str]
    """Its lineage, for the registry."""


@dataclass(frozen=True)
class TrainingResult:
    """How a training ended."""

    sweep: SweepResult
    model: RegisteredModel | None
    """None where the run did not come to its end."""
    step: int = 0
    """Of the checkpoint that was registered."""
    val_top1: float = 0.0
    """Of that checkpoint."""


def find_training(target: str, overrides: Sequence[str], uri: str) -> Training:
    """The training that `target` names: a preset, a YAML file, or a trial recorded in the store at `uri`.

    Raises ConfigError where it is none of these, or a sweep of several trials.
    """
    if (PRESETS / f"{target}.yaml").is_file() or Path(target).is_file():
        return _checked(SweepConfig.load(target, overrides), target)
    try:
        record = find_trial(uri, target)
    except (ConfigError, TrackingError):
        allowed = f"a preset ({', '.join(preset_names())}), a YAML file, or a trial in {without_password(uri)}"
        remedy = "correct it; a sweep's table and the MLflow UI show the ids of its trials"
        raise ConfigError(complaint(KEY, target, allowed, remedy)) from None
    trial, sweep = recorded_config(uri, record.run_id)
    values = {
        "name": f"train-{record.trial_id}",
        "trial": trial,
        "resources": sweep.get("resources") or {},
        "tracking": {**(sweep.get("tracking") or {}), "uri": uri},
        "storage": sweep.get("storage") or "outputs",
    }
    config = SweepConfig.parse(apply_overrides(values, overrides, SweepConfig.dotted_keys()))
    return _checked(config, f"trial {record.trial_id} ({record.name})")


def run_training(
    training: Training,
    *,
    local: bool = False,
    address: str | None = None,
    write: Callable[[str], None] | None = None,
    abandon: Callable[[Path], None] | None = None,
) -> TrainingResult:
    """Train to the last step, or go on with what an interrupted run of the same training left; then register the model.

    A run that stops on a symptom, fails or is interrupted registers nothing. Raises as `run_sweep`, and CheckpointError
    where the run's last state could not be written.
    """
    folder = training.folder
    result = run_sweep(training.config, local=local, address=address, folder=folder, write=write, abandon=abandon)
    (row,) = result.rows
    if row.status != "finished":
        return TrainingResult(result, None)
    with tempfile.TemporaryDirectory() as name:
        network = export_network(training, result, Path(name))
        model = register(result.tracking_uri, training.config.name, network, Path(name))
    return TrainingResult(result, model, network.step, network.val_top1)


def _checked(config: SweepConfig, origin: str) -> Training:
    """A sweep of one trial, which is sure to keep its last state."""
    if config.num_trials != 1 or config.search.kind != "grid":
        allowed = f"one trial; this is a sweep of {config.num_trials}"
        remedy = "sweep it, then train one of its trials by id; or fix its axes with --set"
        raise ConfigError(complaint(KEY, origin, allowed, remedy))
    trial = _only_trial(config)
    every = min(trial.checkpoint.every or trial.max_steps, trial.max_steps)
    values: dict[str, Any] = trial.model_dump(mode="json")
    values["checkpoint"]["every"] = every
    return Training(resolve_paths(config.model_copy(update={"trial": values, "space": {}})), origin)


def _only_trial(config: SweepConfig) -> TrialConfig:
    from infra.space import probe_points, trial_config

    return trial_config(config.trial, next(iter(probe_points(config.axes))))


def export_network(training: Training, result: SweepResult, folder: Path) -> TrainedNetwork:
    """Write the best checkpoint of a run that finished into an empty folder, as `trainables.serve` reads it.

    Raises CheckpointError where the run's last state could not be written.
    """
    from trainables.checkpoint import CheckpointStore
    from trainables.data.index import open_index
    from trainables.serve import save_network

    config = _only_trial(training.config)
    (row,) = result.rows
    place = checkpoint_places(training.config, result.path, only_trial=True)(row.trial_id)
    with CheckpointStore(place, keep=config.checkpoint.keep) as store:
        best, last = store.best(), store.latest()
    if best is None or last is None or last.step < config.max_steps:
        allowed = "a place that took the run's last state (the log says what went wrong)"
        remedy = "make room, and go on from the checkpoint before with another checkpoint.every"
        raise CheckpointError(complaint("checkpoints", place, allowed, remedy))
    index = open_index(config.data.path)
    top1 = float(best.meta["top1"])
    tags = {
        "epoch14.config": training.origin,
        "epoch14.val_top1": f"{top1:.5f}",
        "epoch14.seed": str(config.seed),
        "epoch14.data": f"{index.root}: {len(index.train)} + {len(index.val)} images, {len(index.classes)} classes",
        "epoch14.sweep_run": result.parent_run_id,
    }
    run_id = find_trial(result.tracking_uri, row.trial_id).run_id
    save_network(folder, config, index, best.tensors)
    return TrainedNetwork(run_id, len(index.classes), best.step, top1, tags)


def register(uri: str, name: str, network: TrainedNetwork, folder: Path) -> RegisteredModel:
    """Put a network that `export_network` wrote into the model registry of the store at `uri`."""
    from infra.registry import register_network

    classes, step, tags = network.classes, network.step, network.tags
    return register_network(uri, network.run_id, name, folder, classes=classes, step=step, tags=tags)
