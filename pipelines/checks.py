"""What can be found wrong with a sweep before Ray starts: its data, its batches, its paths."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.space import JOIN, probe_points, trial_config
from pipelines.config import SweepConfig
from trainables.data.index import open_index
from trainables.errors import ConfigError, DataError, complaint
from trainables.uris import is_uri

EMBEDDED = "digits"


def check_data(config: SweepConfig) -> None:
    """Open every data set of the space; raises DataError, also where a batch is larger than its data set."""
    sizes: dict[str, int] = {}
    for point in probe_points(config.axes):
        trial = trial_config(config.trial, point)
        path = trial.data.path
        if path not in sizes:
            sizes[path] = len(open_index(path).train)
        if trial.global_batch_size > sizes[path]:
            allowed = f"at most {sizes[path]}, the training images of {path}"
            raise DataError(complaint("global_batch_size", trial.global_batch_size, allowed, "lower it or add images"))


def check_faults(config: SweepConfig) -> None:
    """Import every fault of the space and try its parameters; raises ConfigError."""
    for point in probe_points(config.axes):
        for i, fault in enumerate(trial_config(config.trial, point).faults):
            # Faults import torch, which takes seconds.
            from trainables.faults import load_fault

            try:
                inspect.signature(load_fault(fault.use, key=f"faults.{i}.use")).bind(None, **fault.params)
            except TypeError as error:
                allowed, remedy = f"the parameters of {fault.use} ({error})", f"correct faults.{i}.params"
                raise ConfigError(complaint(f"faults.{i}.params", fault.params, allowed, remedy)) from None


def check_checkpoints(config: SweepConfig) -> None:
    """Raise CheckpointError where `checkpoints` names a place that can't be written."""
    if config.checkpoints is not None:
        from trainables.checkpoint_files import open_files

        open_files(config.checkpoints)


def check_device(config: SweepConfig) -> None:
    """Raise ConfigError where a trial asks for CUDA and this machine has none."""
    trials = (trial_config(config.trial, point) for point in probe_points(config.axes))
    if any(trial.device == "cuda" for trial in trials):
        import torch

        if not torch.cuda.is_available():
            raise ConfigError(
                complaint("device", "cuda", "auto or cpu on this machine, which has no CUDA", "device=auto")
            )


def resolve_paths(config: SweepConfig) -> SweepConfig:
    """`config` with absolute paths: a trial may run in another working directory."""
    trial = {name: _resolve_axis(name, value) for name, value in config.trial.items()}
    space = {
        name: [_resolve_axis(name, value) for value in axis] if isinstance(axis, list) else axis
        for name, axis in config.space.items()
    }
    places: dict[str, str] = {"storage": str(Path(config.storage).expanduser().resolve())}
    if config.checkpoints is not None and not is_uri(config.checkpoints):
        places["checkpoints"] = str(Path(config.checkpoints).expanduser().resolve())
    return config.model_copy(update={"trial": trial, "space": space, **places})


def _resolve_axis(name: str, value: Any) -> Any:
    if JOIN in name:
        return {part: _resolve_axis(part, item) for part, item in value.items()}
    if name == "data.path":
        return value if value == EMBEDDED or is_uri(value) else str(Path(value).expanduser().resolve())
    if name == "diagnosis.bundle":
        return None if value is None else str(Path(value).expanduser().resolve())
    for section, key in (("data", "path"), ("diagnosis", "bundle")):
        if name == section and isinstance(value, Mapping) and key in value:
            return {**value, key: _resolve_axis(f"{section}.{key}", value[key])}
    return value
