"""Instability: two windows after the start, still worse than guessing, and noisy."""

from __future__ import annotations

from statistics import fmean, pstdev

from trainables.baseline import erratic_score
from trainables.detectors.finding import Finding
from trainables.detectors.memory import Memory
from trainables.step_signals import StepSignals


def erratic(memory: Memory, _signals: StepSignals) -> Finding | None:
    """A window that is worse than guessing on average and scatters widely."""
    window = memory.config.erratic_window
    if not memory.chance or len(memory.losses) < 2 * window:
        return None
    late = memory.last(window)
    if fmean(late) < memory.chance:
        return None
    score = erratic_score(late, memory.chance)
    if score < memory.config.spike_score:
        return None
    spread = pstdev(late)
    detail = f"loss {fmean(late):.3g} +- {spread:.3g} over {window} steps, where guessing gives {memory.chance:.3g}"
    return Finding("instability", memory.step_before(2 * window), score, detail)
