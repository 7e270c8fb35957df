"""A level that rose: the last losses lie well above those just before, however steeply these still fell.

The median of a history that holds a steep descent is far above where the run has got to, and its scatter is that of
the descent. Here the noise is that of the changes from step to step, and the level that of the steps just before.
"""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import median

from trainables.baseline import AT_CHANCE, FLOOR_LEVEL, MEDIAN_EFFICIENCY, NOISE_FLOOR, step_scatter
from trainables.detectors.finding import Finding
from trainables.detectors.memory import Memory
from trainables.detectors.symptom import SymptomKind
from trainables.step_signals import StepSignals

BEFORE = 2
"""Windows that the level is taken over, before the one that is judged."""
LEAST_RISE = 0.15
"""Rise, as a share of chance, below which no shift is one."""
UNKNOWN_RISE = 0.5
"""The same as a share of the level before, where chance is not known."""


def shifted(memory: Memory, signals: StepSignals) -> Finding | None:
    """The median of `min_history` steps above that of twice as many before, by the noise of the difference.

    A run that is still at chance has no level to rise from.
    """
    width = memory.config.min_history
    losses = memory.last((1 + BEFORE) * width)
    if len(losses) < (1 + BEFORE) * width:
        return None
    before, now = losses[:-width], losses[-width:]
    level, top = median(before), median(now)
    earlier = memory.best.at(signals.learning_rate)
    if earlier is not None:
        level = max(level, earlier.level)
    if memory.chance and level > (1.0 - AT_CHANCE) * memory.chance:
        return None
    if top - level <= (LEAST_RISE * memory.chance or UNKNOWN_RISE * abs(level)):
        return None
    floor = NOISE_FLOOR * max(abs(level), FLOOR_LEVEL * memory.chance)
    # Steps that differ so much shake the weights for longer than one step.
    scatter = math.hypot(max(step_scatter(before), floor, 1e-12), memory.mixing.scatter)
    noise = scatter * MEDIAN_EFFICIENCY * math.sqrt((1 + 1 / BEFORE) / width)
    score = (top - level) / noise
    if score < memory.config.spike_score:
        return None
    onset = _first_high(memory, now, (level + top) / 2.0)
    kind: SymptomKind = "collapse" if memory.stands_at_chance(width // 2) else "divergence"
    detail = f"median loss {top:.3g} over {width} steps against {level:.3g} just before"
    return Finding(kind, onset, score, detail, replace(memory.baseline_before(onset), level=level, noise=noise))


def _first_high(memory: Memory, now: list[float], middle: float) -> int:
    """Step of the first loss above `middle` from which on most are."""
    steps = list(memory.steps)[-len(now) :]
    high = [loss > middle for loss in now]
    first = next(k for k in range(len(now)) if high[k] and 2 * sum(high[k:]) >= len(now) - k)
    return steps[first]
