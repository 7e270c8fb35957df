"""What a trial tells while it runs: JSON-safe rows, each step in one of them and once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from trainables.detectors import Symptom
from trainables.diagnosis.verdict import Diagnosis
from trainables.evaluation import Evaluation
from trainables.signals import StepSignals
from trainables.speed import Speedometer

Report = Callable[[dict[str, Any]], None]


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
        self.sent_step = 0

    def resume(self, last: StepSignals, top1: float, best_top1: float) -> None:
        """Go on after `last`, which was sent before."""
        self.last, self.top1, self.best_top1 = last, top1, best_top1
        self.sent_step = last.step + 1

    def add(self, signals: StepSignals) -> None:
        """Take the signals of one step."""
        self.last = signals
        row = {
            "step": signals.step,
            "loss": signals.loss,
            "loss_noise": signals.loss_noise,
            "lr": signals.learning_rate,
            "grad_norm": signals.grad_norm,
            "train_top1": signals.top1,
        }
        if not math.isnan(signals.update_ratio):
            row["update_ratio"] = signals.update_ratio
        row |= {f"input_mean_{c}": value for c, value in zip("rgb", signals.input_mean, strict=True)}
        row |= {f"input_std_{c}": value for c, value in zip("rgb", signals.input_std, strict=True)}
        self.history.append(row)

    def add_evaluation(self, evaluation: Evaluation) -> None:
        """Take an evaluation after the last step."""
        self.top1, self.best_top1 = evaluation.top1, max(self.best_top1, evaluation.top1)
        self.history[-1] |= {"val_top1": evaluation.top1, "val_top5": evaluation.top5, "val_loss": evaluation.loss}

    def send(
        self, phase: str, *, symptom: Symptom | None = None, diagnosis: Diagnosis | None = None, replay: str = ""
    ) -> None:
        """Send one row and start the next."""
        assert self.last is not None
        done = self.last.step + 1
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
                **self.speed.read(done - self.sent_step),
                "symptom": symptom.kind if symptom else "",
                "history": self.history,
                "quarantined": self.quarantined,
                "diagnosis": diagnosis.to_dict() if diagnosis else None,
            }
        )
        self.history = []
        self.sent_step = done
