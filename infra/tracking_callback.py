"""The Tune callback that owns every MLflow run of a sweep, from the driver."""

from __future__ import annotations

import atexit
import dataclasses
import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.tune import Callback

from infra.ray_events import error_line, is_interrupted
from infra.space import point_label
from infra.system_metrics import KEY as SYSTEM
from infra.tracking import KEY, check_tracking, import_mlflow, without_password
from infra.tracking_kept import keep
from infra.tracking_names import full_config, point_of, run_name, run_params
from infra.tracking_records import Report, Siblings, SweepEnd, SweepStart, TrialEnd, TrialStart
from infra.tracking_runs import RunRecorder
from infra.tracking_writer import TrackingWriter
from trainables.errors import TrackingError, complaint
from trainables.speed import SPEEDS

if TYPE_CHECKING:
    from ray.tune.experiment import Trial
    from ray.tune.stopper import Stopper

logger = logging.getLogger("epoch14.tracking")
ROW_KEYS = (
    *("step", "epoch", "phase", "val_top1", "best_val_top1", *SPEEDS),
    *("symptom", "history", "quarantined", "diagnosis", "interventions", "event", SYSTEM),
)


class TrialTracker(Callback):
    """One parent run for the sweep, one child run for each trial, written by a thread of its own.

    `sweep_params` is the sweep's config as a mapping: `trial` and `space` give each trial's full config, `storage` the
    folder that keeps what the store did not take. With a `parent_run_id`, or when Tune restores the callback's state,
    the sweep goes on in the runs that are there; else its new run has `tags` too. Pickling, which Tune does, leaves the
    thread behind.

    Tune's state on disk calls no trial over of whose end the store does not know, unless the store failed then: a trial
    that is over is never run again, so nobody else would tell. What is missing all the same is made good on a restore.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        sweep_name: str,
        sweep_params: Mapping[str, Any],
        parent_run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self.tracking_uri = uri
        self._experiment = experiment
        self._sweep_name = sweep_name
        self._sweep_params: dict[str, Any] = json.loads(json.dumps(dict(sweep_params), default=str))
        self._run_id = parent_run_id
        self._tags = dict(tags or {})
        self._writer: TrackingWriter | None = None
        self._started = False
        self._reported_ms: dict[str, int] = {}
        self._phases: dict[str, str] = {}
        self._statuses: dict[str, str] = {}
        self._interrupted = self._made_good = False
        # Here and not in the thread: two threads that import at once may meet half-made modules.
        import_mlflow(uri)
        self._writer = self._new_writer()

    @property
    def parent_run_id(self) -> str:
        """The sweep's run; begins it, and waits until it is in the store. Raises TrackingError if it can't be."""
        return self._known_run_id() or self._begin()

    def _begin(self) -> str:
        writer = self._open()
        writer.flush()
        if writer.parent_run_id is None or writer.refused:
            reason = writer.refused[0].reason if writer.refused else "no answer"
            self._drop()
            shown = without_password(self.tracking_uri)
            allowed = f"a store that takes the sweep's run ({reason})"
            raise TrackingError(complaint(KEY, shown, allowed, f"correct {KEY} or tracking.experiment"))
        return writer.parent_run_id

    def cite(self, trial_id: str, text: str) -> None:
        """Tag a trial's run with what its siblings say about its event."""
        self._open().put(Siblings(trial_id, text))

    def finish(self, rows: Sequence[object]) -> str | None:
        """Write the final table, end the sweep's run, wait for the store, and end the thread.

        `rows` are mappings or dataclasses with TrialRow's fields. Returns None, or one line that says what could not be
        written and where it is kept; the line is logged as a warning too.
        """
        all_failed = set(self._statuses.values()) == {"FAILED"}
        status = "KILLED" if self._interrupted else "FAILED" if all_failed else "FINISHED"
        self._open().put(SweepEnd([_as_dict(row) for row in rows], status))
        return self._close()

    def setup(
        self,
        stop: Stopper | None = None,
        num_samples: int | None = None,
        total_num_samples: int | None = None,
        **info: Any,
    ) -> None:
        """Begin, or go on with, the sweep's run before the first trial starts; raises TrackingError."""
        del stop, num_samples, total_num_samples, info
        self._begin()

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        """Before anything else runs, tell once more of the trials that were over before a restore."""
        if self._made_good:
            return
        self._made_good = True
        for trial in trials:
            if trial.is_finished():
                self._start(trial, over=True)
                self.on_trial_result(iteration, trials, trial, trial.last_result, **info)
                self._end(trial, self._status_of(trial))

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Begin the trial's run, or find it again."""
        del iteration, trials, info
        self._start(trial)

    def _start(self, trial: Trial, *, over: bool = False) -> None:
        space = self._sweep_params.get("space") or {}
        point = point_of(trial.config, space)
        config = full_config(self._sweep_params.get("trial") or {}, point)
        name, params = run_name(config, point, space), run_params(config, point)
        self._open().put(TrialStart(trial.trial_id, name, params, point_label(point), config, over))
        self._reported_ms[trial.trial_id] = _now_ms()

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        """Queue the row; the steps in it that the store has already are left out there."""
        del info
        if trial.trial_id not in self._reported_ms:
            self.on_trial_start(iteration, trials, trial)
        if "step" not in result:
            return
        now = _now_ms()
        row = {key: result[key] for key in ROW_KEYS if key in result}
        self._open().put(Report(trial.trial_id, row, self._reported_ms[trial.trial_id], now))
        self._reported_ms[trial.trial_id] = now
        self._phases[trial.trial_id] = str(result.get("phase", ""))

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """FINISHED after its last step; KILLED where the detector, the stopper or the scheduler ended it before."""
        del iteration, trials, info
        self._end(trial, self._status_of(trial))
        self._open().catch_up()

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """FAILED, with the error in one line; KILLED where it was told to stop."""
        del iteration, trials, info
        if is_interrupted(trial):
            self._interrupted = True
            self._end(trial, "KILLED")
        else:
            self._end(trial, "FAILED", error_line(trial))
        self._open().catch_up()

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        """Close what an interrupted sweep leaves open, and wait for the store."""
        del info
        for trial in trials:
            if trial.trial_id in self._reported_ms and trial.trial_id not in self._statuses:
                self._interrupted = True
                self._end(trial, "KILLED")
        self._open().flush()

    def get_state(self) -> dict[str, Any] | None:
        """What Tune keeps for a restore: the sweep's run."""
        run_id = self._known_run_id()
        return {"parent_run_id": run_id} if run_id else None

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on in the run of before, unless one was given or begun."""
        if self._known_run_id() is None:
            self._run_id = state.get("parent_run_id")

    def __getstate__(self) -> dict[str, Any]:
        fresh = {"_writer": None, "_started": False, "_made_good": False}
        return {**self.__dict__, **fresh, "_run_id": self._known_run_id()}

    def _known_run_id(self) -> str | None:
        return (self._writer.parent_run_id if self._writer else None) or self._run_id

    def _new_writer(self) -> TrackingWriter:
        uri, experiment, name = self.tracking_uri, self._experiment, self._sweep_name
        atexit.register(self._close_at_exit)
        return TrackingWriter(
            open_recorder=lambda: RunRecorder(uri, experiment, name),
            store_works=lambda: _works(uri),
        )

    def _open(self) -> TrackingWriter:
        """The writer, told of the sweep."""
        if self._writer is None:
            self._writer = self._new_writer()
        if not self._started:
            self._writer.put(SweepStart(self._sweep_params, self._run_id, self._tags))
            self._started = True
        return self._writer

    def _end(self, trial: Trial, status: str, error: str = "") -> None:
        self._statuses[trial.trial_id] = status
        self._open().put(TrialEnd(trial.trial_id, status, error))

    def _status_of(self, trial: Trial) -> str:
        return "FINISHED" if self._phases.get(trial.trial_id) == "finished" else "KILLED"

    def _close(self) -> str | None:
        """End the thread; keep what the store did not take."""
        if self._writer is None:
            return None
        unwritten = self._writer.close()
        self._drop()
        if all(isinstance(item.record, SweepStart) for item in unwritten):
            return None
        count = f"{len(unwritten)} record{'s' if len(unwritten) > 1 else ''}"
        what = f"{count} could not be written to {without_password(self.tracking_uri)}"
        sweep = {"uri": self.tracking_uri, "experiment": self._experiment, "name": self._sweep_name}
        try:
            folder = Path(self._sweep_params.get("storage") or ".")
            file = keep(unwritten, folder, {**sweep, "parent_run_id": self._run_id})
            kept = f"they are kept in {file}; remedy: python -m infra.tracking_kept {file}"
        except OSError as error:
            kept = f"nor can they be kept ({error}): they are lost"
        note = f"{what} ({unwritten[-1].reason}); {kept}"
        logger.warning("tracking: %s", note)
        return note

    def _close_at_exit(self) -> None:
        """The process ends without `finish`: the sweep's run is not left as running."""
        if self._writer is not None and self._started:
            self._writer.put(SweepEnd([], "FAILED"))
        self._close()

    def _drop(self) -> None:
        """Forget the writer, but not the sweep's run."""
        self._run_id = self._known_run_id()
        if self._writer is not None:
            self._writer.abandon()
        self._writer, self._started = None, False
        atexit.unregister(self._close_at_exit)


def _works(uri: str) -> bool:
    try:
        check_tracking(uri)
    except TrackingError:
        return False
    return True


def _as_dict(row: object) -> dict[str, Any]:
    if dataclasses.is_dataclass(row) and not isinstance(row, type):
        return dataclasses.asdict(row)
    assert isinstance(row, Mapping), "rows are mappings or dataclasses"
    return dict(row)


def _now_ms() -> int:
    return time.time_ns() // 10**6
