"""What a trial is called and which parameters its run shows, from its point in the search space."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from infra.space import label, merge_point
from trainables.config import TrialConfig
from trainables.errors import ConfigError

FORBIDDEN_IN_KEY = re.compile(r"[^\w\-. /:]")
NAMED = {"model.name", "model.norm", "global_batch_size", "optim.lr", "schedule", "schedule.kind"}
"""Keys that stand in every run name as they are; other axes follow as `key=value`."""


def point_of(config: Mapping[str, Any], space: Mapping[str, Any]) -> dict[str, Any]:
    """The values of the space's axes in a Tune config, in the space's order."""
    return {axis: config[axis] for axis in space if axis in config}


def full_config(base: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, Any]:
    """The trial's whole config, defaults included; without them if the point is not valid."""
    merged = merge_point(base, point)
    try:
        return TrialConfig.parse(merged).model_dump(mode="json")
    except ConfigError:
        return merged


def param_key(key: str) -> str:
    """`key` as MLflow takes it: axes that change together have a + between their names, which it refuses."""
    return FORBIDDEN_IN_KEY.sub("_", key)


def run_params(config: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, str]:
    """Dotted params, those that the space changes first: MLflow's UI shows them in that order."""
    flat = {param_key(key): _text(value) for key, value in flatten(config)}
    changed = [param_key(key) for key, _ in flatten(point)]
    first = {key: flat[key] for key in changed if key in flat}
    return first | {key: value for key, value in flat.items() if key not in first}


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`{"optim": {"lr": 0.1}}` -> `("optim.lr", 0.1)`; a list of mappings (the faults) goes by index."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flatten(value, f"{name}.")
        elif isinstance(value, list | tuple) and value and all(isinstance(item, Mapping) for item in value):
            yield from flatten({str(index): item for index, item in enumerate(value)}, f"{name}.")
        else:
            yield name, value


def run_name(config: Mapping[str, Any], point: Mapping[str, Any], space: Mapping[str, Any]) -> str:
    """A readable name: `resnet18 bn b32 cosine_warmup lr0.1`, then what else the point changes."""
    flat = dict(flatten(config))
    parts = [flat.get("model.name"), flat.get("model.norm"), _marked("b", flat.get("global_batch_size"))]
    parts += [flat.get("schedule.kind"), _marked("lr", flat.get("optim.lr"))]
    for axis, value in point.items():
        if isinstance(value, Mapping):
            told = {key: item for key, item in value.items() if f"{axis}.{key}" not in NAMED}
            parts += [f"{key}={label(item)}" for key, item in told.items() if _varies(space.get(axis), value, key)]
        elif axis not in NAMED:
            parts.append(f"{axis.rpartition('.')[2]}={label(value)}")
    return " ".join(str(part) for part in parts if part is not None)


def _marked(mark: str, value: object) -> str | None:
    return None if value is None else f"{mark}{label(value)}"


def _varies(candidates: object, value: Mapping[str, Any], key: str) -> bool:
    """Whether `key` tells `value` from another candidate of the same kind."""
    if not isinstance(candidates, list | tuple):
        return True
    same_kind = [item for item in candidates if isinstance(item, Mapping) and item.get("kind") == value.get("kind")]
    return any(item.get(key) != value[key] for item in same_kind)


def _text(value: object) -> str:
    return label(value) if isinstance(value, list | tuple) else str(value)
