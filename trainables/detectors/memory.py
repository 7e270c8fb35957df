"""What a detector remembers of a run: plain data that a checkpoint keeps as JSON."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from trainables.baseline import Baseline, build_baseline, declared_baseline, is_chance, stands_at_chance
from trainables.config import DetectorConfig
from trainables.detectors.best_stretches import BestStretches
from trainables.detectors.mixing import Mixing
from trainables.step_signals import StepSignals


@dataclass
class Memory:
    """The stretches that the rules look at."""

    config: DetectorConfig
    chance: float
    """ln(classes), or 0 where the classes are not known."""
    expected_mean: tuple[float, ...] = ()
    expected_std: tuple[float, ...] = ()
    accepted: deque[StepSignals] = field(init=False)
    """The last `history` steps that were not suspicious."""
    recent: deque[StepSignals] = field(init=False)
    """The last 2 * confirm finite steps, suspicious or not."""
    suspicious: deque[int] = field(init=False)
    """Steps whose loss was suspicious."""
    losses: deque[float] = field(init=False)
    """Every finite loss of the last two erratic windows."""
    whole: deque[float] = field(init=False)
    """The last losses with what mixing costs: as many as any rule asks to stand at chance."""
    steps: deque[int] = field(init=False)
    """The steps of `losses`."""
    best: BestStretches = field(default_factory=BestStretches)
    """What a drift is measured against."""
    mixing: Mixing = field(default_factory=Mixing)
    """What mixing costs; all losses that are remembered are without it."""

    def __post_init__(self) -> None:
        self.accepted = deque(maxlen=self.config.history)
        self.recent = deque(maxlen=2 * self.config.confirm)
        self.suspicious = deque(maxlen=2 * self.config.confirm)
        self.losses = deque(maxlen=2 * self.config.erratic_window)
        self.whole = deque(maxlen=max(self.config.min_history, 2 * self.config.confirm))
        self.steps = deque(maxlen=2 * self.config.erratic_window)

    def observe(self, signals: StepSignals, whole_loss: float) -> None:
        """Take a finite step, without what mixing costs and its loss with it."""
        self.whole.append(whole_loss)
        self.losses.append(signals.loss)
        self.steps.append(signals.step)
        self.recent.append(signals)

    def accept(self, signals: StepSignals) -> None:
        """Take a step that was not suspicious into the baseline."""
        self.accepted.append(signals)
        if len(self.accepted) == self.config.history:
            self.best.offer(self.accepted, self.chance, window=len(self.recent))

    def last(self, count: int) -> list[float]:
        """The last losses, fewer where there are no more."""
        return list(self.losses)[-count:]

    def last_whole(self, count: int) -> list[float]:
        """The last losses with what mixing costs, fewer where there are no more."""
        return list(self.whole)[-count:]

    def step_before(self, count: int) -> int:
        """Step of the first of the last `count` losses."""
        return list(self.steps)[-count:][0]

    def baseline_before(self, onset: int) -> Baseline:
        """Baseline of the accepted steps before `onset`; the best stretch, or chance, where there are too few."""
        steps = [signals for signals in self.accepted if signals.step < onset]
        if len(steps) >= self.config.min_history:
            return build_baseline(steps, self.chance, window=len(self.recent))
        return self.best.lowest or self.declared()

    def declared(self) -> Baseline:
        """What a run without history is measured against."""
        level = self.chance or (abs(self.accepted[0].loss) if self.accepted else 0.0) or 1.0
        return declared_baseline(level, self.expected_mean, self.expected_std, self.accepted)

    def is_at_chance(self) -> bool:
        """Whether the median of the last `min_history` losses is that of guessing."""
        return is_chance(median(self.last_whole(self.config.min_history)), self.chance)

    def stands_at_chance(self, count: int) -> bool:
        """Whether the last `count` losses lie at that of guessing, with next to no scatter; guessing ignores a mix."""
        return stands_at_chance(self.last_whole(count), self.chance)

    def train_loss(self) -> float:
        """Median of the last `min_history` losses, or of the latest `confirm` where that is higher; nan: there is none.

        A loss that is just rising is as bad as its latest steps.
        """
        losses = self.last(self.config.min_history)
        return max(median(losses), median(losses[-self.config.confirm :])) if losses else math.nan

    def top1(self) -> float:
        """Median training top-1 of the recent steps, or of the latest half where that is lower; nan: none measured."""
        measured = [s.top1 for s in self.recent if math.isfinite(s.top1)]
        return min(median(measured), median(measured[-self.config.confirm :])) if measured else math.nan

    def forget_event(self) -> None:
        """Go on after an event that healed: the baseline stays."""
        for rows in (self.whole, self.recent, self.suspicious, self.losses, self.steps):
            rows.clear()

    def start_anew(self, steps: Sequence[StepSignals]) -> None:
        """Go on after what changed the loss's level for good: of what was, only these steps count."""
        self.forget_event()
        self.accepted.clear()
        self.accepted.extend(steps)
        self.best = BestStretches()

    def state_dict(self) -> dict[str, Any]:
        """As JSON has it (nan as NaN)."""
        return {
            "accepted": [asdict(signals) for signals in self.accepted],
            "recent": [asdict(signals) for signals in self.recent],
            "suspicious": list(self.suspicious),
            "losses": list(self.losses),
            "whole": list(self.whole),
            "steps": list(self.steps),
            "best": self.best.state_dict(),
            "mixing": asdict(self.mixing),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remember what `state_dict` gave, and nothing else."""
        self.forget_event()
        self.accepted.clear()
        self.accepted.extend(StepSignals.from_dict(row) for row in state["accepted"])
        self.recent.extend(StepSignals.from_dict(row) for row in state["recent"])
        self.suspicious.extend(state["suspicious"])
        self.losses.extend(state["losses"])
        self.whole.extend(state.get("whole", state["losses"]))
        self.steps.extend(state["steps"])
        self.best.load_state_dict(state["best"])
        # Checkpoints of before mixing was followed have neither.
        self.mixing = Mixing(**state.get("mixing", {}))
