"""How to run a trial again from the report alone: what all trials share as YAML, and each one's own `--set` options."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from infra.tracking_sweeps import RecordedSweep, SweptTrial
from pipelines.yaml_text import dump_yaml

COMMON_FILE = "common.yaml"
"""What the report's commands call the file that the reader makes of the YAML."""
OF_THE_SWEEP = ("resources",)
"""Sections of the sweep's config that a training takes over."""


def leaves(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`{"optim": {"lr": 0.1}}` -> `("optim.lr", 0.1)`; a list is a leaf."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def common_leaves(sweep: RecordedSweep) -> dict[str, Any]:
    """Dotted key -> value of what is equal in the configs of all trials."""
    configs = [dict(leaves(trial.config)) for trial in sweep.trials if trial.config]
    if not configs:
        return {}
    first, *others = configs
    return {key: value for key, value in first.items() if all(key in c and c[key] == value for c in others)}


def common_yaml(sweep: RecordedSweep) -> str:
    """A sweep of one trial with the common part of its config; `epoch14 train` takes it."""
    trial: dict[str, Any] = {}
    for key, value in common_leaves(sweep).items():
        *path, last = key.split(".")
        section = trial
        for part in path:
            section = section.setdefault(part, {})
        section[last] = value
    sections = {name: sweep.config[name] for name in OF_THE_SWEEP if sweep.config.get(name)}
    return dump_yaml({"name": f"again-{sweep.name}"[:100], "trial": trial, **sections})


def set_options(values: Mapping[str, Any]) -> str:
    """Dotted keys and their values as `--set` options; JSON is YAML here."""
    return " ".join(f"--set {shlex.quote(f'{key}={json.dumps(value)}')}" for key, value in values.items())


def train_again(trial: SweptTrial, common: Mapping[str, Any]) -> str:
    """The command that runs the trial anew; empty where the store has no config of it."""
    if not trial.config:
        return ""
    own = {key: value for key, value in leaves(trial.config) if key not in common}
    return f"epoch14 train {COMMON_FILE} {set_options(own)}".rstrip()
