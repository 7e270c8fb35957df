"""What a sweep cost, what ending trials early saved, and what the diagnoses took of that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from infra.tracking_sweeps import RecordedSweep, SweptTrial
from pipelines.report_html.factors import setting
from pipelines.report_html.trials import diagnoses

EARLY = ("stopped", "pruned")


@dataclass(frozen=True)
class Compute:
    """Steps and seconds of one trial or of several."""

    steps: int = 0
    """Steps trained."""
    images: int = 0
    """Images trained on."""
    seconds: float = 0.0
    """From the start of a trial to its end, diagnoses included."""
    replayed_steps: int = 0
    replay_seconds: float = 0.0
    saved_steps: int = 0
    """Steps that were not taken, since a symptom or the scheduler ended the trial."""
    saved_seconds: float = 0.0
    """What those steps would have taken at the trial's own speed."""

    def __add__(self, other: Compute) -> Compute:
        values = {name: getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__}
        return Compute(**values)

    @property
    def saved_share(self) -> float:
        """Saved steps among all that were planned."""
        planned = self.steps + self.saved_steps
        return self.saved_steps / planned if planned else 0.0

    @property
    def net_seconds(self) -> float:
        """Saved, less what the diagnoses took."""
        return self.saved_seconds - self.replay_seconds


def compute_of(trial: SweptTrial) -> Compute:
    """The account of one trial."""
    batch = int(setting(trial.config, "global_batch_size") or 0)
    planned = int(setting(trial.config, "max_steps") or 0)
    found = diagnoses(trial)
    replay_seconds = sum(float(diagnosis.get("seconds") or 0.0) for diagnosis in found)
    seconds = trial.seconds or 0.0
    saved = max(0, planned - trial.steps) if trial.status in EARLY else 0
    a_step = max(0.0, seconds - replay_seconds) / trial.steps if trial.steps else 0.0
    if trial.images_per_s and batch:
        # The clock of a run counts its start-up too.
        a_step = batch / trial.images_per_s
    return Compute(
        steps=trial.steps,
        images=trial.steps * batch,
        seconds=seconds,
        replayed_steps=sum(int(diagnosis.get("replayed_steps") or 0) for diagnosis in found),
        replay_seconds=replay_seconds,
        saved_steps=saved,
        saved_seconds=saved * a_step,
    )


def total(trials: Sequence[SweptTrial]) -> Compute:
    """The account of several trials."""
    return sum(map(compute_of, trials), Compute())


def workers(sweep: RecordedSweep) -> int:
    """Workers of each trial: its seconds are to be multiplied by them."""
    return int(setting(sweep.config, "resources.workers") or 1)
