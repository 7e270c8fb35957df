"""How bad a score of an evaluation is, against one that it could have."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from trainables.baseline import NON_FINITE_SCORE
from trainables.detectors.evaluated import INPUT_UNIT, LEARNED, moments_apart

SHARE = 1.0 / 60.0
"""Share of the expected skill that is one unit: at the default thresholds a tenth of it that is missing is a gap, and
a twentieth is none. The detector speaks at an eighth."""
GAP_SHARE = 1.0 / 24.0
"""The same as a share of the gap itself: of a large one a quarter that stays is present, and an eighth is none."""
ERRORS = 0.5
"""Standard errors that are one unit."""


@dataclass(frozen=True)
class Score:
    """Scores over some samples, by all ranks."""

    top1: float
    loss: float
    """Mean cross-entropy, in nats."""
    count: int
    input_moments: tuple[float, ...] = ()
    """Per-channel means, then standard deviations, of the normalised input; empty: not to be compared."""


@dataclass(frozen=True)
class GapSeverity:
    """Severity of an eval gap: the skill that is missing, or how far the input is from the expected one.

    Skill is top-1 above guessing, (top1 - 1/C) / (1 - 1/C), in units of `share` of the expected skill, of `GAP_SHARE`
    of the gap that is diagnosed, or of `ERRORS` binomial standard errors of the difference, so that a small val/ has
    no gap by chance. Where it is the input that changed, it alone is compared, by its moments in the detector's units:
    another input is at fault however much of it a model bears, and what running statistics lose besides is no part of
    that event.
    """

    classes: int
    share: float = SHARE
    gap: float = 0.0
    """Skill that is missing in the evaluation that is diagnosed."""
    of_input: bool = False
    """Whether the input is compared."""

    def __call__(self, score: Score, expected: Score) -> float:
        """0 and below: no gap; NON_FINITE_SCORE where the loss is not finite."""
        if not math.isfinite(score.loss):
            return NON_FINITE_SCORE
        skill = self.skill(expected)
        noise = math.hypot(_standard_error(score), _standard_error(expected)) / (1.0 - 1.0 / self.classes)
        missing = (skill - self.skill(score)) / max(ERRORS * noise, self.share * skill, GAP_SHARE * self.gap)
        if self.of_input and score.input_moments and expected.input_moments:
            return moments_apart(score.input_moments, expected.input_moments) / INPUT_UNIT
        return missing

    def of_gap(self, score: Score, expected: Score) -> GapSeverity:
        """The severity that the parts of the gap between these two are measured by."""
        lost = self.skill(expected) - (self.skill(score) if math.isfinite(score.loss) else 0.0)
        return replace(self, gap=max(0.0, lost))

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
