"""Input shift: moments of the input that left their baseline, or that never were the declared ones."""

from __future__ import annotations

from collections.abc import Iterable

from trainables.baseline import Baseline, build_baseline, median_moments, pooled_moments
from trainables.detectors.finding import Finding
from trainables.detectors.memory import Memory
from trainables.step_signals import StepSignals


def never_declared(memory: Memory, signals: StepSignals) -> Finding | None:
    """The first `min_history` steps against what the data index promises."""
    ready = signals.step == memory.config.min_history and len(memory.accepted) >= memory.config.min_history
    if not (signals.input_mean and memory.expected_mean and ready):
        return None
    first = list(memory.accepted)
    declared = memory.declared()
    score = declared.stretch_score(first)
    if score < memory.config.spike_score:
        return None
    detail = f"{_moments(pooled_moments(first))} at first where {_moments(declared)} was declared"
    return Finding("input_shift", 0, score, detail, declared)


def input_shift(memory: Memory, signals: StepSignals) -> Finding | None:
    """The last few steps against the accepted ones."""
    if not signals.input_mean or len(memory.accepted) < memory.config.min_history:
        return None
    recent = list(memory.recent)
    baseline = build_baseline(memory.accepted, memory.chance, window=len(recent))
    score = baseline.stretch_score(recent)
    if score < memory.config.spike_score:
        return None
    onset = next((s.step for s in recent if baseline.input_score(s) > score / 2), recent[0].step)
    detail = f"{_moments(median_moments(recent))} where {_moments(baseline)} came before"
    return Finding("input_shift", onset, score, detail)


def show_moments(means: Iterable[float], stds: Iterable[float]) -> str:
    """`0.10+-0.98, ...`, a channel each."""
    return ", ".join(f"{mean:.2f}+-{std:.2f}" for mean, std in zip(means, stds, strict=True))


def _moments(of: StepSignals | Baseline) -> str:
    return f"channel means and stds {show_moments(of.input_mean, of.input_std)}"
