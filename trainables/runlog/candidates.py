"""Candidate causes: names and groups as the catalogue has them, confidence bounded, since nothing was replayed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainables.diagnosis.causes import GROUP_OF

CAP = 0.75
"""Most confidence that a log alone can give."""
SPECIFIC = 0.6
"""Confidence from which a candidate may be the verdict: a threshold of the replays' too (diagnosis.min_confidence)."""
LEAD = 0.1
"""Least lead over the second candidate."""
LATER = 0.8
"""Weight of what speaks for a cause at a later event, which the first one may have brought about."""
UNEXPLAINED = "unexplained"

REPLAYS: Mapping[str, str] = {
    "lr_too_high": "the same batches at a quarter of the rate",
    "warmup_missing": "the same start with the peak reached by a warm-up",
    "lr_jump": "the same batches with the rate of before the rise held",
    "lr_too_low": "the same batches at 4 and 16 times the rate",
    "edge_of_stability": "other batches, and the same ones at half the rate",
    "optimizer_state_lost": "the same steps from the checkpoint with its optimizer state",
    "bn_small_batch": "normalisation statistics over merged batches, at the same rate",
    "bn_stats_corrupt": "the evaluation after the running statistics are taken anew",
    "bn_low_precision": "the evaluation with statistics in float32",
    "norm_eps": "the evaluation with the default eps",
    "poisoned_batch": "the samples of that step, scored from earlier weights",
    "outlier_samples": "each sample of that step scored alone",
    "label_shuffle": "the same samples with the labels of the index",
    "non_finite_input": "the batch of that step, looked at for nan",
    "wrong_mean_std": "the same samples through the reference normalisation",
    "channel_swap": "the same samples through the reference decoding",
    "scale_255": "the same samples through the reference decoding",
    "train_eval_mismatch": "training images through the evaluation's pipeline",
    "fp16_overflow": "the same steps in float32",
    "loss_numerics": "the loss of the same logits in float64",
    "missing_zero_grad": "the same batches with gradients cleared before each",
    "metric_bug": "the metric computed anew from the logits",
}
"""The replay that would settle each, from the catalogue's probes."""


@dataclass(frozen=True)
class Candidate:
    """A cause that the log speaks for."""

    cause: str
    confidence: float
    evidence: str
    """The numbers that speak for it."""

    @property
    def group(self) -> str:
        """The catalogue's group of the cause."""
        return GROUP_OF[self.cause]

    @property
    def replay(self) -> str:
        """What would settle it."""
        return REPLAYS[self.cause]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        confidence = round(self.confidence, 2)
        told = {"cause": self.cause, "group": self.group, "confidence": confidence, "evidence": self.evidence}
        return told | {"replay": self.replay}


def best_first(by_event: Sequence[Iterable[Candidate]]) -> list[Candidate]:
    """The strongest candidate of each cause over the events in their order, the most confident first."""
    best: dict[str, Candidate] = {}
    for number, candidates in enumerate(by_event):
        for candidate in candidates:
            confidence = min(CAP, candidate.confidence) * (LATER if number else 1.0)
            if candidate.cause not in best or confidence > best[candidate.cause].confidence:
                best[candidate.cause] = Candidate(candidate.cause, confidence, candidate.evidence)
    return sorted(best.values(), key=lambda candidate: -candidate.confidence)


def verdict_of(candidates: Sequence[Candidate]) -> str:
    """The leading cause where its evidence is specific and no other is as good, else `unexplained`."""
    if not candidates or candidates[0].confidence < SPECIFIC:
        return UNEXPLAINED
    if len(candidates) > 1 and candidates[0].confidence - candidates[1].confidence < LEAD - 1e-9:
        return UNEXPLAINED
    return candidates[0].cause
