"""Eval gap: training is fine and evaluation is not.

Skill is top-1 above guessing, (top1 - 1/C) / (1 - 1/C). An evaluation is bad where val/ has lost nearly all of the
skill that the training steps show, or much of what it had itself while training stayed as good, or where its loss is
not finite. Overfitting, which takes its time, strong augmentation and mixup are far from either. It is bad as well
where its input is not what it was, and where running statistics lose what a batch's own regain. One bad evaluation may
be a dip: two in a row count, and so does the last one of a run, which is the one that ships.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from trainables.baseline import AT_CHANCE, NON_FINITE_SCORE
from trainables.detectors.evaluated import (
    LEARNED,
    Complaint,
    Looks,
    StatisticsLoss,
    changed_input,
    stale_statistics,
)
from trainables.detectors.finding import Finding
from trainables.detectors.memory import Memory
from trainables.step_signals import one_nan

LOST = 0.25
"""Share of the training steps' skill that even an overfitted model keeps on val/."""
FELL = 0.6
"""Share of its own best skill that val/ keeps while training is as good as then."""
FELL_AT_ONCE = 0.75
"""The same of the best of the last `RECENT` good evaluations. Of 86 real ResNet-50 runs none fell below 0.85."""
RECENT = 4
"""Good evaluations that a sudden fall is measured against."""
LEAST_FALL = 0.12
"""Skill that one small val/ can lose by chance."""
GAP_NOISE = 0.025
"""Noise unit of a skill: `LEARNED` lost but for `LOST` of it scores 6."""
FALL_SHARE = 1.0 / 24.0
"""The same of a fall, as a share of the skill that it fell from: `FELL_AT_ONCE` scores 6."""
SURE_SHARE = 0.5
"""Least skill of a cross-entropy, as a share of 1 - loss / ln C: a loss of half of ln 1000 comes with a top-1 of 0.28,
not less."""


@dataclass(frozen=True)
class EvaluationSignals:
    """One evaluation of val/ after `step` steps; plain numbers, nan where a source has none."""

    step: int
    val_loss: float = math.nan
    val_top1: float = math.nan
    train_loss: float = math.nan
    """Level of the training steps just before, in training mode; nan: that of the steps that the detector saw."""
    train_top1: float = math.nan
    """As `train_loss`."""
    final: bool = False
    """The run's last evaluation."""
    input_moments: tuple[float, ...] = ()
    """Per-channel means, then standard deviations, of the normalised input."""
    batch_top1: float = math.nan
    """Of some samples of val/, by the statistics of their own batch."""
    lost: float = math.nan
    """This less the top-1 of the same samples by running statistics."""
    lost_noise: float = math.nan
    """Standard error of `lost`."""


@dataclass
class Evaluations:
    """What is remembered of earlier evaluations."""

    best_skill: float = 0.0
    best_train_loss: float = math.nan
    """Training loss at the best skill."""
    bad_since: int | None = None
    """Step of the first bad evaluation of those in a row."""
    good_step: int = 0
    """Step of the last good one."""
    recent: list[tuple[float, float]] = field(default_factory=list)
    """Skill and training loss of the last `RECENT` good ones, oldest first."""
    looks: Looks = field(default_factory=Looks)

    def take_good(self, step: int, skill: float, train_loss: float) -> None:
        """Remember a good evaluation."""
        self.bad_since, self.good_step = None, step
        if not math.isfinite(skill):
            return
        self.recent = [*self.recent, (skill, train_loss)][-RECENT:]
        if skill > self.best_skill:
            self.best_skill, self.best_train_loss = skill, train_loss

    def state_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Evaluations:
        """What `state_dict` gave."""
        best = float(row["best_train_loss"])
        recent = [(float(skill), one_nan(float(loss))) for skill, loss in row.get("recent", ())]
        kept = row.get("looks", {"input_moments": (), "losses": ()})
        looks = Looks(tuple(kept["input_moments"]), [StatisticsLoss(**loss) for loss in kept["losses"]])
        return cls(**{**row, "best_train_loss": one_nan(best), "recent": recent, "looks": looks})


def eval_gap(memory: Memory, past: Evaluations, evaluation: EvaluationSignals) -> Finding | None:
    """Take an evaluation; a finding where the gap is confirmed."""
    train_loss = evaluation.train_loss if math.isfinite(evaluation.train_loss) else memory.train_loss()
    past.looks.take(statistics_loss(memory, evaluation))
    complaint = judge(memory, past, evaluation, train_loss)
    if complaint is None:
        past.take_good(evaluation.step, skill_of(evaluation.val_top1, memory.chance), train_loss)
        past.looks.input_moments = evaluation.input_moments
        return None
    again = past.bad_since is not None
    onset = past.bad_since if past.bad_since is not None else evaluation.step
    past.bad_since = onset
    if not (again or evaluation.final or complaint.confirmed):
        return None
    detail = f"{complaint.why}; good at step {past.good_step}"
    return Finding("eval_gap", onset, complaint.score, detail, of_input=complaint.of_input)


def judge(memory: Memory, past: Evaluations, evaluation: EvaluationSignals, train_loss: float) -> Complaint | None:
    """The first complaint of one evaluation; scores are good while running statistics and averages still settle."""
    early = evaluation.step < 2 * memory.config.history
    settling = evaluation.step < memory.config.history or (early and not math.isfinite(past.best_train_loss))
    complaints = [changed_input(past.looks, evaluation.input_moments)]
    if not settling:
        complaints.append(not_finite(evaluation))
    if not early:
        complaints.append(far_behind(memory, evaluation, train_loss))
    if not settling:
        complaints.append(fallen(past, evaluation, train_loss, memory.chance))
        complaints.append(stale_statistics(past.looks))
    return next((found for found in complaints if found and found.score >= memory.config.spike_score), None)


def not_finite(evaluation: EvaluationSignals) -> Complaint | None:
    """The loss is not, nor unknown."""
    if math.isinf(evaluation.val_loss) or (math.isnan(evaluation.val_loss) and not math.isnan(evaluation.val_top1)):
        return Complaint(NON_FINITE_SCORE, f"val loss {evaluation.val_loss:g}")
    return None


def far_behind(memory: Memory, evaluation: EvaluationSignals, train_loss: float) -> Complaint | None:
    """Nearly all of the skill is missing that training shows."""
    train_top1 = evaluation.train_top1 if math.isfinite(evaluation.train_top1) else memory.top1()
    skill = skill_of(evaluation.val_top1, memory.chance)
    shown = [skill_of(train_top1, memory.chance), sure_skill(evaluation.val_loss, memory.chance)]
    if math.isnan(train_top1):
        shown.append(sure_skill(train_loss, memory.chance))
    expected = max((s for s in shown if math.isfinite(s)), default=0.0)
    if expected < LEARNED or not skill < LOST * expected:
        return None
    why = f"val top-1 {evaluation.val_top1:.3g} and loss {evaluation.val_loss:.3g}, where training has "
    return Complaint((expected - skill) / GAP_NOISE, f"{why}{train_top1:.3g} and {train_loss:.3g}")


def fallen(past: Evaluations, evaluation: EvaluationSignals, train_loss: float, chance: float) -> Complaint | None:
    """Skill that val/ had while training was no better than now is lost."""
    skill = skill_of(evaluation.val_top1, chance)
    known = [(past.best_skill, past.best_train_loss, FELL), *((*row, FELL_AT_ONCE) for row in past.recent)]
    falls = [
        best
        for best, then, share in known
        if best >= LEARNED
        and best - skill > max((1.0 - share) * best, LEAST_FALL)
        and not train_loss > then + AT_CHANCE * (chance or then)
    ]
    if not falls:
        return None
    earlier = max(falls)
    why = f"val top-1 {evaluation.val_top1:.3g}, whose skill was {earlier:.3g}; training is as good as then"
    return Complaint((earlier - skill) / (FALL_SHARE * earlier), why)


def statistics_loss(memory: Memory, evaluation: EvaluationSignals) -> StatisticsLoss:
    """In units of skill; nothing while running statistics still follow the first steps, or where it isn't known."""
    if evaluation.step < 2 * memory.config.history or math.isnan(evaluation.lost):
        return StatisticsLoss()
    unit = 1.0 - (math.exp(-memory.chance) if memory.chance else 0.0)
    skill = skill_of(evaluation.batch_top1, memory.chance)
    return StatisticsLoss(skill, evaluation.lost / unit, evaluation.lost_noise / unit)


def skill_of(top1: float, chance: float) -> float:
    """Top-1 above guessing: 0 at 1/C, 1 at 1; of unknown classes the top-1 itself."""
    guess = math.exp(-chance) if chance else 0.0
    return (top1 - guess) / (1.0 - guess)


def sure_skill(loss: float, chance: float) -> float:
    """The least skill that comes with a mean cross-entropy; nan where it can't be said."""
    if not chance or not math.isfinite(loss):
        return math.nan
    return SURE_SHARE * max(0.0, 1.0 - loss / chance)
