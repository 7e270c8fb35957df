"""The folder of a sweep's state: a new one, or that of an interrupted sweep, which may have to be fetched."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from pipelines.config import SweepConfig
from trainables.errors import ConfigError, complaint
from trainables.places import FAILURES, explain

SWEEP_FILE = "sweep.yaml"
"""The config that a sweep ran with, in its folder: a resume is checked against it."""


def make_storage(config: SweepConfig) -> None:
    """Make the folder that holds the sweeps' folders; raises ConfigError."""
    try:
        Path(config.storage).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        allowed = f"a folder that can be written ({error.strerror})"
        raise ConfigError(complaint("storage", config.storage, allowed, "set storage=FOLDER")) from None


def new_folder(config: SweepConfig) -> Path:
    """The folder of a sweep that begins now."""
    stem = Path(config.storage) / f"{config.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    return stem if not stem.exists() else stem.with_name(f"{stem.name}-{time.time_ns() % 10**6:06d}")


def old_folder(config: SweepConfig, folder: Path) -> Path:
    """The folder of an interrupted sweep of this config, fetched from beside its checkpoints where it is lost.

    Raises ConfigError where it is neither here nor there, or another config's.
    """
    place = state_place(config, folder)
    if not holds_sweep(folder) and place is not None:
        _fetch(place, folder)
    if not holds_sweep(folder):
        allowed = "the folder of an interrupted sweep, as it was printed" + (
            f", or its copy in {place}" if place else ""
        )
        raise ConfigError(complaint("--resume", str(folder), allowed, "correct it or start a new sweep"))
    if not is_of(config, folder):
        allowed = f"a sweep of this very config ({folder / SWEEP_FILE})"
        raise ConfigError(complaint("--resume", str(folder), allowed, f"give {folder / SWEEP_FILE} as the preset"))
    return folder


def holds_sweep(folder: Path) -> bool:
    """Whether there is a sweep in `folder` to go on with: its config, and Tune's state."""
    from infra.ray_tune import can_resume

    return (folder / SWEEP_FILE).is_file() and can_resume(folder)


def is_of(config: SweepConfig, folder: Path) -> bool:
    """Whether the sweep in `folder` is of this very config."""
    return (folder / SWEEP_FILE).read_text(encoding="utf-8") == config.to_yaml()


def checkpoint_places(config: SweepConfig, folder: Path, *, only_trial: bool) -> Callable[[str], str]:
    """Trial id -> folder or URI of its checkpoints, in the sweep in `folder`."""
    from infra.ray_trial import trial_checkpoints

    return trial_checkpoints(state_place(config, folder) or str(folder / "train"), only_trial=only_trial)


def state_place(config: SweepConfig, folder: Path) -> str | None:
    """Folder or URI of a copy of the sweep's state, beside the checkpoints; None: these lie in its own folder."""
    return f"{config.checkpoints.rstrip('/')}/{folder.name}" if config.checkpoints else None


def _fetch(place: str, folder: Path) -> None:
    from infra.ray_state import fetch

    try:
        fetch(place, folder)
    except FAILURES as error:
        reason, remedy = explain(error)
        allowed = f"a sweep whose state can be read from {place} ({reason})"
        raise ConfigError(complaint("--resume", str(folder), allowed, remedy)) from None
