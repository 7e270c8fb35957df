"""One stretch of training out of a log: every quantity at the points of the loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from trainables.runlog.attempts import Floats, Ints, attempt_numbers, last_before
from trainables.runlog.runs import RunLog
from trainables.step_signals import StepSignals

GAP = 20.0
"""Usual distances between two points from which on a hole in the log counts."""
ALONE = 3
"""Gradients in a row that are not finite, under a finite loss, up to which a loss scale may be at work."""
MOMENTS = ("input_mean", "input_std")
EVALUATIONS = ("val_loss", "val_accuracy")


@dataclass(frozen=True)
class Trajectory:
    """Points of the loss in the order in which they were taken, from one start of the run on."""

    number: int
    """Which start of the run this is, from 0 on."""
    steps: Ints
    loss: Floats
    others: Mapping[str, Floats]
    """By quantity, at the same points: the newest value that was known there; nan: none."""
    resumes: tuple[int, ...]
    """Positions at which the step goes back, or after a hole in the log."""
    eval_steps: Ints
    """Steps of the evaluations, in their order."""
    evaluations: Mapping[str, Floats]
    """val_loss, val_accuracy (a share) at these."""

    in_epochs: bool = False
    """Whether the steps are epochs."""

    def get(self, quantity: str) -> Floats | None:
        """The values of a quantity at the points; None where the log has none."""
        values = self.others.get(quantity)
        return None if values is None or np.isnan(values).all() else values

    def signals(self) -> list[StepSignals]:
        """What the detector takes; steps are positions, since its windows count points and not steps."""
        blank = np.full(len(self.steps), np.nan)
        lr, ratio, top1 = (self.others.get(key, blank) for key in ("learning_rate", "update_ratio", "accuracy"))
        norm = self.others.get("grad_norm", blank)
        overflowed = _lone(~np.isfinite(norm) & np.isfinite(self.loss)) if "grad_norm" in self.others else norm > 0
        means, stds = (self.moments(key) for key in MOMENTS)
        whole = bool(means) and len(means) == len(stds)
        return [
            StepSignals(
                step=place,
                loss=float(self.loss[place]),
                learning_rate=float(lr[place]),
                grad_norm=float(norm[place]),
                update_ratio=float(ratio[place]),
                top1=float(top1[place]),
                input_mean=tuple(float(channel[place]) for channel in means) if whole else (),
                input_std=tuple(float(channel[place]) for channel in stds) if whole else (),
                overflowed=bool(overflowed[place]),
            )
            for place in range(len(self.steps))
        ]

    def moments(self, key: str) -> list[Floats]:
        """A moment of each channel; empty where the log has none at every point."""
        found = [self.others[f"{key}_{channel}"] for channel in range(3) if f"{key}_{channel}" in self.others]
        return found if all(not np.isnan(values).any() for values in found) else []

    def position(self, step: int) -> int:
        """The last point at or before `step`."""
        return max(0, int(np.flatnonzero(self.steps <= step)[-1]) if (self.steps <= step).any() else 0)


def trajectories(log: RunLog) -> list[Trajectory]:
    """A log in the parts in which the run began anew; a restart from a checkpoint goes on in its part."""
    loss = log.points["loss"]
    attempt = attempt_numbers(loss, loss)
    stride = _stride(loss.steps)
    anew = [0, *(start for start in loss.starts[1:] if loss.steps[start] <= loss.steps[0] + stride)]
    bounds = [*anew, len(loss.steps)]
    found = []
    for number, (start, stop) in enumerate(pairwise(bounds)):
        steps, tries = loss.steps[start:stop], attempt[start:stop]
        others = {}
        for quantity, points in log.points.items():
            if quantity != "loss" and quantity not in EVALUATIONS:
                values = last_before(points, attempt_numbers(points, loss), steps, tries)
                others[quantity] = _as_share(values) if quantity == "accuracy" else values
        if "grad_norm" in others:
            others["grad_norm"] = _nan_is_infinite(log, others["grad_norm"], steps)
        holes = np.flatnonzero(np.diff(steps) > GAP * stride) + 1
        backs = [place - start for place in loss.starts if start < place < stop]
        eval_steps, evaluations = _evaluations(log, int(tries[0]), int(tries[-1]))
        places = tuple(sorted({*holes.tolist(), *backs}))
        values = loss.values[start:stop]
        found.append(Trajectory(number, steps, values, others, places, eval_steps, evaluations, log.in_epochs))
    return found


def _evaluations(log: RunLog, first: int, last: int) -> tuple[Ints, dict[str, Floats]]:
    there = {key: log.points[key] for key in EVALUATIONS if key in log.points}
    taken: set[tuple[int, int]] = set()
    numbers = {key: attempt_numbers(points, log.points["loss"]) for key, points in there.items()}
    for key, points in there.items():
        taken |= set(zip(numbers[key].tolist(), points.steps.tolist(), strict=True))
    rows = sorted(row for row in taken if first <= row[0] <= last)
    at = {row: index for index, row in enumerate(rows)}
    found = {}
    for key, points in there.items():
        values = np.full(len(rows), np.nan)
        rows_of = zip(numbers[key].tolist(), points.steps.tolist(), strict=True)
        for row, value in zip(rows_of, points.values, strict=True):
            if row in at:
                # nan stands for 'not evaluated' from here on.
                values[at[row]] = math.inf if math.isnan(value) else value
        found[key] = _as_share(values) if key == "val_accuracy" else values
    return np.array([step for _, step in rows], np.int64), found


def _as_share(values: Floats) -> Floats:
    """Accuracies that go beyond 1.5 are percents."""
    known = values[np.isfinite(values)]
    return values / 100.0 if known.size and known.max() > 1.5 else values


def _nan_is_infinite(log: RunLog, norm: Floats, steps: Ints) -> Floats:
    """A gradient norm that was logged as nan is not finite; one that was not logged is unknown."""
    points = log.points["grad_norm"]
    bad = points.steps[np.isnan(points.values)]
    return np.where(np.isnan(norm) & np.isin(steps, bad), np.inf, norm)


def _lone(flags: np.ndarray) -> np.ndarray:
    """The flags that stand in rows of fewer than `ALONE`."""
    found = flags.copy()
    start = 0
    for place in range(len(flags) + 1):
        if place == len(flags) or not flags[place]:
            if place - start >= ALONE:
                found[start:place] = False
            start = place + 1
    return found


def _stride(steps: Ints) -> float:
    forward = np.diff(steps)
    forward = forward[forward > 0]
    return float(np.median(forward)) if forward.size else 1.0
