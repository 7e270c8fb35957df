"""What happened to each trial, out of Tune's callbacks: for the progress lines, and for the sweep's table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from ray.tune import Callback

from infra.notice import InterruptedTrialError
from trainables.errors import Epoch14Error

TrialStatus = Literal["finished", "stopped", "pruned", "failed", "interrupted"]
"""finished: all steps done; stopped: by a symptom; pruned: by the scheduler; failed: raised; interrupted: not over."""


@dataclass
class TrialOutcome:
    """One trial as far as it came."""

    trial_id: str
    point: dict[str, Any]
    """Axis -> value."""
    status: TrialStatus = "interrupted"
    row: dict[str, Any] = field(default_factory=dict)
    """The last reported row, without its history."""
    error: str = ""
    """One line; empty unless failed."""
    diagnoses: list[dict[str, Any]] = field(default_factory=list)
    """Of the events that the run went on after, as JSON has them; the one that stopped it is in `row`."""


class Listener(Protocol):
    """Who wants to hear of trials as they run."""

    def trial_known(self, outcome: TrialOutcome) -> None:
        """The trial was over before the sweep was restored."""

    def trial_started(self, outcome: TrialOutcome) -> None:
        """Its process begins; where it goes on, its row is the last one of before."""

    def trial_reported(self, outcome: TrialOutcome, losses: Iterable[float]) -> None:
        """A row came in; `losses` of the steps that it tells of."""

    def trial_ended(self, outcome: TrialOutcome) -> None:
        """The trial is over."""


class Outcomes(Callback):
    """A Tune callback that keeps each trial's last row and how it ended."""

    def __init__(self, listener: Listener | None = None) -> None:
        self.trials: dict[str, TrialOutcome] = {}
        self._listener = listener
        self._knows_restored = False

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Before anything else runs, tell of the trials that were over before a restore."""
        del iteration, info
        if self._listener and not self._knows_restored:
            for trial in trials:
                if trial.is_finished():
                    self._listener.trial_known(_as_tune_has_it(trial))
        self._knows_restored = True

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Know the trial: without a row or an end it is interrupted, though Tune ends it as if it were over."""
        del iteration, trials, info
        outcome = self._of(trial)
        if self._listener:
            self._listener.trial_started(replace(outcome, row=outcome.row or _last_row(trial)))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Keep the row; Tune calls this before the scheduler judges it."""
        del iteration, trials, info
        outcome = self._of(trial)
        outcome.row = {key: value for key, value in result.items() if key not in ("history", "config")}
        event = result.get("event")
        if event and event["diagnosis"]:
            outcome.diagnoses.append(event["diagnosis"])
        if self._listener:
            self._listener.trial_reported(outcome, [entry["loss"] for entry in result.get("history") or ()])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """By its own end, or stopped by the stopper or the scheduler."""
        del iteration, trials, info
        outcome = self._of(trial)
        outcome.status = _status_after(outcome.row.get("phase"))
        self._end(outcome)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The trial function raised, or its process died; one that was told to stop is interrupted."""
        del iteration, trials, info
        outcome = self._of(trial)
        if not is_interrupted(trial):
            outcome.status, outcome.error = "failed", error_line(trial)
        self._end(outcome)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """Trials that ended before a restore, or never began, are known from Tune's own list."""
        del info
        known, self.trials = self.trials, {}
        for trial in trials:
            self.trials[trial.trial_id] = known.get(trial.trial_id) or _as_tune_has_it(trial)

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks, and a display has a thread.
        return {**self.__dict__, "_listener": None}

    def _of(self, trial: Any) -> TrialOutcome:
        return self.trials.setdefault(trial.trial_id, TrialOutcome(trial.trial_id, dict(trial.config)))

    def _end(self, outcome: TrialOutcome) -> None:
        if self._listener:
            self._listener.trial_ended(outcome)


def _as_tune_has_it(trial: Any) -> TrialOutcome:
    """A trial of which no callback has told."""
    outcome = TrialOutcome(trial.trial_id, dict(trial.config), row=_last_row(trial))
    # One whose process was still starting is terminated too, without a row.
    if trial.status == "TERMINATED" and outcome.row:
        outcome.status = _status_after(outcome.row.get("phase"))
    return outcome


def _last_row(trial: Any) -> dict[str, Any]:
    return {key: value for key, value in (trial.last_result or {}).items() if key not in ("history", "config")}


def _status_after(phase: str | None) -> TrialStatus:
    """How a trial that is over has ended, from the phase of its last row."""
    if phase == "finished":
        return "finished"
    return "stopped" if phase in ("stopped", "diagnosing") else "pruned"


def is_interrupted(trial: Any) -> bool:
    """Whether a Tune trial raised because it was told to stop, with a checkpoint to go on from."""
    return error_line(trial).startswith(InterruptedTrialError.__name__)


def error_line(trial: Any) -> str:
    """Type and first line of what a Tune trial raised."""
    error = raised_by(trial)
    return describe_error(error) if error is not None else "the trial's process ended without a word"


def raised_by(trial: Any) -> BaseException | None:
    """What a Tune trial raised, as Ray passed it on; None: nothing is known."""
    from ray import cloudpickle

    # A trial that failed before it got its folder left nothing to read.
    path = trial.pickled_error_file if trial.storage is not None else None
    if not path or not Path(path).is_file():
        return None
    error: BaseException = cloudpickle.loads(Path(path).read_bytes())
    return error


def describe_error(error: BaseException) -> str:
    """One line for an exception that crossed Ray: the original's, not its wrappers'."""
    failures: Mapping[int, BaseException] = getattr(error, "worker_failures", None) or {}
    inner = next(iter(failures.values()), None) or getattr(error, "_base_exc", None) or getattr(error, "cause", None)
    if isinstance(inner, BaseException) and inner is not error:
        return describe_error(inner)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # Tune's own errors are a traceback as text.
    message = lines[-1 if lines[0].startswith("Traceback") else 0] if lines else ""
    if isinstance(error, Epoch14Error):
        return message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
