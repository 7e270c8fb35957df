"""A sweep as a job on a Ray cluster: this working tree goes there, its log comes back.

The config is checked here, before anything is sent. Results are kept on the cluster: a relative `storage` would lie in
the job's own folder, which Ray deletes, so it becomes a folder in the home of the head node.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.jobs import Job, JobState, submit_job
from pipelines.config import PRESETS, SweepConfig, find_preset
from trainables.errors import ClusterError, ConfigError, complaint
from trainables.uris import is_uri

ROOT = Path(__file__).resolve().parents[1]
"""The working tree that is sent."""
EXCLUDED = ("/.git", "/.venv", "/.venv-cluster", "/data", "/outputs")
"""Never sent, whether or not .gitignore names them; anchored, since trainables/data is code."""
HEAD_STORAGE = "epoch14"
"""Folder in the head node's home that takes a relative `storage`."""
AGAIN, STORAGE = "epoch14.submit", "epoch14.storage"
"""What is kept with a job: the command that has submitted it, and where its results go, as the head node sees it."""
RECORD = re.compile(r"^MLflow: +(?P<where>\S.*?)\s*$", re.MULTILINE)
"""The line by which a sweep says where its records are."""
RESULTS = re.compile(r"^results: +(?P<folder>\S.*?)\s*$", re.MULTILINE)
"""The line by which a sweep says where its state is, from which it can go on."""


@dataclass(frozen=True)
class Told:
    """What a job's log tells so far."""

    records: str
    """Where in MLflow its records are; empty: not yet."""
    folder: str
    """Where its state is, as the head node sees it; empty: not yet."""


def told_by(log: str) -> Told:
    """Read the log of a sweep's job."""
    records, folders = RECORD.findall(log), RESULTS.findall(log)
    return Told(records[-1] if records else "", folders[-1] if folders else "")


def where_recorded(told: Told, state: JobState) -> str:
    """Where in MLflow a job's records are, and how to see them where they are a file on the head node."""
    if not told.records:
        return "nothing was recorded" if state.is_over else "nothing is recorded yet"
    on_head = told.records.startswith("sqlite:") and STORAGE in state.metadata
    ui = f" (a file on the head node; there: epoch14 ui --storage {state.metadata.get(STORAGE)})"
    return told.records + (ui if on_head else "")


def go_on_command(told: Told, metadata: dict[str, str]) -> str:
    """The command that goes on with a job that was stopped, failed or lost its head; empty: no sweep of ours."""
    again = metadata.get(AGAIN, "")
    return f"{again} --resume {shlex.quote(told.folder)}" if again and told.folder else again


@dataclass(frozen=True)
class Submission:
    """A job under way."""

    job: Job
    metadata: dict[str, str]
    """What is kept with it."""


def submit_sweep(preset: str, overrides: Sequence[str], *, address: str, resume: str | None = None) -> Submission:
    """Check the config, send the working tree to the cluster and start the sweep there, or go on with it.

    `address` is the URL of the cluster's dashboard; `resume` the folder of an interrupted sweep, as the head node sees
    it. Raises ConfigError or ClusterError before anything runs.
    """
    config = SweepConfig.load(preset, overrides)
    if not (ROOT / "pyproject.toml").is_file():
        remedy = "install it with `make setup` in a clone and submit from there"
        raise ClusterError(complaint("working tree", str(ROOT), "a clone of epoch14", remedy))
    if resume is not None and not resume.startswith(("/", "~")):
        remedy = "copy it from the line `results:` of the job's log"
        raise ConfigError(complaint("--resume", resume, "an absolute path on the head node", remedy))
    command, storage = entrypoint(_portable(preset), overrides, config.storage, resume)
    words = ["epoch14", "submit", preset, "--address", address]
    again = shlex.join([*words, *(word for override in overrides for word in ("--set", override))])
    metadata = {AGAIN: again, STORAGE: storage}
    job = submit_job(
        address,
        command,
        working_dir=ROOT,
        excludes=EXCLUDED,
        environment={"PYTHONUNBUFFERED": "1", "COLUMNS": "140"},
        metadata=metadata,
    )
    return Submission(job, metadata)


def entrypoint(preset: str, overrides: Sequence[str], storage: str, resume: str | None = None) -> tuple[str, str]:
    """The shell command that runs the sweep on the head node, and where its results go there."""
    words = ["python", "-m", "pipelines", "sweep", preset, "--address", "auto"]
    words += [word for override in overrides for word in ("--set", override)]
    words += ["--resume", resume] if resume else []
    command = shlex.join(words)
    if is_uri(storage) or Path(storage).is_absolute():
        return command, storage
    kept = f"$HOME/{HEAD_STORAGE}/{storage}"
    return f'{command} --set "storage=$HOME"/{shlex.quote(f"{HEAD_STORAGE}/{storage}")}', kept


def _portable(preset: str) -> str:
    """The preset's name, or the path of a YAML file as seen from the working tree; raises ConfigError outside of it."""
    path = find_preset(preset)
    if path.parent == PRESETS:
        return preset
    if not path.resolve().is_relative_to(ROOT):
        allowed = f"a preset, or a YAML file below {ROOT}, which is what the cluster gets"
        raise ConfigError(complaint("preset", preset, allowed, "copy it there"))
    return str(path.resolve().relative_to(ROOT))
