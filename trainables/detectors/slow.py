"""Divergence: a run that sits far above chance, or has drifted away from its best stretch."""

from __future__ import annotations

from statistics import median

from trainables.detectors.finding import Finding
from trainables.detectors.memory import Memory
from trainables.detectors.sudden import BLOWN_UP
from trainables.detectors.symptom import SymptomKind
from trainables.step_signals import StepSignals


def far_above_chance(memory: Memory, _signals: StepSignals) -> Finding | None:
    """A median of `min_history` steps above `BLOWN_UP` times chance, whatever came before."""
    now = memory.last(memory.config.min_history)
    if not memory.chance or len(now) < memory.config.min_history or median(now) <= BLOWN_UP * memory.chance:
        return None
    guessing = memory.declared()
    detail = f"median loss {median(now):.3g} over {len(now)} steps, where guessing gives {memory.chance:.3g}"
    onset = memory.step_before(len(now))
    return Finding("divergence", onset, guessing.loss_score(median(now)), detail, guessing)


def drift(memory: Memory, signals: StepSignals) -> Finding | None:
    """A median of `min_history` steps above the best stretch at this learning rate."""
    now = memory.last(memory.config.min_history)
    # Where the rate falls, the window's first steps had a higher one.
    earlier = memory.accepted[max(0, len(memory.accepted) - len(now))] if memory.accepted else signals
    best = memory.best.at(max(signals.learning_rate, earlier.learning_rate))
    if best is None or len(now) < memory.config.min_history:
        return None
    score = best.loss_score(median(now))
    if score < memory.config.spike_score:
        return None
    detail = f"median loss {median(now):.3g} against {best.level:.3g} at best"
    kind: SymptomKind = "collapse" if memory.is_at_chance() else "divergence"
    steps = list(memory.steps)[-len(now) :]
    onset = next(
        step for step, loss in zip(steps, now, strict=True) if best.loss_score(loss) >= memory.config.spike_score
    )
    return Finding(kind, onset, score, detail, best)
