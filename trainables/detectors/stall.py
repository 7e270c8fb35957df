"""Stall: long after the warm-up the loss has never left chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, pstdev

from trainables.baseline import MEDIAN_EFFICIENCY, NOISE_FLOOR, Baseline, step_scatter
from trainables.config import DetectorConfig
from trainables.detectors.finding import Finding
from trainables.detectors.memory import Memory
from trainables.step_signals import StepSignals

LEFT_CHANCE = 6.0
"""Standard errors of a baseline's median below chance that count as progress: the lowest of many medians of a loss that
stands still lies some 3 below it."""
FALLING = 2.0
"""Noise units that the median of `confirm` losses lies below that of half a baseline where the loss still falls: three
standard errors of their difference."""
LEARNED = 0.25
"""Share of the way from the top-1 of guessing to 1, in training, from which a run has left chance whatever its loss:
one that learns random labels by heart gets less far in a few epochs."""
PROGRESS = 12.0
"""Noise units below chance where a run that learns is by then: what a stall is measured against. Chance then scores 12,
and a replay that got half-way there is none."""


@dataclass
class Warmup:
    """When the learning rate last was at a new height; steps up to there are no stall."""

    highest: float = 0.0
    since: int | None = None

    def observe(self, signals: StepSignals) -> None:
        """Take a step; without a learning rate the run counts from its first one."""
        if self.since is None or signals.learning_rate > self.highest:
            self.since = signals.step
            self.highest = signals.learning_rate if math.isfinite(signals.learning_rate) else 0.0


def patience(config: DetectorConfig, max_steps: int | None) -> float:
    """Steps past the warm-up after which a run that is still at chance has stalled.

    No fewer than an erratic run is given: in a short one half of all steps is no time to learn anything.
    """
    share = math.inf if max_steps is None else config.stall_share * max_steps
    return max(2 * config.erratic_window, min(config.stall_steps, share))


def classifies(steps: Sequence[StepSignals], guess_top1: float) -> bool:
    """Whether the top-1 of a stretch is beyond that of guessing, by LEARNED and by LEFT_CHANCE standard errors.

    A batch of four tells little by its loss, whose scatter is as large as chance itself.
    """
    measured = [s.top1 for s in steps if math.isfinite(s.top1)]
    if len(measured) < 2:
        return False
    beyond, error = fmean(measured) - guess_top1, pstdev(measured) / math.sqrt(len(measured))
    return beyond > max(LEARNED * (1.0 - guess_top1), LEFT_CHANCE * error)


def stall(
    memory: Memory, signals: StepSignals, warmup: Warmup, after: float, guess_top1: float | None
) -> Finding | None:
    """The run's best baseline is that of guessing, and the loss now neither lies below it nor falls.

    `guess_top1`: of the best constant guess; None: not known, and the top-1 is no evidence.
    """
    best, since = memory.best.lowest, warmup.since
    if not memory.chance or best is None or since is None or signals.step - since < after:
        return None
    if guess_top1 is not None and classifies(memory.accepted, guess_top1):
        return None
    losses = [s.loss for s in memory.accepted]
    noise = max(step_scatter(losses), NOISE_FLOOR * memory.chance)
    now, before = median(memory.last(memory.config.confirm)), median(losses[: len(losses) // 2])
    least = memory.chance - LEFT_CHANCE * noise * MEDIAN_EFFICIENCY / math.sqrt(memory.config.history)
    if min(now, best.level) < least or now < before - FALLING * noise:
        return None
    noise = min(noise, memory.chance / PROGRESS)
    learned = Baseline(memory.chance - PROGRESS * noise, noise, memory.chance)
    detail = f"loss {best.level:.3g} at best, where guessing gives {memory.chance:.3g}, {signals.step - since} steps "
    return Finding("stall", since, learned.loss_score(now), detail + "after the learning rate was highest", learned)
