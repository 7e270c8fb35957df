"""What a trial tells while it runs: JSON-safe rows, each step in one of them and once.

Steps that a rollback runs again are not told again: a tracking store has one value a step, so the curve shows the event
as it was, up to where it was confirmed, and from there on the run that was cured. `interventions` and the rows with an
`event` say where that is, and the diagnosis holds the curve of the cured stretch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from trainables.detectors import Symptom
from trainables.diagnosis.verdict import Diagnosis
from trainables.evaluation import Evaluation
from trainables.signals import MEASURED
from trainables.speed import Speedometer
from trainables.step_signals import StepSignals

Report = Callable[[dict[str, Any]], None]

ON_SOME_STEPS = ("loss_scale", *MEASURED)
"""Signals that a row has only where there is a value."""


class Reporter:
    """Collects the signals of each step and sends them on in rows.

    Args:
        report: takes a row.
        speed: measures the images a second.
        epoch_of: step -> its epoch.

    """

    def __init__(self, report: Report, speed: Speedometer, epoch_of: Callable[[int], int]) -> None:
        self.report = report
        self.speed = speed
        self.epoch_of = epoch_of
        self.history: list[dict[str, float]] = []
        self.last: StepSignals | None = None
        self.top1 = 0.0
        self.best_top1 = 0.0
        self.quarantined: list[str] = []
        self.interventions: list[str] = []
        """What the run goes on with since its rollbacks, in words."""
        self.told = 0
        """Steps that were told, or lie before one that was."""

    def resume(self, last: StepSignals, top1: float, best_top1: float, told: int) -> None:
        """Go on after `last`, where `told` steps were told before."""
        self.last, self.top1, self.best_top1 = last, top1, best_top1
        self.told = told

    def add(self, signals: StepSignals) -> None:
        """Take the signals of one step."""
        self.last = signals
        if signals.step < self.told:
            return
        row = {
            "step": signals.step,
            "loss": signals.loss,
            "loss_noise": signals.loss_noise,
            "lr": signals.learning_rate,
            "grad_norm": signals.grad_norm,
            "logit_rms": signals.logit_rms,
            "train_top1": signals.top1,
        }
        row |= {name: value for name in ON_SOME_STEPS if not math.isnan(value := getattr(signals, name))}
        row |= {f"input_mean_{c}": value for c, value in zip("rgb", signals.input_mean, strict=True)}
        row |= {f"input_std_{c}": value for c, value in zip("rgb", signals.input_std, strict=True)}
        self.history.append(row)

    def add_evaluation(self, evaluation: Evaluation, bn_top1_lost: float = math.nan) -> None:
        """Take an evaluation after the last step, and what its running statistics lose where there are any."""
        self.top1, self.best_top1 = evaluation.top1, max(self.best_top1, evaluation.top1)
        if self.history:
            self.history[-1] |= {"val_top1": evaluation.top1, "val_top5": evaluation.top5, "val_loss": evaluation.loss}
            if math.isfinite(bn_top1_lost):
                self.history[-1]["bn_top1_lost"] = bn_top1_lost

    def send(
        self,
        phase: str,
        *,
        symptom: Symptom | None = None,
        diagnosis: Diagnosis | None = None,
        event: Mapping[str, Any] | None = None,
        replay: str = "",
    ) -> None:
        """Send one row and start the next; `event` is what the run goes on after. The row's step never falls."""
        assert self.last is not None
        done = max(self.told, self.last.step + 1)
        self.report(
            {
                "step": done,
                "epoch": self.epoch_of(self.last.step),
                "phase": phase,
                "replay": replay,
                "loss": self.last.loss,
                "lr": self.last.learning_rate,
                "val_top1": self.top1,
                "best_val_top1": self.best_top1,
                **self.speed.read(done - self.told),
                "symptom": symptom.kind if symptom else "",
                "history": self.history,
                "quarantined": self.quarantined,
                "interventions": self.interventions,
                "event": event,
                "diagnosis": diagnosis.to_dict() if diagnosis else None,
            }
        )
        self.history = []
        self.told = done
