"""How bad a score of an evaluation is, against one that it could have."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainables.baseline import NON_FINITE_SCORE

SHARE = 1.0 / 24.0
"""Share of the expected skill that is one unit: at the default thresholds a quarter of it that is missing is a gap, and
an eighth is none. The detector speaks at half of it."""
LEARNED = 0.2
"""Skill from which a model can have a gap at all."""


@dataclass(frozen=True)
class Score:
    """Scores over some samples, by all ranks."""

    top1: float
    loss: float
    """Mean cross-entropy, in nats."""
    count: int


@dataclass(frozen=True)
class GapSeverity:
    """Severity of an eval gap: the skill that is missing, in units of `SHARE` of the expected skill or of its noise.

    Skill is top-1 above guessing, (top1 - 1/C) / (1 - 1/C). The noise is the binomial standard error of the difference
    of the two scores, so that a small val/ has no gap by chance.
    """

    classes: int

    def __call__(self, score: Score, expected: Score) -> float:
        """0 and below: no gap; NON_FINITE_SCORE where the loss is not finite."""
        if not math.isfinite(score.loss):
            return NON_FINITE_SCORE
        skill = self.skill(expected)
        noise = math.hypot(_standard_error(score), _standard_error(expected)) / (1.0 - 1.0 / self.classes)
        return (skill - self.skill(score)) / max(noise, SHARE * skill)

    def skill(self, score: Score) -> float:
        """Top-1 above guessing: 0 at 1/C, 1 at 1."""
        guess = 1.0 / self.classes
        return (score.top1 - guess) / (1.0 - guess)

    def has_learned(self, score: Score) -> bool:
        """Whether there is enough skill for a part of it to be missing."""
        return math.isfinite(score.loss) and self.skill(score) >= LEARNED


def _standard_error(score: Score) -> float:
    """Of a share of `count` samples, by Laplace's rule, so that it is never 0."""
    share = (score.top1 * score.count + 1.0) / (score.count + 2.0)
    return math.sqrt(share * (1.0 - share) / score.count)
