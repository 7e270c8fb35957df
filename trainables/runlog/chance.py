"""The loss of guessing, ln(classes): told, or read off the first losses where they leave no doubt."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from trainables.runlog.trajectory import Trajectory

USUAL = (10, 100, 200, 1000, 21841)
"""Numbers of classes that data sets of images have: digits and CIFAR, CIFAR, Tiny ImageNet, ImageNet, ImageNet-21k."""
NEAR = 0.02
"""Distance of the first loss from ln(classes), as a share, that leaves no doubt: ln 200 and ln 100 are 15 % apart."""
FIRST = 3
"""Points whose median counts as the first loss."""
ALIKE = 0.1
"""Share that none of these points may lie off: a loss that passes ln(classes) on its way down is no first loss."""
FEW = 1000
"""Classes below which an accuracy must say the same, since losses of 2.3 and 4.6 are common for other reasons."""
GUESSED = 3.0
"""Accuracy of the first point, in units of 1 / classes, up to which it is guessing."""


@dataclass(frozen=True)
class Chance:
    """How many classes a run has, if that is known."""

    num_classes: int | None
    note: str = ""
    """How it is known."""

    @property
    def loss(self) -> float:
        """ln(classes); 0 where unknown."""
        return math.log(self.num_classes) if self.num_classes else 0.0


def chance_of(part: Trajectory, num_classes: int | None) -> Chance:
    """`num_classes` as told, else the usual number whose ln the first losses are."""
    if num_classes is not None:
        return Chance(num_classes, f"chance is ln {num_classes} = {math.log(num_classes):.3f}, as told")
    first = part.loss[:FIRST]
    if len(first) < FIRST or not np.isfinite(first).all():
        return Chance(None, UNKNOWN)
    level = float(np.median(first))
    accuracy = _first_accuracy(part)
    for classes in USUAL:
        chance = math.log(classes)
        if abs(level / chance - 1) > NEAR or np.abs(first / chance - 1).max() > ALIKE:
            continue
        if accuracy <= GUESSED / classes or (classes >= FEW and math.isnan(accuracy)):
            shown = f"the first losses ({level:.3f}) are near ln {classes} = {chance:.3f}"
            return Chance(classes, f"{shown}: {classes} classes are assumed")
    return Chance(None, UNKNOWN)


def _first_accuracy(part: Trajectory) -> float:
    """Accuracy of the first points; nan where the log has none."""
    accuracy = part.get("accuracy")
    if accuracy is not None and np.isfinite(accuracy[:FIRST]).any():
        return float(np.nanmean(accuracy[:FIRST]))
    return math.nan


UNKNOWN = "the number of classes is unknown (--num-classes tells it): a stall or collapse at chance can't be told"
"""What is said where neither holds."""
