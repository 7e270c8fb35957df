"""What an evaluation shows of itself, whatever training does: another input than before, and stale statistics."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from trainables.detectors.inputs import show_moments

STALE = 0.125
"""Share of its skill that val/ loses to running statistics, in the mean of `IN_A_ROW` evaluations; half of it in the
last two. Sound ones lose up to 0.09 in the mean, at a batch of 8 and while the run learns fast."""
ONCE = 0.3
"""What one evaluation counts at most: sound ones lose as much once, and one in the middle of a divergence all."""
IN_A_ROW = 4
"""Evaluations that this mean is taken over."""
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
    """It rests on several evaluations."""
    of_input: bool = False
    """As of a symptom."""


@dataclass(frozen=True)
class StatisticsLoss:
    """What running statistics lose, of samples of val/ that the statistics of their own batch classify right."""

    skill: float = 0.0
    """By the statistics of the batch."""
    lost: float = 0.0
    """Of that skill, by running ones."""
    noise: float = 0.0
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
    losses: list[StatisticsLoss] = field(default_factory=list)
    """Of the last `IN_A_ROW`, oldest first."""

    def take(self, loss: StatisticsLoss) -> None:
        """Remember what an evaluation's running statistics lose."""
        self.losses = [*self.losses, loss][-IN_A_ROW:]


def changed_input(past: Looks, moments: tuple[float, ...]) -> Complaint | None:
    """The same images of val/ have other moments than in the last good evaluation."""
    change = moments_apart(moments, past.input_moments)
    if not change:
        return None
    shown = f"{_shown(moments)} where they were {_shown(past.input_moments)}, of the same images"
    return Complaint(change / INPUT_UNIT, f"channel means and stds of val/ are {shown}", of_input=True)


def moments_apart(moments: tuple[float, ...], others: tuple[float, ...]) -> float:
    """Largest difference of two inputs' moments, infinite where one is no number; 0 where either is unknown."""
    if not moments or len(moments) != len(others):
        return 0.0
    apart = max(abs(a - b) for a, b in zip(moments, others, strict=True))
    return apart if math.isfinite(apart) else math.inf


def stale_statistics(past: Looks) -> Complaint | None:
    """Running statistics lose a part of the skill in the last evaluations, the latest included."""
    shares = [loss.share for loss in past.losses]
    mean, steady = sum(shares) / IN_A_ROW, sum(min(share, ONCE) for share in shares) / IN_A_ROW
    noise = math.hypot(*(loss.noise / loss.skill for loss in past.losses if loss.share)) / IN_A_ROW
    still = sum(shares[-2:]) / 2.0 >= STALE / 2.0
    if len(shares) < IN_A_ROW or not still or steady < STALE or not mean > SURE * noise:
        return None
    shown = ", ".join(f"{share:.0%}" for share in shares)
    why = f"running statistics lose {shown} of the skill that a batch's own give, in {IN_A_ROW} evaluations in a row"
    return Complaint(mean / STALE_UNIT, why, confirmed=True)


def _shown(moments: tuple[float, ...]) -> str:
    half = len(moments) // 2
    return show_moments(moments[:half], moments[half:])
