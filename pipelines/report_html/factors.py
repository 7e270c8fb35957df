"""The factors of a sweep, and which level of each a trial has: from the axes of its space and the trials' configs."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infra.space import JOIN, expand, label
from infra.tracking_sweeps import SweptTrial

MOST_LEVELS = 4
"""Groups into which the values of a range are parted."""
LABEL_CHARS = 80


@dataclass(frozen=True)
class Factor:
    """What the sweep varied, as groups of trials."""

    name: str
    """Name of the axis."""
    levels: tuple[str, ...]
    level_of: tuple[int, ...]
    """Of each trial, a place in `levels`."""


def find_factors(space: Mapping[str, Any], trials: Sequence[SweptTrial]) -> list[Factor]:
    """Each axis of the space that has more than one level among the trials, in the order of the space."""
    found = [
        _listed(name, axis, trials) if isinstance(axis, list | tuple) else _ranged(name, trials)
        for name, axis in space.items()
    ]
    return [factor for factor in found if len(factor.levels) > 1]


def setting(config: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key; None where the config has none."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _listed(name: str, candidates: Sequence[Any], trials: Sequence[SweptTrial]) -> Factor:
    return _grouped(name, [_candidate(name, candidates, trial.config) for trial in trials])


def _candidate(name: str, candidates: Sequence[Any], config: Mapping[str, Any]) -> str:
    """The label of the candidate that the config has; of several that fit, the one that says most."""
    fitting = [
        candidate
        for candidate in candidates
        if all(_fits(value, setting(config, key)) for key, value in expand({name: candidate}))
    ]
    if fitting:
        return _label(max(fitting, key=_size))
    return _label({key: setting(config, key) for key in name.split(JOIN)})


def _fits(wanted: Any, actual: Any) -> bool:
    """Whether `actual` is what `wanted` became, with every default written out."""
    if isinstance(wanted, Mapping):
        return isinstance(actual, Mapping) and all(_fits(value, actual.get(key)) for key, value in wanted.items())
    if isinstance(wanted, list | tuple):
        same_length = isinstance(actual, list | tuple) and len(wanted) == len(actual)
        return same_length and all(_fits(*pair) for pair in zip(wanted, actual, strict=True))
    return bool(wanted == actual)


def _size(value: Any) -> int:
    if isinstance(value, Mapping):
        return 1 + sum(map(_size, value.values()))
    return 1 + (sum(map(_size, value)) if isinstance(value, list | tuple) else 0)


def _ranged(name: str, trials: Sequence[SweptTrial]) -> Factor:
    """Quantile groups of the drawn numbers, or the numbers themselves where they are few."""
    numbers = [setting(trial.config, name) for trial in trials]
    known = sorted(float(value) for value in numbers if isinstance(value, int | float))
    if len(known) < len(numbers) or len(set(known)) <= MOST_LEVELS:
        return _grouped(name, [_label(value) for value in numbers])
    edges = sorted({known[len(known) * part // MOST_LEVELS] for part in range(1, MOST_LEVELS)} - {known[0]})
    groups = [bisect_right(edges, float(value)) for value in numbers]
    names = {}
    for group in sorted(set(groups)):
        inside = [float(value) for value, other in zip(numbers, groups, strict=True) if other == group]
        names[group] = f"{label(min(inside))} to {label(max(inside))}"
    levels = tuple(names.values())
    return Factor(name, levels, tuple(list(names).index(group) for group in groups))


def _grouped(name: str, labels: Sequence[str]) -> Factor:
    levels = tuple(dict.fromkeys(sorted(labels, key=_by_number)))
    return Factor(name, levels, tuple(levels.index(text) for text in labels))


def _by_number(text: str) -> tuple[int, float, str]:
    try:
        return (0, float(text), text)
    except ValueError:
        return (1, 0.0, text)


def _label(value: Any) -> str:
    text = label(value) if value not in ([], (), {}) else "none"
    return text if len(text) <= LABEL_CHARS else f"{text[: LABEL_CHARS - 1]}\N{HORIZONTAL ELLIPSIS}"
