"""Training does well and its evaluations don't, which only a whole log tells from a dip."""

from __future__ import annotations

import math

import numpy as np

from trainables.runlog.event import Event
from trainables.runlog.trajectory import Trajectory

SCORE = 6.0
"""Severity of one bad evaluation: that from which an event counts as present."""
RECENT = 10
"""Points of the training loss that an evaluation is compared with."""
LEARNED = 0.7
"""Training loss, as a share of chance, from which down a run has learned something."""
GUESSING = 2.0
"""Accuracy, in units of 1 / classes, up to which an evaluation guesses."""
FALLEN = 0.25
"""Share of its best that an evaluation's accuracy falls to, with no word on classes."""


def eval_gap(part: Trajectory, num_classes: int | None) -> Event | None:
    """The first gap that two evaluations running show, or the last one."""
    bad = [_gap(part, index, num_classes) for index in range(len(part.eval_steps))]
    for index, detail in enumerate(bad):
        if detail and (index + 1 == len(bad) or bad[index + 1]):
            last = index
            while last + 1 < len(bad) and bad[last + 1]:
                last += 1
            steps = part.eval_steps
            return Event("eval_gap", int(steps[index]), int(steps[last]), SCORE * (1 + last - index), detail)
    return None


def value_at(part: Trajectory, key: str, index: int) -> float | None:
    """One value of an evaluation; None where it has none."""
    values = part.evaluations.get(key)
    return None if values is None or np.isnan(values[index]) else float(values[index])


def _gap(part: Trajectory, index: int, num_classes: int | None) -> str:
    """What is wrong with one evaluation; empty: nothing."""
    place = part.position(int(part.eval_steps[index]))
    recent = part.loss[max(0, place - RECENT + 1) : place + 1]
    train = max(float(np.median(recent)), float(recent[-1]))
    loss, accuracy = (value_at(part, key, index) for key in ("val_loss", "val_accuracy"))
    at = f"at step {int(part.eval_steps[index])}, while the training loss is {train:.3g}"
    if not math.isfinite(train):
        return ""
    if loss is not None and not math.isfinite(loss):
        return f"evaluation loss not finite {at}"
    if num_classes:
        return _at_chance(num_classes, train, loss, accuracy, at)
    return _fallen(part, index, train, accuracy, at)


def _at_chance(num_classes: int, train: float, loss: float | None, accuracy: float | None, at: str) -> str:
    chance = math.log(num_classes)
    if train > LEARNED * chance:
        return ""
    if accuracy is not None and accuracy < GUESSING / num_classes and num_classes > 4:
        return f"evaluation accuracy {accuracy:.2%} {at} (guessing gives {1 / num_classes:.2%})"
    if loss is not None and loss > max(chance, 2.0 * train) and (accuracy is None or accuracy < 0.5):
        return f"evaluation loss {loss:.3g} {at} (guessing gives {chance:.3g})"
    return ""


def _fallen(part: Trajectory, index: int, train: float, accuracy: float | None, at: str) -> str:
    """The accuracy fell from its best, while the training loss is among its lowest."""
    before = part.evaluations.get("val_accuracy", np.empty(0))[:index]
    before = before[np.isfinite(before)]
    earlier = part.loss[: max(0, part.position(int(part.eval_steps[index])) - 1)]
    if accuracy is None or not before.size or len(earlier) < RECENT // 2:
        return ""
    best = float(before.max())
    if best > 0.1 and accuracy < FALLEN * best and train < 1.2 * float(np.nanquantile(earlier, 0.2)):
        return f"evaluation accuracy {accuracy:.2%} {at} (before {best:.2%})"
    return ""
