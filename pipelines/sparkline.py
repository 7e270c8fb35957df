"""A curve in one line of text, and a line of marks below it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

BARS = "▁▂▃▄▅▆▇█"
NOT_FINITE = "!"
MARK = "▲"
WIDTH = 72
CLIPPED = 0.98
"""Quantile of the values that gets the tallest bar: one spike would flatten the rest."""


def sparkline(values: Sequence[float] | np.ndarray, places: Iterable[int], width: int = WIDTH) -> tuple[str, str]:
    """The largest value of each of at most `width` equal stretches, and marks below those that hold `places`.

    >>> sparkline([0.0, 1.0, math.nan, 2.0], [2])
    ('▁▄!█', '  ▲')
    """
    columns = min(width, len(values))
    if not columns:
        return "", ""
    bounds = [len(values) * column // columns for column in range(columns + 1)]
    stretches = [np.asarray(values[a:b], np.float64) for a, b in pairwise(bounds)]
    tallest = [math.nan if not np.isfinite(part).all() else float(part.max()) for part in stretches]
    known = [value for value in tallest if math.isfinite(value)]
    low, high = (min(known), float(np.quantile(known, CLIPPED))) if known else (0.0, 1.0)
    high = high if high > low else max(known, default=1.0)
    line = "".join(_bar(value, low, high) for value in tallest)
    marked = {int(np.searchsorted(bounds, place, side="right")) - 1 for place in places}
    return line, "".join(MARK if column in marked else " " for column in range(columns)).rstrip()


def _bar(value: float, low: float, high: float) -> str:
    if math.isnan(value):
        return NOT_FINITE
    if high <= low:
        return BARS[0]
    return BARS[min(len(BARS) - 1, max(0, int((value - low) / (high - low) * (len(BARS) - 1) + 0.5)))]
