"""How sure a verdict is, in one place, so that a benchmark can calibrate it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trainables.diagnosis.swap_table import Thresholds

PRIOR_AGREEMENTS: Mapping[str, float] = {"declared": 4.0, "usual": 1.0}
"""Replays that the reference's standing is worth: a value that is proven not to be the declared one is half a proof;
another draw, which a sound run differs from too, is none."""
LEAST_MARGIN = 0.8
"""Factor of a verdict whose scores lie just on the right side of the thresholds."""


def confidence_of(agreed: int, of: int, standing: str = "drawn", margin: float = 1.0) -> float:
    """Laplace's rule of succession over the replays and what the reference's standing is worth, times the margin's.

    agreed, of: replays that agree with the verdict, of how many. margin: as `margin_of` has it.
    """
    prior = PRIOR_AGREEMENTS.get(standing, 0.0)
    return (agreed + prior + 1.0) / (of + prior + 2.0) * (LEAST_MARGIN + (1.0 - LEAST_MARGIN) * margin)


def margin_of(thresholds: Thresholds, without: Sequence[float], alone: Sequence[float]) -> float:
    """How far the scores lie from the thresholds, in units of the gap between these: 0 on one, 1 a gap away or more.

    The worst of both sides counts.
    """
    gap = thresholds.present - thresholds.absent
    distances = [(thresholds.absent - max(without)) / gap, (min(alone) - thresholds.present) / gap]
    return max(0.0, min(1.0, *distances))
