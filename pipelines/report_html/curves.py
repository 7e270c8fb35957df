"""Curves made small: fewer points that keep every peak, and coordinates in whole units of a drawing."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

Point = tuple[int, float]
"""(step, loss); a loss may be non-finite."""
LOG_SCALE_FROM = 30.0
"""Ratio of highest to lowest loss from which the axis is logarithmic."""


@dataclass(frozen=True)
class Frame:
    """Where steps and losses lie in a drawing; y grows downwards there."""

    left: int
    top: int
    width: int
    height: int
    steps: tuple[int, int]
    """First and last step."""
    low: float
    high: float
    log: bool

    def x(self, step: float) -> int:
        """Column of a step."""
        first, last = self.steps
        return self.left + round(self.width * (step - first) / max(1, last - first))

    def y(self, loss: float) -> int:
        """Row of a loss; what lies beyond the frame, and what is not finite, is at its edge."""
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        if not math.isfinite(loss):
            return self.top
        value = math.log(max(loss, self.low)) if self.log else loss
        share = (value - low) / (high - low) if high > low else 0.5
        return self.top + self.height - round(self.height * min(1.0, max(0.0, share)))


def frame_of(curves: Iterable[Sequence[Point]], *, left: int, top: int, width: int, height: int) -> Frame:
    """The frame that all curves fit into; logarithmic where their losses span a wide range."""
    points = [point for curve in curves for point in curve]
    steps = [step for step, _ in points] or [0]
    losses = [loss for _, loss in points if math.isfinite(loss)] or [0.0]
    low, high = min(losses), max(losses)
    log = low > 0 and high > LOG_SCALE_FROM * low
    return Frame(left, top, width, height, (min(steps), max(steps)), low, high, log)


def thinned(curve: Sequence[Point], most: int, keep: Collection[int] = ()) -> list[Point]:
    """At most about `most` points: lowest and highest of each stretch, its first non-finite one, and the steps `keep`.

    >>> thinned([(0, 1.0), (1, 9.0), (2, 1.0), (3, 0.9), (4, 0.8), (5, 0.7)], 4)
    [(0, 1.0), (1, 9.0), (2, 1.0), (3, 0.9), (5, 0.7)]
    """
    if len(curve) <= most:
        return list(curve)
    stretches = max(1, most // 2)
    kept = {0, len(curve) - 1} | {place for place, (step, _) in enumerate(curve) if step in keep}
    for stretch in range(stretches):
        places = range(len(curve) * stretch // stretches, len(curve) * (stretch + 1) // stretches)
        finite = [place for place in places if math.isfinite(curve[place][1])]
        if finite:
            kept |= {min(finite, key=lambda place: curve[place][1]), max(finite, key=lambda place: curve[place][1])}
        kept |= set([place for place in places if not math.isfinite(curve[place][1])][:1])
    return [curve[place] for place in sorted(kept)]


def path_of(curve: Sequence[Point], frame: Frame) -> str:
    """SVG path data, broken where a loss is not finite; after the first point in steps from the last, to save bytes."""
    parts: list[str] = []
    last: tuple[int, int] | None = None
    for step, loss in curve:
        if not math.isfinite(loss):
            last = None
            continue
        x, y = frame.x(step), frame.y(loss)
        if last is None:
            parts.append(f"M{x} {y}l0 0")
        elif (x, y) != last:
            # A minus parts two numbers by itself.
            parts.append(f" {x - last[0]} {y - last[1]}".replace(" -", "-"))
        last = (x, y)
    return "".join(parts)


def lost_steps(curve: Sequence[Point]) -> list[int]:
    """Steps whose loss is not finite."""
    return [step for step, loss in curve if not math.isfinite(loss)]
