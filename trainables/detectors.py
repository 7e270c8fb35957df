"""From signals to a symptom: whether a run is ill, since when, and how.

    non_finite    loss or gradient is not finite
    spike         the loss leaves its baseline suddenly and stays out for several steps
    divergence    the loss drifts up, or the run sits far above chance
    collapse      the loss settles at chance level after having been well below it
    instability   worse than guessing and erratic for a long stretch, with no single event
    input_shift   the input's channel moments leave their baseline, which batch norm hides from the loss

Scores are in units of the run's own noise: the larger of the scatter of recent steps (median absolute deviation) and
the standard error of a batch mean that the per-sample losses give, with a floor relative to chance. Points that are
suspicious never enter the baseline, so an outlier can't hide itself or the next one; a step that is not finite enters
nothing.

Each update costs O(history). Needs no torch; the state is plain data that a checkpoint keeps as JSON.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import fmean, median, pstdev
from typing import Any, Literal

from trainables.baseline import (
    NON_FINITE_SCORE,
    Baseline,
    build_baseline,
    declared_baseline,
    erratic_score,
    median_moments,
    pooled_moments,
)
from trainables.config import DetectorConfig
from trainables.signals import StepSignals

SymptomKind = Literal["non_finite", "spike", "divergence", "collapse", "instability", "input_shift"]

BLOWN_UP = 2.0
"""Loss, as a multiple of chance, that is ill whatever came before, as a median over `min_history` steps, and whatever a
few samples of the batch did."""
OWN_ERRORS = 3.0
"""Standard errors of a batch's own mean that its excess must pass, up to `BLOWN_UP`: a few hard samples in a calm phase
are no spike."""
AT_CHANCE = 0.05
"""Distance from chance, as a share of it, that counts as chance level."""


@dataclass(frozen=True)
class Symptom:
    """What the detector saw."""

    kind: SymptomKind
    step: int
    """Step at which it was confirmed."""
    onset: int
    """First step of the event."""
    severity: float
    """In units of the run's noise."""
    detail: str
    """One sentence with the numbers."""
    baseline: Baseline
    """The healthy stretch before it, frozen: replays are scored against it."""


@dataclass
class Detector:
    """Online detector of every symptom; `update` takes the signals of consecutive steps.

    >>> detector = Detector(DetectorConfig(), num_classes=10)
    >>> detector.update(StepSignals(step=0, loss=float("nan"))).kind
    'non_finite'
    """

    config: DetectorConfig
    num_classes: int | None = None
    expected_mean: tuple[float, ...] = ()
    """Declared moments of the input; empty: only changes are seen."""
    expected_std: tuple[float, ...] = ()
    accepted: deque[StepSignals] = field(init=False)
    """The last `history` steps that were not suspicious."""
    recent: deque[StepSignals] = field(init=False)
    """The last 2 * confirm finite steps, suspicious or not."""
    suspicious: deque[int] = field(init=False)
    """Steps whose loss was suspicious."""
    losses: deque[float] = field(init=False)
    """Every finite loss of the last two erratic windows."""
    lowest: Baseline | None = None
    """Baseline of the best stretch so far: what a drift is measured against."""

    def __post_init__(self) -> None:
        self.accepted = deque(maxlen=self.config.history)
        self.recent = deque(maxlen=2 * self.config.confirm)
        self.suspicious = deque(maxlen=2 * self.config.confirm)
        self.losses = deque(maxlen=2 * self.config.erratic_window)

    @property
    def chance(self) -> float:
        """ln(classes), or 0 where the classes are not known."""
        return math.log(self.num_classes) if self.num_classes else 0.0

    def update(self, signals: StepSignals) -> Symptom | None:
        """Take one step's signals; a Symptom once one is confirmed, else None."""
        if not self.config.enabled:
            return None
        if not signals.finite:
            detail = f"loss {signals.loss:g}, gradient norm {signals.grad_norm:g}"
            return self._symptom("non_finite", signals.step, signals.step, NON_FINITE_SCORE, detail)
        self.losses.append(signals.loss)
        self.recent.append(signals)
        symptom = self._input_shift(signals) or self._sudden(signals) or self._slow(signals) or self._erratic(signals)
        if signals.step not in self.suspicious:
            self.accepted.append(signals)
            self._remember_lowest()
        return symptom

    def state_dict(self) -> dict[str, Any]:
        """What the detector remembers, as JSON has it (nan as NaN)."""
        return {
            "accepted": [asdict(signals) for signals in self.accepted],
            "recent": [asdict(signals) for signals in self.recent],
            "suspicious": list(self.suspicious),
            "losses": list(self.losses),
            "lowest": asdict(self.lowest) if self.lowest else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Remember what `state_dict` gave, so that the next update is what it would have been."""
        self.accepted.extend(StepSignals.from_dict(row) for row in state["accepted"])
        self.recent.extend(StepSignals.from_dict(row) for row in state["recent"])
        self.suspicious.extend(state["suspicious"])
        self.losses.extend(state["losses"])
        self.lowest = Baseline.from_dict(state["lowest"]) if state["lowest"] else None

    def baseline_before(self, onset: int) -> Baseline:
        """Baseline of the accepted steps before `onset`; the best stretch, or chance, where there are too few."""
        steps = [signals for signals in self.accepted if signals.step < onset]
        if len(steps) >= self.config.min_history:
            return build_baseline(steps, self.chance, window=len(self.recent))
        if self.lowest is not None:
            return self.lowest
        return self._declared_baseline()

    def _sudden(self, signals: StepSignals) -> Symptom | None:
        """Enough suspicious steps of the last few: a spike, or a collapse where they lie at chance level."""
        if len(self.accepted) < self.config.min_history:
            return None
        baseline = build_baseline(self.accepted, self.chance, window=2 * self.config.confirm)
        if baseline.loss_score(signals.loss) < self.config.spike_score or self._few_explain(signals, baseline.level):
            return None
        self.suspicious.append(signals.step)
        bad = [step for step in self.suspicious if step > signals.step - 2 * self.config.confirm]
        if len(bad) < self.config.confirm:
            return None
        last = list(self.losses)[-self.config.confirm :]
        at_chance = self._is_chance(median(last)) and pstdev(last) < AT_CHANCE * self.chance
        severity = median(baseline.loss_score(s.loss) for s in self.recent if s.step in bad)
        detail = f"loss {signals.loss:.3g} against {baseline.level:.3g} before, {severity:.1f} times the noise"
        return self._symptom("collapse" if at_chance else "spike", signals.step, bad[0], severity, detail)

    def _few_explain(self, signals: StepSignals, level: float) -> bool:
        """Whether a few hard samples explain the batch's loss, which nothing does far above chance."""
        blown_up = self.chance > 0 and signals.loss > BLOWN_UP * self.chance
        return not blown_up and signals.loss < level + OWN_ERRORS * signals.loss_noise

    def _slow(self, signals: StepSignals) -> Symptom | None:
        """A run that sits far above chance, or has drifted away from its best stretch."""
        now = list(self.losses)[-self.config.min_history :]
        if len(now) < self.config.min_history:
            return None
        onset = signals.step - self.config.min_history + 1
        if self.chance and median(now) > BLOWN_UP * self.chance:
            guessing = self._declared_baseline()
            detail = f"median loss {median(now):.3g} over {len(now)} steps, where guessing gives {self.chance:.3g}"
            return self._symptom("divergence", signals.step, onset, guessing.loss_score(median(now)), detail, guessing)
        if self.lowest is None or self.lowest.loss_score(median(now)) < self.config.spike_score:
            return None
        detail = f"median loss {median(now):.3g} against {self.lowest.level:.3g} at best"
        kind: SymptomKind = "collapse" if self._is_chance(median(now)) else "divergence"
        return self._symptom(kind, signals.step, onset, self.lowest.loss_score(median(now)), detail, self.lowest)

    def _erratic(self, signals: StepSignals) -> Symptom | None:
        """Two windows after the start, still worse than guessing, and noisy."""
        window = self.config.erratic_window
        if not self.chance or len(self.losses) < 2 * window:
            return None
        late = list(self.losses)[-window:]
        score = erratic_score(late, self.chance)
        if score < self.config.spike_score:
            return None
        spread = pstdev(late)
        detail = f"loss {fmean(late):.3g} +- {spread:.3g} over {window} steps, where guessing gives {self.chance:.3g}"
        return self._symptom("instability", signals.step, max(0, signals.step - 2 * window + 1), score, detail)

    def _input_shift(self, signals: StepSignals) -> Symptom | None:
        """Moments that left their baseline, or that never were the declared ones."""
        if not signals.input_mean or len(self.accepted) < self.config.min_history:
            return None
        if self.expected_mean and signals.step == self.config.min_history:
            first = list(self.accepted)
            declared = self._declared_baseline()
            if declared.stretch_score(first) >= self.config.spike_score:
                detail = f"{_shown(pooled_moments(first))} at first where {_shown(declared)} was declared"
                return self._symptom("input_shift", signals.step, 0, declared.stretch_score(first), detail, declared)
        recent = list(self.recent)
        baseline = build_baseline(self.accepted, self.chance, window=len(recent))
        score = baseline.stretch_score(recent)
        if score < self.config.spike_score:
            return None
        onset = next((s.step for s in recent if baseline.input_score(s) > score / 2), recent[0].step)
        detail = f"{_shown(median_moments(recent))} where {_shown(baseline)} came before"
        return self._symptom("input_shift", signals.step, onset, score, detail)

    def _symptom(
        self, kind: SymptomKind, step: int, onset: int, severity: float, detail: str, baseline: Baseline | None = None
    ) -> Symptom:
        """`baseline`: what the rule measured against; None: the accepted steps before the onset."""
        return Symptom(kind, step, onset, severity, detail, baseline or self.baseline_before(onset))

    def _declared_baseline(self) -> Baseline:
        level = self.chance or (abs(self.accepted[0].loss) if self.accepted else 0.0) or 1.0
        return declared_baseline(level, self.expected_mean, self.expected_std, self.accepted)

    def _is_chance(self, loss: float) -> bool:
        return self.chance > 0 and abs(loss - self.chance) < AT_CHANCE * self.chance

    def _remember_lowest(self) -> None:
        if len(self.accepted) < self.config.history:
            return
        baseline = build_baseline(self.accepted, self.chance, window=len(self.recent))
        if self.lowest is None or baseline.level < self.lowest.level:
            self.lowest = baseline


def _shown(moments: StepSignals | Baseline) -> str:
    pairs = zip(moments.input_mean, moments.input_std, strict=True)
    return "channel means and stds " + ", ".join(f"{mean:.2f}+-{std:.2f}" for mean, std in pairs)
