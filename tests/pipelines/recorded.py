"""Trials that nobody trained, told to a tracker as Tune's callbacks tell of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray.tune.experiment import Trial

from infra.tracking_callback import TrialTracker


def falling(step: int) -> float:
    """A healthy loss."""
    return 1.0 / (1 + step)


def record(
    tracker: TrialTracker,
    trial_id: str,
    point: dict[str, Any],
    loss: Callable[[int], float] = falling,
    **changes: Any,
) -> None:
    """One trial of ten steps."""
    trial = Trial("run_trial", stub=True, trial_id=trial_id, config=point)
    history = [{"step": step, "loss": loss(step)} for step in range(10)]
    row = {"step": 9, "phase": "finished", "best_val_top1": 0.625, "symptom": "", "history": history, "diagnosis": None}
    tracker.on_trial_start(0, [trial], trial)
    tracker.on_trial_result(0, [trial], trial, {**row, **changes})
    tracker.on_trial_complete(0, [trial], trial)
