"""The search space: axes over a base trial, and how a point of it becomes a TrialConfig.

An axis name is a dotted TrialConfig key (`optim.lr`) or the name of a section (`schedule`), whose values are then
mappings merged into the section. Names joined by `+` (`schedule+optim`) change together: each value is a mapping from
name to value. An axis is a list of values or a range, `{uniform: [low, high]}`, loguniform or randint; `randint` leaves
`high` out. Nothing here knows of Ray: Tune's form of a space is made in `infra.ray_search`.
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from trainables.config import TrialConfig
from trainables.errors import ConfigError, complaint

RangeKind = Literal["uniform", "loguniform", "randint"]
RANGE_KINDS: tuple[RangeKind, ...] = ("uniform", "loguniform", "randint")
AXIS_FORMS = f"a list of values, or one of {', '.join(f'{{{kind}: [low, high]}}' for kind in RANGE_KINDS)}"
Point = Mapping[str, Any]
"""Axis name -> value."""
MAX_POINTS = 4096
JOIN = "+"
"""Between names that change together."""
OUR_FAULTS = "trainables.faults:"
"""Where the built-in faults are."""


@dataclass(frozen=True)
class Choices:
    """An axis of listed values."""

    values: tuple[Any, ...]

    def probes(self) -> tuple[Any, ...]:
        """Values whose validity stands for the whole axis."""
        return self.values


@dataclass(frozen=True)
class Range:
    """An axis of numbers between `low` and `high`."""

    kind: RangeKind
    low: float
    high: float

    def probes(self) -> tuple[Any, ...]:
        """The lowest and the highest value that can be drawn."""
        return (self.low, self.high - 1) if self.kind == "randint" else (self.low, self.high)


Axis = Choices | Range


def parse_space(raw: Mapping[str, Any]) -> dict[str, Axis]:
    """Check each axis by itself; raises ConfigError."""
    return {name: _parse_axis(name, value) for name, value in raw.items()}


def merge_point(base: Mapping[str, Any], point: Point) -> dict[str, Any]:
    """The trial's mapping at `point`: section axes first, then dotted keys, so that the narrower one wins."""
    merged = {key: dict(value) if isinstance(value, Mapping) else value for key, value in base.items()}
    for name, value in sorted(expand(point), key=lambda change: change[0].count(".")):
        section, _, key = name.partition(".")
        if not key and not isinstance(value, Mapping):
            merged[section] = value
            continue
        inner = merged.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(complaint(f"trial.{section}", inner, "a mapping", f"write {section}: {{...}}"))
        inner.update({key: value} if key else value)
    return merged


def expand(point: Point) -> Iterator[tuple[str, Any]]:
    """The changes of a point, those of joined names one by one."""
    for name, value in point.items():
        if JOIN in name:
            yield from ((part, value[part]) for part in name.split(JOIN))
        else:
            yield name, value


def trial_config(base: Mapping[str, Any], point: Point) -> TrialConfig:
    """The TrialConfig at `point`; raises ConfigError."""
    return TrialConfig.parse(merge_point(base, point))


def probe_points(space: Mapping[str, Axis]) -> Iterator[dict[str, Any]]:
    """Points that cover the space: all combinations, or each value of each axis where those are more than 4,096."""
    names, columns = list(space), [axis.probes() for axis in space.values()]
    total = 1
    for column in columns:
        total *= len(column)
    if total <= MAX_POINTS:
        yield from (dict(zip(names, values, strict=True)) for values in itertools.product(*columns))
        return
    for row in range(max(len(column) for column in columns)):
        yield {name: column[row % len(column)] for name, column in zip(names, columns, strict=True)}


def grid_size(space: Mapping[str, Axis]) -> int:
    """Number of points of a space of listed values; ranges count as one."""
    size = 1
    for axis in space.values():
        size *= len(axis.values) if isinstance(axis, Choices) else 1
    return size


def label(value: Any) -> str:
    """A short name of an axis value: `cosine lr=0.1` for a mapping, `bgr start_step=50` for a fault, `0.1`."""
    if isinstance(value, Mapping) and "use" in value:
        told = {**value, **(value.get("params") or {})}
        parts = [f"{key}={label(item)}" for key, item in told.items() if key not in ("use", "params")]
        return " ".join([str(value["use"]).removeprefix(OUR_FAULTS), *parts])
    if isinstance(value, Mapping):
        head = [str(value["kind"])] if "kind" in value else []
        return " ".join(head + [f"{key}={label(item)}" for key, item in value.items() if key != "kind"])
    if isinstance(value, list | tuple):
        return "[" + ",".join(label(item) for item in value) + "]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def point_label(point: Point) -> str:
    """One line for a trial: `schedule=cosine model.norm=gn`."""
    return " ".join(f"{name}={label(value)}" for name, value in point.items()) or "base"


def check_axis_name(name: str, prefix: str = "space.") -> None:
    """Raise ConfigError unless `name` is a TrialConfig key or section; `prefix` is put before it in the message."""
    known = sorted(TrialConfig.dotted_keys())
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1) or [key for key in known if key.split(".")[-1] == name][:1]
        remedy = f"write {prefix}{near[0]}" if near else f"remove {prefix}{name}"
        sections = [key for key in known if "." not in key]
        raise ConfigError(complaint(f"{prefix}{name}", name, f"a TrialConfig key below {', '.join(sections)}", remedy))


def _parse_axis(name: str, value: Any) -> Axis:
    parts = name.split(JOIN)
    for part in parts:
        check_axis_name(part)
    key = f"space.{name}"
    if isinstance(value, list | tuple):
        return _parse_choices(parts, key, value)
    if len(parts) > 1:
        raise ConfigError(complaint(key, value, "a list of mappings", f"write [{{{parts[0]}: ..., {parts[1]}: ...}}]"))
    if not isinstance(value, Mapping) or len(value) != 1 or next(iter(value)) not in RANGE_KINDS:
        raise ConfigError(complaint(key, value, AXIS_FORMS, f"write {key}: [first, second]"))
    kind, bounds = next(iter(value.items()))
    return _parse_range(f"{key}.{kind}", kind, bounds)


def _parse_choices(parts: list[str], key: str, values: list[Any] | tuple[Any, ...]) -> Choices:
    if not values:
        raise ConfigError(complaint(key, values, "at least one value", f"remove {key} or list its values"))
    for i, value in enumerate(values):
        if len(parts) > 1 and (not isinstance(value, Mapping) or sorted(value) != sorted(parts)):
            raise ConfigError(complaint(key, value, f"mappings with the keys {' and '.join(parts)}", f"correct {key}"))
        for part, change in [(parts[0], value)] if len(parts) == 1 else value.items():
            if TrialConfig.dotted_keys()[part] and not isinstance(change, Mapping):
                allowed = f"mappings merged into trial.{part}"
                raise ConfigError(complaint(key, change, allowed, "write {key: value, ...}"))
        if any(value == other and type(value) is type(other) for other in values[:i]):
            raise ConfigError(complaint(key, value, "each value once", "remove the repetition"))
    return Choices(tuple(values))


def _parse_range(key: str, kind: RangeKind, bounds: Any) -> Range:
    numbers = isinstance(bounds, list | tuple) and len(bounds) == 2
    wanted = int if kind == "randint" else (int, float)
    if not numbers or not all(isinstance(bound, wanted) and not isinstance(bound, bool) for bound in bounds):
        what = "two whole numbers" if kind == "randint" else "two numbers"
        raise ConfigError(complaint(key, bounds, f"{what}, [low, high]", f"write {key}: [1, 10]"))
    low, high = bounds
    if not low < high or not math.isfinite(high - low) or (kind == "loguniform" and low <= 0):
        allowed = "finite, low below high" + (", both above 0" if kind == "loguniform" else "")
        raise ConfigError(complaint(key, bounds, allowed, f"correct {key}"))
    return Range(kind, low, high)
