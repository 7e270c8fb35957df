"""An event and what the log shows around it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from trainables.runlog.attempts import Floats
from trainables.runlog.eval_gap import LEARNED
from trainables.runlog.symptoms import Seen
from trainables.runlog.trajectory import Trajectory
from trainables.schedules import change_points

NEAR = 10
"""Points before an event in which its trigger is looked for."""
AFTER = 2
"""Points by which a trigger may lie behind the onset: the detector's onset is the first suspicious point."""


@dataclass(frozen=True)
class Scene:
    """One symptom in its trajectory."""

    part: Trajectory
    seen: Seen
    num_classes: int | None

    @property
    def kind(self) -> str:
        """Kind of the symptom."""
        return self.seen.event.kind

    @property
    def place(self) -> int:
        """Position of its first point."""
        return self.seen.place

    @property
    def is_early(self) -> bool:
        """Whether it comes in the log's first twentieth or 100 steps, or 1000 where nothing has been learned."""
        step, before = self.step(self.place), self.before("loss", self.place)
        if self.place <= len(self.part.steps) // 20 or step <= 100:
            return True
        return step <= 1000 and before.size > 0 and float(np.median(before[-NEAR:])) > LEARNED * float(before[0])

    def step(self, place: int) -> int:
        """The log's step at a position."""
        return int(self.part.steps[place])

    def before(self, quantity: str, points: int = NEAR, *, skip: int = 0) -> Floats:
        """Finite values in the `points` positions that end `skip` before the event; empty: none."""
        values = self.part.loss if quantity == "loss" else self.part.get(quantity)
        if values is None:
            return np.empty(0)
        stop = max(0, self.place - skip)
        window = values[max(0, stop - points) : stop]
        return np.asarray(window[np.isfinite(window)])

    def after(self, quantity: str, points: int = NEAR) -> Floats:
        """Finite values in the positions from the event on."""
        values = self.part.get(quantity)
        if values is None:
            return np.empty(0)
        window = values[self.place : self.place + points]
        return np.asarray(window[np.isfinite(window)])

    def growth(self, quantity: str) -> tuple[float, float] | None:
        """Medians of the positions 50 to 11, and of the last 3, before the event; None: not known."""
        old, new = self.before(quantity, 40, skip=NEAR), self.before(quantity, 3)
        return (float(np.median(old)), float(np.median(new))) if len(old) >= 5 and len(new) else None

    def rises(self) -> list[int]:
        """Positions near the event at which the learning rate jumps up."""
        rates = self.part.get("learning_rate")
        if rates is None:
            return []
        first, last = max(0, self.place - 5 * NEAR), min(len(rates), self.place + AFTER + 3)
        window = [rate if math.isfinite(rate) else 0.0 for rate in rates[first:last].tolist()]
        found = [first + place for place in change_points(window)]
        return [k for k in found if self.place - NEAR <= k <= self.place + AFTER and rates[k] > rates[k - 1]]

    def resumed_at(self) -> int | None:
        """Position near the event at which the run was taken up again."""
        near = [k for k in self.part.resumes if self.place - NEAR // 2 <= k <= self.place + AFTER]
        return near[-1] if near else None
