"""`epoch14 doctor` without a data set: what a sweep will need of this installation, and what was found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from infra.installation.wanted import Wanted
from infra.space import probe_points, trial_config
from pipelines.checks import resolve_paths
from pipelines.config import SweepConfig
from pipelines.doctor import write_text
from pipelines.overrides import apply_overrides

if TYPE_CHECKING:
    from rich.console import Console

    from trainables.data.doctor.finding import Finding


def load_sweep(preset_or_path: str | None, overrides: Sequence[str]) -> SweepConfig:
    """The sweep whose places are tried, by default one that sets nothing else; raises ConfigError."""
    if preset_or_path is not None:
        return SweepConfig.load(preset_or_path, overrides)
    return SweepConfig.parse(apply_overrides({}, overrides, SweepConfig.dotted_keys()))


def wanted_of(config: SweepConfig, address: str | None) -> Wanted:
    """The places and resources of a sweep, as its trials will have them."""
    config = resolve_paths(config)
    trials = [trial_config(config.trial, point) for point in probe_points(config.axes)]
    resources = config.resources
    return Wanted(
        storage=config.storage,
        tracking_uri=config.tracking_uri,
        experiment=config.tracking.experiment,
        checkpoints=config.checkpoints,
        data=tuple(dict.fromkeys(trial.data.path for trial in trials)),
        address=address,
        workers=resources.workers,
        cpus_per_worker=resources.cpus_per_worker,
        gpus_per_worker=resources.gpus_per_worker,
        placement=resources.placement,
        cuda=any(trial.device == "cuda" for trial in trials),
    )


def examine(wanted: Wanted, console: Console) -> list[Finding]:
    """Run every check, with a sign of life on a terminal; returns the findings, the worst first."""
    from infra.installation.examine import examine_installation

    if not console.is_terminal:
        return examine_installation(wanted)
    with console.status("Ray, GPUs, ranks, places and the tracking store are tried"):
        return examine_installation(wanted)


def write_installation(wanted: Wanted, findings: Sequence[Finding], file: Path) -> None:
    """Write what was asked for and what was found as JSON; raises ConfigError where that can't be."""
    from infra.tracking import without_password

    told = [{key: getattr(found, key) for key in ("check", "severity", "summary", "remedy")} for found in findings]
    places = asdict(wanted) | {"tracking_uri": without_password(wanted.tracking_uri)}
    write_text(file, json.dumps({"wanted": places, "findings": told}, indent=2) + "\n", "--json")
