"""Schedulers around Tune's own: one that leaves diagnoses alone, one that has no trial start before it is on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray.tune.schedulers import TrialScheduler

from infra.ray_state import keep_state
from infra.stopper import DiagnosisWatch


class Around(TrialScheduler):
    """Leaves everything to `inner`."""

    def __init__(self, inner: TrialScheduler) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._inner = inner

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """As `inner`."""
        return str(self._inner.on_trial_result(tune_controller, trial, result))

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """As `inner`."""
        return bool(self._inner.set_search_properties(metric, mode, **spec))

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """As `inner`."""
        self._inner.on_trial_add(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """As `inner`."""
        self._inner.on_trial_error(tune_controller, trial)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """As `inner`."""
        self._inner.on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """As `inner`."""
        self._inner.on_trial_remove(tune_controller, trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """As `inner`."""
        return self._inner.choose_trial_to_run(tune_controller)

    def debug_string(self) -> str:
        """As `inner`."""
        return str(self._inner.debug_string())

    def save(self, checkpoint_path: str) -> None:
        """As `inner`."""
        self._inner.save(checkpoint_path)

    def restore(self, checkpoint_path: str) -> None:
        """As `inner`."""
        self._inner.restore(checkpoint_path)


class DiagnosisAware(Around):
    """A scheduler that ends no trial in phase `diagnosing` before its time-out, and leaves all else to `inner`."""

    def __init__(self, inner: TrialScheduler, timeout_s: float = 900.0) -> None:
        super().__init__(inner)
        self._watch = DiagnosisWatch(timeout_s)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """CONTINUE while the trial diagnoses in time; else what `inner` decides."""
        late = self._watch.is_late(trial.trial_id, result)
        if self._watch.is_diagnosing(trial.trial_id, result) and not late:
            return TrialScheduler.CONTINUE
        return super().on_trial_result(tune_controller, trial, result)


class KeptFirst(Around):
    """Has Tune write its state whenever there is a new trial, before one may start, or one is over, and keeps a copy.

    A sweep that is killed would else forget the trials of the last seconds, and a searcher that gives out random ids,
    such as Optuna's, would run them again as others. `place`: folder or URI for one more copy; None: none.
    """

    def __init__(self, inner: TrialScheduler, place: str | None = None) -> None:
        super().__init__(inner)
        self._place = place
        self._kept = (0, 0)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """What `inner` chooses, from trials that are on disk."""
        trials = tune_controller.get_trials()
        known = (len(trials), sum(trial.is_finished() for trial in trials))
        if known != self._kept:
            tune_controller.checkpoint(force=True, wait=True)
            keep_state(Path(tune_controller.experiment_path), self._place)
            self._kept = known
        return super().choose_trial_to_run(tune_controller)
