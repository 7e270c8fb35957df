"""The best stretch of a run at each learning rate: what a drift of the loss is measured against.

A loss that rises while the rate stands still or falls has drifted. Where the schedule raises the rate back to one
that the run has had, as a warm restart does, the loss may go back to what it was at that rate; a rate that the run
never had forgives nothing. Rungs stand a quarter apart, so there are few.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from trainables.baseline import Baseline, build_baseline
from trainables.step_signals import StepSignals

RUNG = 1.25
"""Factor between two learning rates that are told apart."""
LOWEST_RUNG = -1000
"""Of a rate of 0, or one that nobody measured."""


@dataclass
class BestStretches:
    """The lowest baseline of each rung of the learning rate."""

    rungs: dict[int, Baseline] = field(default_factory=dict)
    top: int = LOWEST_RUNG
    """The highest rung that the run has had for the length of a stretch; none may lie wholly on it."""

    @property
    def lowest(self) -> Baseline | None:
        """The best stretch at any rate."""
        return min(self.rungs.values(), key=lambda baseline: baseline.level, default=None)

    def offer(self, steps: Sequence[StepSignals], chance: float, *, window: int) -> None:
        """Remember the stretch where it is the best at its rate."""
        # A rate that has just risen is not what brought the loss down.
        rung = min(rung_of(signals.learning_rate) for signals in (steps[0], steps[-1]))
        self.top = max(self.top, rung_of(steps[0].learning_rate))
        best = self.rungs.get(rung)
        level = median(signals.loss for signals in steps)
        if best is None or level < best.level:
            self.rungs[rung] = build_baseline(steps, chance, window=window)

    def at(self, learning_rate: float) -> Baseline | None:
        """The best stretch at this rate or a higher one; where the run never had such a rate, the best of all."""
        rung = rung_of(learning_rate)
        as_high = [baseline for other, baseline in self.rungs.items() if other >= rung]
        if as_high:
            return min(as_high, key=lambda baseline: baseline.level)
        return self.rungs[max(self.rungs)] if self.rungs and rung <= self.top else self.lowest

    def state_dict(self) -> dict[str, Any]:
        """As JSON has it, where a key is no number."""
        return {"top": self.top, "rungs": [[rung, asdict(baseline)] for rung, baseline in self.rungs.items()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remember what `state_dict` gave."""
        self.top = int(state["top"])
        self.rungs = {int(rung): Baseline.from_dict(row) for rung, row in state["rungs"]}


def rung_of(learning_rate: float) -> int:
    """The rung of a learning rate, rounded down."""
    if not (learning_rate > 0 and math.isfinite(learning_rate)):
        return LOWEST_RUNG
    return math.floor(math.log(learning_rate, RUNG))
