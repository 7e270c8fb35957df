"""One diagnosis under way: what its replays share."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from trainables.config import TrialConfig
from trainables.detectors import Symptom
from trainables.diagnosis.replay import Replay, Replayer, Severity
from trainables.diagnosis.verdict import Thresholds
from trainables.ingredients import Stream, Swap
from trainables.recipe import Recipe
from trainables.state import Snapshot, TrainState

log = logging.getLogger(__name__)

Progress = Callable[[str], None]


@dataclass
class Case:
    """Everything that the replays of one diagnosis share."""

    config: TrialConfig
    recipe: Recipe
    state: TrainState
    stream: Stream
    symptom: Symptom
    replayer: Replayer
    severity: Severity
    thresholds: Thresholds
    progress: Progress
    snapshot: Snapshot
    stop: int
    curves: dict[str, list[list[float]]] = field(default_factory=dict)

    def score(self, label: str, swaps: list[Swap], *, placebo: int | None = None, keep: bool = False) -> float:
        """Severity of one replay from the case's snapshot."""
        severity = self.severity(self.replay(label, swaps, placebo=placebo, keep=keep))
        log.info("replay %s: severity %.2f", label, severity)
        return severity

    def replay(self, label: str, swaps: list[Swap], *, placebo: int | None = None, keep: bool = False) -> Replay:
        """One replay from the case's snapshot; its curve is kept for the report where asked.

        An input does not depend on the weights: a shift of it needs no training but in the exact control.
        """
        self.progress(label)
        if self.symptom.kind == "input_shift" and (swaps or placebo is not None):
            replay = self.replayer.observe(self.snapshot, self.stop, swaps, placebo=placebo)
        else:
            replay = self.replayer.run(self.snapshot, self.stop, swaps, placebo=placebo, settled=self.severity.settled)
        if keep and (curve := replay.curve()):
            self.curves[label] = curve
        return replay
