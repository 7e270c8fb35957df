"""A sweep as a job on a Ray cluster: this working tree goes there, its log comes back.

The config is checked here, before anything is sent. Results are kept on the cluster: a relative `storage` would lie in
the job's own folder, which Ray deletes, so it becomes a folder in the home of the head node.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.jobs import Job, JobEnd, submit_job
from pipelines.config import PRESETS, SweepConfig, find_preset
from trainables.errors import ClusterError, ConfigError, complaint

ROOT = Path(__file__).resolve().parents[1]
"""The working tree that is sent."""
EXCLUDED = ("/.git", "/.venv", "/data", "/outputs")
"""Never sent, whether or not .gitignore names them; anchored, since trainables/data is code."""
HEAD_STORAGE = "epoch14"
"""Folder in the head node's home that takes a relative `storage`."""
RECORD = re.compile(r"^MLflow: +(?P<where>\S.*?)\s*$", re.MULTILINE)
"""The line by which a sweep says where its records are."""


@dataclass(frozen=True)
class Submission:
    """A job under way, and what its log has said so far about its records."""

    job: Job
    storage: str
    """Where the results go, as the head node sees it."""

    def follow(self, write: Callable[[str], None]) -> tuple[JobEnd, str]:
        """Pass the log on until the job ends; its end, and where in MLflow its records are."""
        log: list[str] = []

        def keep(text: str) -> None:
            log.append(text)
            write(text)

        end = self.job.follow(keep)
        found = RECORD.findall("".join(log)) or ["nothing was recorded"]
        on_head = f" (a file on the head node; there: epoch14 ui --storage {self.storage})"
        return end, found[-1] + (on_head if found[-1].startswith("sqlite:") else "")


def submit_sweep(preset: str, overrides: Sequence[str], *, address: str) -> Submission:
    """Check the config, send the working tree to the cluster and start the sweep there.

    `address` is the URL of the cluster's dashboard. Raises ConfigError or ClusterError before anything runs.
    """
    config = SweepConfig.load(preset, overrides)
    if not (ROOT / "pyproject.toml").is_file():
        remedy = "install it with `make setup` in a clone and submit from there"
        raise ClusterError(complaint("working tree", str(ROOT), "a clone of epoch14", remedy))
    command, storage = entrypoint(_portable(preset), overrides, config.storage)
    job = submit_job(
        address,
        command,
        working_dir=ROOT,
        excludes=EXCLUDED,
        environment={"PYTHONUNBUFFERED": "1", "COLUMNS": "140"},
    )
    return Submission(job, storage)


def entrypoint(preset: str, overrides: Sequence[str], storage: str) -> tuple[str, str]:
    """The shell command that runs the sweep on the head node, and where its results go there."""
    words = ["python", "-m", "pipelines", "sweep", preset, "--address", "auto"]
    words += [word for override in overrides for word in ("--set", override)]
    command = shlex.join(words)
    if "://" in storage or Path(storage).is_absolute():
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
