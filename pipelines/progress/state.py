"""What is known of a sweep's trials while they run: for the live table and for the lines."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pipelines.progress.pace import Clock, TimeLeft

if TYPE_CHECKING:
    from infra.ray_events import TrialOutcome, TrialStatus

TrialState = Literal["starting", "training", "diagnosing"]
"""Of a trial that is not over."""
ENDED_ROW = ("finished", "stopped", "interrupted")
"""Phases of a trial's last row."""


class LossCurve:
    """A trial's losses in bounded memory: at most 2 * POINTS values, each the tallest of a stretch of steps.

    >>> curve = LossCurve()
    >>> curve.add([3.0, 2.0])
    >>> curve.values
    [3.0, 2.0]
    """

    POINTS = 256

    def __init__(self) -> None:
        self.values: list[float] = []
        self._stretch = 1
        self._begun: list[float] = []

    def add(self, losses: Iterable[float]) -> None:
        """Take the losses of the next steps."""
        for loss in losses:
            self._begun.append(loss)
            if len(self._begun) < self._stretch:
                continue
            self.values.append(_tallest(self._begun))
            self._begun.clear()
            if len(self.values) == 2 * self.POINTS:
                self.values = [_tallest(self.values[place : place + 2]) for place in range(0, 2 * self.POINTS, 2)]
                self._stretch *= 2


def _tallest(losses: list[float]) -> float:
    """NaN where one of them is no number, for that is what must be seen."""
    return max(losses) if all(map(math.isfinite, losses)) else math.nan


@dataclass
class ShownTrial:
    """One trial, as a person wants to see it."""

    number: int
    """From 1, in the order in which trials are heard of."""
    name: str
    total: int
    """Its steps."""
    state: TrialState | TrialStatus = "starting"
    step: int = 0
    images_per_s: float = 0.0
    symptom: str = ""
    cause: str = ""
    replay: str = ""
    """What a diagnosis replays at the moment."""
    losses: LossCurve = field(default_factory=LossCurve)
    began: float | None = None
    """When its process last began; None: not in this command."""
    changed: float = -math.inf
    """When its state last changed."""
    spent_s: float = 0.0
    """Seconds that it ran, up to its end or to when it last began."""

    @property
    def is_over(self) -> bool:
        """Whether it runs no more."""
        return self.state not in ("starting", "training", "diagnosing")

    @property
    def is_ill(self) -> bool:
        """Whether something is wrong with it."""
        return bool(self.symptom) or self.state == "failed"

    @property
    def share(self) -> float:
        """How much of it is done; one that ended early counts as whole."""
        return 1.0 if self.is_over else min(self.step / self.total, 1.0)


class SweepState:
    """Every trial of a sweep, from what a `Listener` of trials hears.

    Args:
        total_trials: how many will run.
        steps: point -> how many steps a trial there has.
        name: point -> what it is called.
        devices: of one trial, how many of what: `(2, "core")`.
        clock: seconds, monotonic.

    """

    def __init__(
        self,
        total_trials: int,
        *,
        steps: Callable[[Mapping[str, Any]], int],
        name: Callable[[Mapping[str, Any]], str],
        devices: tuple[float, str] = (1, "core"),
        clock: Clock = time.monotonic,
    ) -> None:
        self.total_trials = total_trials
        self.trials: dict[str, ShownTrial] = {}
        self.stopping = False
        """Whether the sweep was told to stop."""
        self._steps, self._name, self._devices, self._clock = steps, name, devices, clock
        self._left = TimeLeft(total_trials, clock)

    def known(self, outcome: TrialOutcome) -> ShownTrial:
        """A trial that was over before this command."""
        trial = self._of(outcome)
        trial.state = outcome.status
        self._read(trial, outcome.row)
        trial.spent_s = float(outcome.row.get("time_total_s", 0.0))
        return trial

    def started(self, outcome: TrialOutcome) -> ShownTrial:
        """Its process begins; of one that goes on the last row is known."""
        trial = self._of(outcome)
        trial.state, trial.began, trial.changed = "starting", self._clock(), self._clock()
        trial.step = int(outcome.row.get("step", 0))
        trial.spent_s = max(trial.spent_s, float(outcome.row.get("time_total_s", 0.0)))
        return trial

    def reported(self, outcome: TrialOutcome, losses: Iterable[float]) -> ShownTrial:
        """A row came in; `losses` of its steps."""
        trial, phase = self._of(outcome), outcome.row.get("phase")
        trial.losses.add(losses)
        self._read(trial, outcome.row)
        if phase not in ENDED_ROW:
            state: TrialState = "diagnosing" if phase == "diagnosing" else "training"
            trial.changed = self._clock() if state != trial.state else trial.changed
            trial.state = state
        self._left.tell(self.done)
        return trial

    def ended(self, outcome: TrialOutcome) -> ShownTrial:
        """It is over."""
        trial, now = self._of(outcome), self._clock()
        self._read(trial, outcome.row)
        trial.spent_s, trial.began = self._seconds(trial, now), None
        trial.state, trial.changed, trial.replay = outcome.status, now, ""
        self._left.tell(self.done)
        return trial

    @property
    def done(self) -> float:
        """Trials that are done, those that run by the share of their steps."""
        return sum(trial.share for trial in self.trials.values())

    @property
    def over(self) -> int:
        """Trials that are over."""
        return sum(trial.is_over for trial in self.trials.values())

    @property
    def images_per_s(self) -> float:
        """Of all trials that train at the moment."""
        return sum(trial.images_per_s for trial in self.trials.values() if trial.state == "training")

    @property
    def seconds_left(self) -> float | None:
        """An estimate from the share of all steps that is done; None where there is none."""
        return self._left.seconds()

    @property
    def compute(self) -> str:
        """What the trials have had of the machine, such as `1.5 core-hours`; resuming, with what they had before."""
        count, unit = self._devices
        now = self._clock()
        hours = count * sum(self._seconds(trial, now) for trial in self.trials.values()) / 3600
        return f"{hours:.2f} {unit}-hours" if hours < 10 else f"{hours:.0f} {unit}-hours"

    def _seconds(self, trial: ShownTrial, now: float) -> float:
        return trial.spent_s + (now - trial.began if trial.began is not None else 0.0)

    def _of(self, outcome: TrialOutcome) -> ShownTrial:
        if outcome.trial_id not in self.trials:
            name, total = self._name(outcome.point), self._steps(outcome.point)
            self.trials[outcome.trial_id] = ShownTrial(len(self.trials) + 1, name, total)
        return self.trials[outcome.trial_id]

    def _read(self, trial: ShownTrial, row: Mapping[str, Any]) -> None:
        trial.step = int(row.get("step", trial.step))
        trial.images_per_s = float(row.get("images_per_s", 0.0)) or trial.images_per_s
        trial.symptom = str(row.get("symptom") or "")
        trial.replay = str(row.get("replay") or "")
        trial.cause = str((row.get("diagnosis") or {}).get("cause", ""))
