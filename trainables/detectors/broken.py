"""Steps that are no training steps, whatever they do to the loss: a wrong update, and ranks that have drifted apart."""

from __future__ import annotations

from trainables.baseline import apart_score, update_score
from trainables.detectors.finding import Finding
from trainables.detectors.memory import Memory
from trainables.step_signals import StepSignals


def wrong_update(memory: Memory, signals: StepSignals) -> Finding | None:
    """The weights moved otherwise than by one step of the optimizer's rule at the step's rate."""
    score = update_score(signals)
    if score < memory.config.spike_score:
        return None
    detail = f"{signals.update_error:.0%} of the update is not one step of the optimizer's rule"
    return Finding("wrong_update", signals.step, score, detail)


def ranks_apart(memory: Memory, signals: StepSignals) -> Finding | None:
    """Some ranks hold other weights than rank 0."""
    score = apart_score(signals)
    if score < memory.config.spike_score:
        return None
    detail = f"the weights of {signals.weight_checksum_spread:.0f} ranks are not rank 0's"
    return Finding("ranks_apart", signals.step, score, detail)
