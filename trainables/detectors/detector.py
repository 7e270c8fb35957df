"""The online detector: asks each rule in turn, once a step and once an evaluation."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from trainables.baseline import NON_FINITE_SCORE
from trainables.config import DetectorConfig
from trainables.detectors.broken import broken
from trainables.detectors.erratic import erratic
from trainables.detectors.eval_gap import Evaluations, EvaluationSignals, eval_gap
from trainables.detectors.finding import Finding
from trainables.detectors.inputs import input_shift, never_declared
from trainables.detectors.memory import Memory
from trainables.detectors.shifted import shifted
from trainables.detectors.slow import drift, far_above_chance
from trainables.detectors.stall import Warmup, patience, stall
from trainables.detectors.sudden import collapsed, fallen_back, sudden
from trainables.detectors.symptom import Symptom
from trainables.step_signals import StepSignals

RULES = (
    *(broken, never_declared, input_shift),
    *(sudden, collapsed, fallen_back, far_above_chance, drift, shifted, erratic),
)
"""Of a finite step, the first that finds something counts."""


@dataclass
class Detector:
    """Online detector of every symptom; `update` takes the signals of consecutive steps.

    Each update costs O(history). The state is plain data that a checkpoint keeps as JSON.

    >>> detector = Detector(DetectorConfig(), num_classes=10)
    >>> detector.update(StepSignals(step=0, loss=float("nan"))).kind
    'non_finite'
    """

    config: DetectorConfig
    num_classes: int | None = None
    expected_mean: tuple[float, ...] = ()
    """Declared moments of the input; empty: only changes are seen."""
    expected_std: tuple[float, ...] = ()
    max_steps: int | None = None
    """Steps of the whole run, where known: a short one has stalled sooner."""
    guess_top1: float | None = None
    """Top-1 of the best constant guess, the share of the largest class; None: not known."""
    scheduled_changes: tuple[int, ...] = ()
    """Steps from which training is on images of another size: what the loss was before is no measure for it, and up to
    the last of them an evaluation, which is at the last size, is none for training."""
    memory: Memory = field(init=False)
    warmup: Warmup = field(default_factory=Warmup)
    evaluations: Evaluations = field(default_factory=Evaluations)

    def __post_init__(self) -> None:
        chance = math.log(self.num_classes) if self.num_classes else 0.0
        self.memory = Memory(self.config, chance, self.expected_mean, self.expected_std)

    @property
    def chance(self) -> float:
        """ln(classes), or 0 where the classes are not known."""
        return self.memory.chance

    @property
    def accepted(self) -> deque[StepSignals]:
        """The last `history` steps that were not suspicious."""
        return self.memory.accepted

    def update(self, signals: StepSignals) -> Symptom | None:
        """Take one step's signals; a Symptom once one is confirmed, else None."""
        if not self.config.enabled:
            return None
        if not signals.finite:
            detail = f"loss {signals.loss:g}, gradient norm {signals.grad_norm:g}"
            return self._symptom(signals.step, Finding("non_finite", signals.step, NON_FINITE_SCORE, detail))
        if signals.step in self.scheduled_changes:
            self.memory.start_anew(())
        self.warmup.observe(signals)
        plain = self.memory.mixing.take(signals, patience=self.config.min_history)
        if plain is None:
            self.memory.start_anew(())
            return None
        self.memory.observe(plain, signals.loss)
        return self._judge(plain)

    def _judge(self, signals: StepSignals) -> Symptom | None:
        """Ask the rules about a finite step, whose loss is without what mixing costs."""
        findings = (rule(self.memory, signals) for rule in RULES)
        finding = next((finding for finding in findings if finding), None) or self._stall(signals)
        symptom = self._symptom(signals.step, finding) if finding else None
        if signals.step not in self.memory.suspicious:
            self.memory.accept(signals)
        return symptom

    def update_evaluation(self, evaluation: EvaluationSignals) -> Symptom | None:
        """Take an evaluation, after the signals of the steps before it; a Symptom once a gap is confirmed."""
        if not self.config.enabled or evaluation.step <= max(self.scheduled_changes, default=-1):
            return None
        finding = eval_gap(self.memory, self.evaluations, evaluation)
        return self._symptom(evaluation.step, finding) if finding else None

    def state_dict(self) -> dict[str, Any]:
        """What the detector remembers, as JSON has it (nan as NaN)."""
        own = {"warmup": asdict(self.warmup), "evaluations": self.evaluations.state_dict()}
        return {**self.memory.state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remember what `state_dict` gave, so that the next update is what it would have been."""
        self.memory.load_state_dict(state)
        self.warmup = Warmup(**state["warmup"])
        self.evaluations = Evaluations.from_dict(state["evaluations"])

    def _stall(self, signals: StepSignals) -> Finding | None:
        after = patience(self.config, self.max_steps)
        return stall(self.memory, signals, self.warmup, after, self.guess_top1)

    def _symptom(self, step: int, finding: Finding) -> Symptom:
        baseline, detail = finding.baseline or self.memory.baseline_before(finding.onset), finding.detail
        cost = self.memory.mixing.cost
        if cost > 0:
            baseline, detail = replace(baseline, mixing_cost=cost), f"{detail}; without what mixing costs"
        return Symptom(finding.kind, step, finding.onset, finding.severity, detail, baseline, of_input=finding.of_input)
