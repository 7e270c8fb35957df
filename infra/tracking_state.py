"""What is in the store of one trial, so that nothing is written there twice."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainables.speed import SPEEDS

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


@dataclass
class RunState:
    """How far a trial's run is."""

    run_id: str
    last_step: int = -1
    last_report: int = -1
    best: float = -math.inf
    symptom: str = ""
    quarantined: int = 0
    events: int = 0


def state_of(client: MlflowClient, run: Run) -> RunState:
    """State of a run that another process, or this one before a restore, has begun."""
    last, report = (last_step(client, run.info.run_id, key) for key in ("loss", SPEEDS[0]))
    return RunState(
        run_id=run.info.run_id,
        last_step=last,
        # A report stands at the number of steps done, one above the last step's.
        last_report=max(last, report),
        best=run.data.metrics.get("best_val_top1", -math.inf),
        symptom=run.data.tags.get("diagnosis.symptom", ""),
        quarantined=round(run.data.metrics.get("quarantined", 0)),
        events=int(run.data.tags.get("diagnosis.events", 0)),
    )


def last_step(client: MlflowClient, run_id: str, key: str) -> int:
    """Of a metric in the store; -1 where it has none."""
    return max((point.step for point in client.get_metric_history(run_id, key)), default=-1)
