"""What an evaluation shows of itself, whatever training does: another input than before, and stale statistics."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

STALE = 0.125
"""Share of its skill that val/ loses to running statistics, in the mean of two evaluations in a row. Sound ones lose up
to 0.1, at a batch of 8 and while the run still learns fast."""
SURE = 3.0
"""Standard errors that this loss is beyond."""
STALE_UNIT = STALE / 6.0
"""Noise unit of it: `STALE` scores 6."""
INPUT_UNIT = 0.01
"""Noise unit of the moments of the normalised input: an image of many that no longer decodes moves them by less."""
LEARNED = 0.2
"""Skill from which a run can have lost it."""


@dataclass(frozen=True)
class Complaint:
    """Why an evaluation is bad."""

    score: float
    """In noise units."""
    why: str
    confirmed: bool = False
    """It rests on two evaluations."""
    of_input: bool = False
    """As of a symptom."""


@dataclass(frozen=True)
class StatisticsLoss:
    """What running statistics lose, of samples of val/ that the statistics of their own batch classify right."""

    skill: float = math.nan
    """By the statistics of the batch."""
    lost: float = 0.0
    """Of that skill, by running ones."""
    noise: float = math.nan
    """Standard error of `lost`."""

    @property
    def share(self) -> float:
        """0 where too little is learned to be lost."""
        return self.lost / self.skill if self.skill >= LEARNED else 0.0


@dataclass
class Looks:
    """What is remembered of earlier evaluations."""

    input_moments: tuple[float, ...] = ()
    """Of the last good one."""
    before: StatisticsLoss = field(default_factory=StatisticsLoss)
    """Of the last one."""


def changed_input(past: Looks, moments: tuple[float, ...]) -> Complaint | None:
    """The same images of val/ have other moments than in the last good evaluation."""
    if not moments or len(moments) != len(past.input_moments):
        return None
    change = max(abs(now - then) for now, then in zip(moments, past.input_moments, strict=True))
    change = change if math.isfinite(change) else math.inf
    shown = f"{_shown(moments)} where they were {_shown(past.input_moments)}, of the same images"
    return Complaint(change / INPUT_UNIT, f"channel means and stds of val/ are {shown}", of_input=True)


def stale_statistics(past: Looks, now: StatisticsLoss) -> Complaint | None:
    """Running statistics lose a part of the skill, in this evaluation and the last one together."""
    share = (past.before.share + now.share) / 2.0
    noise = math.hypot(past.before.noise, now.noise) / 2.0
    if not (share > 0.0 and (past.before.lost + now.lost) / 2.0 > SURE * noise):
        return None
    why = f"running statistics lose {now.share:.0%} of the skill that a batch's own give, and lost "
    why += f"{past.before.share:.0%} an evaluation before"
    return Complaint(share / STALE_UNIT, why, confirmed=True)


def _shown(moments: tuple[float, ...]) -> str:
    half = len(moments) // 2
    return ", ".join(f"{mean:.2f}+-{std:.2f}" for mean, std in zip(moments[:half], moments[half:], strict=True))
