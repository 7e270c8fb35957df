"""Calibration of verdicts, and intervals by bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainables.diagnosis.confidence import stretched
from trainables.rng import generator

DRAWS = 2000
STRETCHES = np.arange(0.25, 4.01, 0.05)
"""Factors that are tried."""


@dataclass(frozen=True)
class Bin:
    """Verdicts of about the same confidence."""

    count: int
    confidence: float
    """Their mean."""
    right: float
    """Share of them that is right."""
    low: float
    high: float
    """95 % interval of that share."""


def interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean, by bootstrap; nan, nan of nothing."""
    if not values:
        return float("nan"), float("nan")
    rng = generator("bootstrap", len(values))
    means = np.asarray(values)[rng.integers(0, len(values), (DRAWS, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def reliability(confidences: Sequence[float], right: Sequence[bool], bins: int = 10) -> list[Bin]:
    """Verdicts in bins of equal mass, least confident first."""
    order = np.argsort(confidences, kind="stable")
    parts = [part for part in np.array_split(order, min(bins, len(order) or 1)) if len(part)]
    made = []
    for part in parts:
        hits = [float(right[i]) for i in part]
        made.append(
            Bin(len(part), float(np.mean([confidences[i] for i in part])), float(np.mean(hits)), *interval(hits))
        )
    return made


def brier_skill(confidences: Sequence[float], right: Sequence[bool]) -> float:
    """1 - Brier score over that of always saying the base rate; nan where all are right or none is."""
    outcome = np.asarray(right, dtype=float)
    reference = float(np.mean((outcome - outcome.mean()) ** 2)) if len(outcome) else 0.0
    if reference == 0.0:
        return float("nan")
    return 1.0 - float(np.mean((np.asarray(confidences) - outcome) ** 2)) / reference


def log_loss(confidences: Sequence[float], right: Sequence[bool], factor: float = 1.0) -> float:
    """Mean of -log of what was given to the outcome, by confidences that are `stretched`; nan of none."""
    given = np.array([stretched(share, factor) for share in np.clip(confidences, 1e-6, 1.0 - 1e-6).tolist()])
    return float(-np.mean(np.log(np.where(right, given, 1.0 - given)))) if len(given) else float("nan")


def best_stretch(confidences: Sequence[float], right: Sequence[bool]) -> float:
    """The factor of `stretched` with the least loss: 1 where confidences are neither too low nor too high."""
    return float(min(STRETCHES, key=lambda factor: log_loss(confidences, right, factor)))
