"""Samples of a figure over the images of a split, and when two of them differ."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from trainables.data.doctor.facts import ImageFacts
from trainables.data.doctor.pixel_facts import PixelFacts
from trainables.data.doctor.survey import SplitFacts

SURE = 4.0
"""Standard errors from which a difference is no chance: 1 of 16,000 by luck alone, with some ten comparisons a run."""
ENOUGH = 10
"""Images of each split from which they are compared."""

Values = NDArray[np.float64]


def of_pixels(part: SplitFacts, figure: Callable[[PixelFacts], float]) -> Values:
    """The figure of each image that shows something."""
    return np.array([figure(one.pixels) for one in part.shown if one.pixels is not None], dtype=np.float64)


def share_of(part: SplitFacts, rule: Callable[[ImageFacts], bool]) -> float:
    """Share of the images that show something which fit the rule; 0 of none."""
    return sum(map(rule, part.shown)) / max(1, len(part.shown))


def effect(first: Values, second: Values) -> tuple[float, float]:
    """How far two samples are apart.

    Returns:
        the difference of their means (second less first) over the spread of single images (Cohen's d), and over its own
        standard error; 0, 0 where either sample is smaller than ENOUGH or both are constant.

    """
    if min(len(first), len(second)) < ENOUGH:
        return 0.0, 0.0
    count = len(first) + len(second)
    spread = math.sqrt((len(first) * float(first.var()) + len(second) * float(second.var())) / count)
    difference = float(second.mean() - first.mean())
    if spread == 0.0:
        return (0.0, 0.0) if difference == 0.0 else (math.copysign(math.inf, difference),) * 2
    return difference / spread, difference / spread * math.sqrt(len(first) * len(second) / count)
