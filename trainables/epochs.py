"""Lengths given in epochs, `90ep`, turned into steps before a config is checked.

One epoch is data.train_samples / global_batch_size steps. Every length of a config may be written so; the config
itself holds steps only, so that step k stays a function of (config, seed, k).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from trainables.errors import complaint

LENGTHS = {
    "": ("max_steps", "eval_every", "report_every"),
    "data": ("grow_steps",),
    "schedule": ("warmup_steps", "step_size", "milestones", "t_max", "period", "decay_steps"),
    "checkpoint": ("every",),
}
"""Section -> its keys that are lengths."""
EPOCHS = re.compile(r"(\d+(?:\.\d+)?)ep")


def in_steps(values: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's raw mapping with its lengths in steps, rounded up; raises ValueError, one line, where it can't be."""
    resolved = dict(values)
    for section, keys in LENGTHS.items():
        if not section:
            resolved |= {key: _convert(key, resolved[key], values) for key in keys if key in resolved}
        elif isinstance(inner := resolved.get(section), Mapping):
            lengths = {key: _convert(f"{section}.{key}", inner[key], values) for key in keys if key in inner}
            resolved[section] = {**inner, **lengths}
    return resolved


def _convert(key: str, value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, list | tuple):
        return [_convert(key, item, values) for item in value]
    if not isinstance(value, str):
        return value
    match = EPOCHS.fullmatch(value.strip())
    if match is None:
        raise ValueError(complaint(key, value, "a number of steps, or of epochs as 90ep", f"correct {key}"))
    data, batch = values.get("data"), values.get("global_batch_size", 32)
    samples = data.get("train_samples") if isinstance(data, Mapping) else None
    if not isinstance(samples, int) or not isinstance(batch, int) or batch < 1 or samples < 1:
        remedy = "set data.train_samples to the number of training images"
        raise ValueError(complaint(key, value, "a number of steps, as data.train_samples is not given", remedy))
    return math.ceil(float(match.group(1)) * samples / batch)
