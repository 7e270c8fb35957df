"""Steps that are no training steps, whatever they do to the loss: a wrong update, and ranks that have drifted apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from trainables.baseline import apart_score, update_score
from trainables.detectors.finding import Finding
from trainables.detectors.memory import Memory
from trainables.detectors.symptom import SymptomKind
from trainables.step_signals import StepSignals

OF_ONE_STEP: Mapping[SymptomKind, Callable[[StepSignals], float]] = {
    "wrong_update": update_score,
    "ranks_apart": apart_score,
}
"""Symptoms that the step which shows them says all of, and their scores."""
DETAILS: Mapping[SymptomKind, str] = {
    "wrong_update": "{0.update_error:.0%} of the update is not one step of the optimizer's rule",
    "ranks_apart": "the weights of {0.weight_checksum_spread:.0f} ranks are not rank 0's",
}
"""What is said of them, by the step's signals."""


def broken(memory: Memory, signals: StepSignals) -> Finding | None:
    """The weights moved otherwise than by one step of the optimizer's rule, or some ranks hold others than rank 0."""
    for kind, score_of in OF_ONE_STEP.items():
        score = score_of(signals)
        if score >= memory.config.spike_score:
            return Finding(kind, signals.step, score, DETAILS[kind].format(signals))
    return None
