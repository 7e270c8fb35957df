"""Tune's Tuner around a trial function: fresh, or restored from the folder of an interrupted sweep."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune import Callback, Stopper
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from infra.ray_events import describe_error
from infra.ray_local import in_local_mode, quiet_tune, tune_without_actors
from infra.ray_recovery import Recovery, taking_up
from infra.ray_schedulers import KeptFirst
from infra.ray_search import OPTUNA_CHOICES
from infra.ray_state import keep_state, mend_state
from infra.ray_trial import TuneFunction, listening_trainable
from trainables.errors import SweepError


@dataclass(frozen=True)
class TuneJob:
    """Everything that Tune is told."""

    function: TuneFunction
    resources: dict[str, float]
    param_space: dict[str, Any]
    num_samples: int
    searcher: Any
    scheduler: TrialScheduler | None
    stopper: Stopper
    reuse_actors: bool
    """One process runs one trial after another, which saves the imports of torch; only for one-worker trials."""
    folder: Path
    callbacks: Sequence[Callback]
    copy: str | None = None
    """Folder or URI for a copy of Tune's state that outlives this machine; None: there is none."""


def fit(job: TuneJob, *, resume: bool) -> None:
    """Run the trials; what they did reaches the callbacks. Raises SweepError if the search itself fails."""
    function = job.function if in_local_mode() else listening_trainable(job.function)
    trainable = tune.with_resources(function, job.resources)
    recovery = Recovery()
    job = replace(job, callbacks=[*job.callbacks, recovery])
    with quiet_tune(), tune_without_actors(), taking_up(recovery.goes_on), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=OPTUNA_CHOICES)
        tuner = _restored(job, trainable) if resume else _fresh(job, trainable)
        try:
            tuner.fit()
        except Exception as error:
            raise SweepError(f"the search failed: {describe_error(error)}") from error
    if job.copy is not None:
        keep_state(job.folder, job.copy)


def can_resume(folder: Path) -> bool:
    """Whether Tune left a state in `folder`."""
    # What can_restore looks for is there before the first state is.
    return bool(tune.Tuner.can_restore(str(folder))) and any(folder.glob("experiment_state-*.json"))


def _fresh(job: TuneJob, trainable: Any) -> tune.Tuner:
    return tune.Tuner(
        trainable,
        param_space=job.param_space,
        tune_config=tune.TuneConfig(
            num_samples=job.num_samples,
            search_alg=job.searcher,
            scheduler=KeptFirst(job.scheduler or FIFOScheduler(), job.copy),
            reuse_actors=job.reuse_actors,
            trial_name_creator=_trial_id,
            trial_dirname_creator=_trial_id,
        ),
        run_config=tune.RunConfig(
            name=job.folder.name,
            storage_path=str(job.folder.parent),
            stop=job.stopper,
            callbacks=list(job.callbacks),
            verbose=0,
        ),
    )


def _restored(job: TuneJob, trainable: Any) -> tune.Tuner:
    mend_state(job.folder)
    tuner = tune.Tuner.restore(
        str(job.folder),
        trainable=trainable,
        param_space=job.param_space,
        resume_unfinished=True,
        # Not restart_errored: that gives the trial a new id, and with it other checkpoints and another MLflow run.
        resume_errored=True,
    )
    # Tune brings back copies of the callbacks; the ones that this process listens to must take their place.
    internal: Any = tuner._local_tuner  # noqa: SLF001 - Ray has no public way
    internal._run_config.callbacks = list(job.callbacks)  # noqa: SLF001 - same
    return tuner


def _trial_id(trial: Any) -> str:
    return str(trial.trial_id)
