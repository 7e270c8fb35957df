"""`--fault "MODULE:NAME key=value ..."`: a fault to inject, as the override that `--set faults=...` would be."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Any

from pipelines.yaml_text import parse_yaml
from trainables.errors import ConfigError, complaint

SPAN = ("start_step", "stop_step")
"""Keys of the fault itself; all others are its parameters."""


def with_faults(overrides: Sequence[str], faults: Sequence[str]) -> list[str]:
    """The overrides and one more for all `faults`, which take the place of the config's own; raises ConfigError."""
    if not faults:
        return list(overrides)
    return [*overrides, f"faults={json.dumps([parse_fault(text) for text in faults])}"]


def parse_fault(text: str) -> dict[str, Any]:
    """One item of the config's `faults`; raises ConfigError.

    >>> parse_fault("trainables.faults:learning_rate_factor start_step=40 factor=20")
    {'use': 'trainables.faults:learning_rate_factor', 'params': {'factor': 20}, 'start_step': 40}
    """
    try:
        use, *words = shlex.split(text)
    except ValueError:
        use, words = "", []
    pairs = [word.partition("=") for word in words]
    if not use or "=" in use or not all(key and equals for key, equals, _ in pairs):
        remedy = 'write --fault "trainables.faults:learning_rate_factor start_step=40 factor=20"'
        raise ConfigError(complaint("--fault", text, "MODULE:NAME and then key=value, parted by spaces", remedy))
    values = {key: parse_yaml(value, f"--fault {use} {key}") for key, _, value in pairs}
    span = {key: values.pop(key) for key in SPAN if key in values}
    return {"use": use, "params": values, **span}
