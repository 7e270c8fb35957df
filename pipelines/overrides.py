"""`--set key=value`: one change of a sweep's mapping before it is checked.

A dotted path into the sweep config (`search.num_trials=4`); a TrialConfig key stands for itself below `trial`
(`optim.lr=0.1`). What is set holds everywhere: an axis of the same key is dropped from the space, and where a whole
section is an axis the key is written into each of its values.
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from infra.space import JOIN
from pipelines.yaml_text import parse_yaml
from trainables.config import TrialConfig
from trainables.errors import ConfigError, complaint


def apply_overrides(raw: Mapping[str, Any], overrides: Sequence[str], sweep_keys: Mapping[str, bool]) -> dict[str, Any]:
    """A copy of `raw` with each `key=value` applied in order; raises ConfigError.

    `sweep_keys` holds every dotted key of the sweep config -> whether it is a section.
    """
    changed: dict[str, Any] = copy.deepcopy(dict(raw))
    for override in overrides:
        key, value = _split(override)
        head, _, rest = key.partition(".")
        if head == "space" and rest:
            _section(changed, "space")[rest] = value
        elif head == "trial" and rest:
            _set_trial(changed, _known(rest, list(TrialConfig.dotted_keys()), "trial."), value)
        elif key in TrialConfig.dotted_keys():
            _set_trial(changed, key, value)
        else:
            _set_sweep(changed, key, value, sweep_keys)
    return changed


def _split(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ConfigError(complaint("--set", override, "key=value", f"write --set {key or 'key'}=..."))
    return key, parse_yaml(text, f"--set {key}")


def _set_trial(raw: dict[str, Any], key: str, value: Any) -> None:
    section, _, inner = key.partition(".")
    trial, space = _section(raw, "trial"), _section(raw, "space")
    if inner:
        _section(trial, section, "trial.")[inner] = value
    else:
        trial[section] = value
    raw["space"] = dict(change for name, axis in space.items() for change in _fixed(name, axis, key, value))


def _fixed(name: str, axis: Any, key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The axis with `key` fixed: without its part of that key, or with the key written into its values."""
    section, _, inner = key.partition(".")
    parts = name.split(JOIN)
    kept = [part for part in parts if part != key and not (not inner and part.startswith(f"{key}."))]
    if not kept:
        return
    if not isinstance(axis, list) or (kept == parts and section not in parts):
        yield name, axis
        return
    points = [dict(item) if len(parts) > 1 and isinstance(item, Mapping) else {name: item} for item in axis]
    for point in points:
        for part in set(point) - set(kept):
            del point[part]
        if inner and isinstance(point.get(section), Mapping):
            point[section] = {**point[section], inner: value}
    items = points if len(kept) > 1 else [point.get(kept[0]) for point in points]
    yield JOIN.join(kept), [item for i, item in enumerate(items) if item not in items[:i]]


def _set_sweep(raw: dict[str, Any], key: str, value: Any, sweep_keys: Mapping[str, bool]) -> None:
    known = _known(key, [*sweep_keys, *TrialConfig.dotted_keys()], "")
    *path, last = known.split(".")
    section = raw
    for i, part in enumerate(path):
        section = _section(section, part, "".join(f"{name}." for name in path[:i]))
    section[last] = value


def _known(key: str, known: Sequence[str], prefix: str) -> str:
    if key in known:
        return key
    section = key.partition(".")[0]
    inside = [name for name in known if name.startswith(f"{section}.")]
    if inside and "." in key:
        known = inside
    near = [name for name in known if name.split(".")[-1] == key] or difflib.get_close_matches(key, known, n=1)
    choices = ", ".join(inside if known is inside else dict.fromkeys(name.split(".")[0] for name in known))
    remedy = f"write --set {prefix}{near[0]}=..." if near else "see `epoch14 config PRESET` for the keys"
    raise ConfigError(complaint(f"--set {prefix}{key}", key, f"{choices} or a key below", remedy))


def _section(raw: dict[str, Any], name: str, prefix: str = "") -> dict[str, Any]:
    section = raw.setdefault(name, {})
    if section is None:
        section = raw[name] = {}
    if not isinstance(section, dict):
        raise ConfigError(complaint(f"{prefix}{name}", section, "a mapping", f"write {prefix}{name}: {{key: value}}"))
    return section
