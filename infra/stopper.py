"""LossSpikeStopper: a `ray.tune.Stopper` that ends a trial whose loss has fallen ill.

Any Tune trainable that reports a loss can use it:

    tune.Tuner(trainable, run_config=tune.RunConfig(stop=LossSpikeStopper(metric="train_loss")))

A row with a `phase` comes from a trial that detects for itself (`trainables.trial`): its loss is not judged again, and
it is left alone while it diagnoses, until the diagnosis comes or the time-out is over.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ray.tune import Stopper

from trainables.config import DetectorConfig
from trainables.detectors import Detector
from trainables.errors import ConfigError, complaint
from trainables.step_signals import StepSignals


class DiagnosisWatch:
    """Which trials are diagnosing, and whether they have taken too long over it."""

    def __init__(self, timeout_s: float) -> None:
        if not timeout_s > 0:
            raise ConfigError(complaint("diagnosis_timeout_s", timeout_s, "seconds above 0", "give seconds"))
        self._timeout_s = timeout_s
        self._since: dict[str, float] = {}

    def is_diagnosing(self, trial_id: str, row: Mapping[str, Any]) -> bool:
        """Whether the row belongs to a diagnosis, in time or not."""
        if row.get("phase") != "diagnosing":
            self._since.pop(trial_id, None)
            return False
        self._since.setdefault(trial_id, _seconds(row))
        return True

    def is_late(self, trial_id: str, row: Mapping[str, Any]) -> bool:
        """Whether the diagnosis that the row belongs to began more than the time-out ago."""
        return self.is_diagnosing(trial_id, row) and _seconds(row) - self._since[trial_id] > self._timeout_s


class LossSpikeStopper(Stopper):
    """Stop a trial on a confirmed symptom of its loss: non-finite, spike, divergence, instability, collapse.

    `metric`: the reported loss, one value a row. `time_attr`: what counts the rows. `diagnosis_timeout_s`: seconds that
    a trial may spend in phase `diagnosing`. `num_classes`: where given, a collapse to chance (loss ln C) is seen too.
    Further options are DetectorConfig's. Raises ConfigError for an option that is none.
    """

    def __init__(
        self,
        metric: str = "loss",
        time_attr: str = "training_iteration",
        diagnosis_timeout_s: float = 900.0,
        num_classes: int | None = None,
        **detector: Any,
    ) -> None:
        self._metric = metric
        self._time_attr = time_attr
        self._num_classes = num_classes
        self._config = DetectorConfig.parse(detector)
        self._watch = DiagnosisWatch(diagnosis_timeout_s)
        self._detectors: dict[str, Detector] = {}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether the trial is to end."""
        if "phase" in result:
            return self._watch.is_late(trial_id, result)
        if self._metric not in result or not self._config.enabled:
            return False
        detector = self._detectors.setdefault(trial_id, Detector(self._config, self._num_classes))
        signals = StepSignals(step=int(result[self._time_attr]), loss=float(result[self._metric]))
        return detector.update(signals) is not None

    def stop_all(self) -> bool:
        """Never: an ill trial says nothing of the others."""
        return False


def _seconds(row: Mapping[str, Any]) -> float:
    """The trial's own clock where the row has it: reports may wait in queues."""
    return float(row.get("time_total_s", time.monotonic()))
