"""The order in which a log's points were taken, and where a run was taken up again or begun anew."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

RESTARTS = 50
"""Points a restart: a log whose step goes back more often than once in so many is unordered."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Points:
    """The points of one quantity in the order in which they were taken, one a step."""

    key: Floats
    """Row, or wall time: what orders the points of different quantities."""
    steps: Ints
    values: Floats
    starts: tuple[int, ...] = (0,)
    """Positions at which the step goes back, and 0."""


def in_order(key: Floats, steps: Ints, values: Floats) -> Points:
    """Sorted by `key`, or by step where the keys say nothing; points of one step are averaged.

    A step that goes back now and then, over steps that were there before, is a restart; else the log is unordered.
    """
    order = np.argsort(key, kind="stable")
    key, steps, values = key[order], steps[order], values[order]
    backs = np.flatnonzero(np.diff(steps) < 0) + 1
    if backs.size and not _are_restarts(steps, backs):
        order = np.argsort(steps, kind="stable")
        key, steps, values, backs = key[order], steps[order], values[order], backs[:0]
    first = np.flatnonzero(np.concatenate([[True], np.diff(steps) != 0]))
    counts = np.diff(np.append(first, len(steps)))
    starts = tuple(int(place) for place in np.searchsorted(first, np.concatenate([[0], backs])))
    with np.errstate(invalid="ignore", over="ignore"):
        means = np.add.reduceat(values, first) / counts
    return Points(key[first], steps[first], means, starts)


def attempt_numbers(points: Points, of: Points) -> Ints:
    """The attempt of `of` in which each of `points` was taken."""
    if len(of.starts) == 1:
        return np.zeros(len(points.steps), np.int64)
    begun = of.key[list(of.starts)]
    return np.clip(np.searchsorted(begun, points.key, side="right") - 1, 0, None).astype(np.int64)


def last_before(points: Points, attempts: Ints, steps: Ints, attempt: Ints) -> Floats:
    """The newest value of `points` at or before each of `steps` in the same attempt; nan where there is none."""
    found = np.full(len(steps), np.nan)
    if not len(points.steps):
        return found
    first = int(min(points.steps.min(), steps.min()))
    wide = int(max(points.steps.max(), steps.max())) - first + 1
    have = attempts * wide + points.steps - first
    order = np.argsort(have, kind="stable")
    want = attempt * wide + steps - first
    place = np.searchsorted(have[order], want, side="right") - 1
    good = place >= 0
    good[good] = attempts[order][place[good]] == attempt[good]
    found[good] = points.values[order][place[good]]
    return found


def _are_restarts(steps: Ints, backs: Ints) -> bool:
    if len(backs) > max(1, len(steps) // RESTARTS):
        return False
    bounds = [0, *backs.tolist(), len(steps)]
    parts = [steps[start:stop] for start, stop in pairwise(bounds)]
    return all(after[-1] >= before[0] for before, after in pairwise(parts))
