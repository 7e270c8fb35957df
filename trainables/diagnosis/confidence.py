"""How sure a verdict is, in one place, as a benchmark has calibrated it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from trainables.diagnosis.swap_table import Thresholds

PRIOR_AGREEMENTS: Mapping[str, float] = {"declared": 4.0, "usual": 1.0}
"""Replays that the reference's standing is worth: a value that is proven not to be the declared one is half a proof;
another draw, which a sound run differs from too, is none."""
LEAST_MARGIN = 0.8
"""Factor of a verdict whose scores lie just on the right side of the thresholds."""
PIVOT = 0.6
"""Confidence that calibration leaves as it is: the usual `min_confidence`, so that it makes and hides no verdict."""
STRETCH = 2.5
"""Factor of the log-odds beyond those of PIVOT. The logarithmic loss of the 125 verdicts on the runs that the benchmark
tunes on is least at 2.75, and within 0.004 of that from 2.25 on; without calibration 122 right ones had 0.87."""


def confidence_of(agreed: int, of: int, standing: str = "drawn", margin: float = 1.0) -> float:
    """How likely a verdict is right, between 0 and 1.

    Laplace's rule of succession over the replays and what the reference's standing is worth, times the margin's factor,
    calibrated: two tests and their replicates that agree are right more often than as many draws from an urn.

    agreed, of: replays that agree with the verdict, of how many. margin: as `margin_of` has it.
    """
    prior = PRIOR_AGREEMENTS.get(standing, 0.0)
    return calibrated((agreed + prior + 1.0) / (of + prior + 2.0) * (LEAST_MARGIN + (1.0 - LEAST_MARGIN) * margin))


def calibrated(share: float) -> float:
    """A share of agreement, above 0 and below 1, as a confidence."""
    return stretched(share, STRETCH)


def stretched(share: float, factor: float) -> float:
    """A share, above 0 and below 1, whose log-odds beyond those of PIVOT are `factor` times as large."""
    pivot = math.log(PIVOT / (1.0 - PIVOT))
    log_odds = pivot + factor * (math.log(share / (1.0 - share)) - pivot)
    return 1.0 / (1.0 + math.exp(-log_odds))


def margin_of(thresholds: Thresholds, without: Sequence[float], alone: Sequence[float]) -> float:
    """How far the scores lie from the thresholds, in units of the gap between these: 0 on one, 1 a gap away or more.

    The worst of both sides counts.
    """
    gap = thresholds.present - thresholds.absent
    distances = [(thresholds.absent - max(without)) / gap, (min(alone) - thresholds.present) / gap]
    return max(0.0, min(1.0, *distances))
