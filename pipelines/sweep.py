"""run_sweep: config -> search -> results, through one code path in local mode, on one machine and on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.space import probe_points, trial_config
from infra.tracking import check_tracking
from infra.tracking_names import full_config, run_name
from pipelines.checks import check_checkpoints, check_data, check_device, check_faults, resolve_paths
from pipelines.config import SweepConfig
from pipelines.first_look import look_at_data
from pipelines.progress.display import displayed
from pipelines.progress.state import SweepState
from pipelines.sweep_folder import (
    SWEEP_FILE,
    checkpoint_places,
    holds_sweep,
    is_of,
    make_storage,
    new_folder,
    old_folder,
    state_place,
)

if TYPE_CHECKING:
    from infra.ray_capacity import Need
    from infra.ray_events import Outcomes, TrialOutcome
    from infra.ray_interrupt import FirstInterrupt
    from infra.ray_notice import StopWord
    from infra.ray_runtime import Cluster
    from infra.ray_tune import TuneJob
    from infra.tracking_callback import TrialTracker


@dataclass(frozen=True)
class TrialRow:
    """One line of the final table."""

    trial_id: str
    name: str
    params: dict[str, Any]
    """What the trial changes: axis -> value."""
    best_val_top1: float
    steps: int
    status: str
    """finished, stopped (by a symptom), pruned (by the scheduler), failed, or interrupted."""
    symptom: str = ""
    cause: str = ""
    group: str = ""
    confidence: float = 0.0
    remedy: str = ""
    verified: bool = False
    interventions: str = ""
    """What it went on with after rollbacks; empty: it never went back."""
    siblings: str = ""
    """What the events of other trials say about this one's; empty: nothing."""
    error: str = ""
    """One line; empty unless failed."""


@dataclass(frozen=True)
class SweepResult:
    """What a sweep found."""

    rows: list[TrialRow]
    name: str
    path: Path
    """Folder of Tune's state, from which an interrupted sweep can be resumed."""
    tracking_uri: str
    experiment: str
    parent_run_id: str
    """The sweep's MLflow run."""
    failed: int
    """Trials that raised."""
    interrupted: bool
    """Ctrl-C came before all trials were over."""


class SweepInterruptedError(KeyboardInterrupt):
    """Ctrl-C came once more while trials were stopping, or before or after they ran; `folder` has what can go on."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.folder = folder


def run_sweep(
    config: SweepConfig,
    *,
    local: bool = False,
    address: str | None = None,
    resume: str | Path | None = None,
    folder: Path | None = None,
    write: Callable[[str], None] | None = None,
    abandon: Callable[[Path], None] | None = None,
) -> SweepResult:
    """Run every trial of `config`; trials that fail are rows, not exceptions.

    A Ray that the caller has initialised is used and left running; else one is started (`local`: in this process) or
    joined (`address`), and left at the end. `resume`: the folder of an interrupted sweep of the same config, which may
    be lost where `checkpoints` lie elsewhere. `folder`: where the state of a sweep's only trial is to lie; the trial
    goes on from what is there, on other resources too. `write` takes the lines of progress; by default a terminal shows
    a table, and all else gets them printed. A first Ctrl-C stops the trials; at a second one `abandon` is called with
    the folder, to end the process. Raises ConfigError, DataError, CheckpointError, TrackingError or ClusterError before
    any trial starts, SweepError if the search itself fails, SweepInterruptedError on another Ctrl-C than the first.
    """
    config = resolve_paths(config)
    only_trial = folder is not None
    if folder is not None and holds_sweep(folder) and is_of(config, folder):
        resume = folder
    make_storage(config)
    folder = old_folder(config, Path(resume).expanduser().resolve()) if resume else folder or new_folder(config)
    places = checkpoint_places(config, folder, only_trial=only_trial)
    check_faults(config)
    if address is None:
        check_device(config)
    check_data(config)
    check_checkpoints(config)
    check_tracking(config.tracking_uri)
    findings = {} if resume else look_at_data(config)
    from infra.notice import listening
    from infra.ray_capacity import Need
    from infra.ray_runtime import ray_session

    resources = config.resources
    need = Need(
        resources.workers,
        resources.cpus_per_worker,
        resources.gpus_per_worker,
        placement=resources.placement,
    )
    plan = _Plan(config, folder, places, need, resume is not None, findings)
    # Ray sets a handler of its own as it starts.
    with ray_session(local=local, address=address, need=need) as cluster, listening():
        return _fit(plan, cluster, write, abandon)


@dataclass(frozen=True)
class _Plan:
    """What is to be run, where it lies, and what each trial needs."""

    config: SweepConfig
    folder: Path
    checkpoints: Callable[[str], str]
    """Trial id -> folder or URI."""
    need: Need
    resume: bool
    """Whether Tune goes on with the trials that it left in the folder."""
    findings: Mapping[str, int]
    """What the doctor found: severity -> count; empty where it did not look."""


def _fit(
    plan: _Plan,
    cluster: Cluster,
    write: Callable[[str], None] | None,
    abandon: Callable[[Path], None] | None,
) -> SweepResult:
    from infra.ray_events import Outcomes
    from infra.ray_interrupt import interrupts
    from infra.ray_notice import StopWord
    from infra.ray_tune import fit
    from infra.tracking_search import run_place
    from pipelines.report_html.build import attach

    config, folder = plan.config, plan.folder
    uri, experiment = config.tracking_uri, config.tracking.experiment
    tracker = _tracker(plan)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SWEEP_FILE).write_text(config.to_yaml(), encoding="utf-8")

    def place() -> str:
        return f"MLflow: {run_place(uri, experiment, tracker.parent_run_id)}"

    # A debugger wants the terminal for itself.
    shown = displayed(_state(config), place, write, f"results: {folder}", lines=cluster.local_mode)
    with _with_folder(folder), shown as display:

        def quit_at_once() -> None:
            if abandon is not None:
                display.leave()
                abandon(folder)

        outcomes, word = Outcomes(display), StopWord()
        with interrupts(display.stopping, quit_at_once, word.say) as interrupt:
            fit(_job(plan, cluster, [tracker, outcomes, interrupt], word), resume=plan.resume)
            siblings = _siblings(config, list(outcomes.trials.values()))
            rows = [_row(config, outcome, siblings.get(outcome.trial_id, "")) for outcome in outcomes.trials.values()]
            for trial_id, text in siblings.items():
                tracker.cite(trial_id, text)
            parent_run_id = tracker.parent_run_id
            if tracker.finish(rows) is None:
                attach(uri, parent_run_id)
    interrupted = any(row.status == "interrupted" for row in rows)
    failed = sum(row.status == "failed" for row in rows)
    return SweepResult(rows, config.name, folder, uri, experiment, parent_run_id, failed, interrupted)


@contextmanager
def _with_folder(folder: Path) -> Iterator[None]:
    """A Ctrl-C tells which folder can go on, if any."""
    try:
        yield
    except KeyboardInterrupt:
        if holds_sweep(folder):
            raise SweepInterruptedError(folder) from None
        raise


def _tracker(plan: _Plan) -> TrialTracker:
    from infra.tracking_callback import TrialTracker
    from infra.tracking_runs import CHECKPOINTS, TRIAL_ID

    config = plan.config
    tags = {f"epoch14.data_{severity}s": str(count) for severity, count in plan.findings.items()}
    tags[CHECKPOINTS] = plan.checkpoints(TRIAL_ID)
    params = config.model_dump(mode="json")
    return TrialTracker(config.tracking_uri, config.tracking.experiment, config.name, params, tags=tags)


def _state(config: SweepConfig) -> SweepState:
    resources = config.resources
    gpus, cores = resources.workers * resources.gpus_per_worker, resources.workers * resources.cpus_per_worker
    return SweepState(
        config.num_trials,
        steps=lambda point: trial_config(config.trial, point).max_steps,
        name=lambda point: trial_name(config, point),
        devices=(gpus, "GPU") if gpus else (cores, "core"),
    )


def _job(
    plan: _Plan, cluster: Cluster, callbacks: Sequence[TrialTracker | Outcomes | FirstInterrupt], word: StopWord
) -> TuneJob:
    from infra.ray_search import asha, param_space, searcher
    from infra.ray_trial import trial_function, trial_resources
    from infra.ray_tune import TuneJob
    from infra.stopper import LossSpikeStopper

    config, need, search = plan.config, plan.need, plan.config.search
    trials = [trial_config(config.trial, point) for point in probe_points(config.axes)]
    timeout_s = max(trial.diagnosis.timeout_s for trial in trials)
    max_steps = max(trial.max_steps for trial in trials)
    places, system_every_s = str(plan.folder / "train"), config.tracking.system_metrics_every_s
    halving = asha(search.asha.grace_steps, search.asha.reduction_factor, max_steps, timeout_s) if search.asha else None
    return TuneJob(
        function=trial_function(config.trial, need, places, plan.checkpoints, system_every_s, word),
        resources=trial_resources(need, cluster),
        param_space=param_space(config.axes, search.kind),
        num_samples=search.num_trials or 1,
        # One process has room for one session of Tune's.
        searcher=searcher(search.kind, search.seed, 1 if cluster.local_mode else search.max_concurrent),
        scheduler=halving,
        stopper=LossSpikeStopper(diagnosis_timeout_s=timeout_s),
        reuse_actors=need.workers == 1 and not cluster.local_mode,
        folder=plan.folder,
        callbacks=callbacks,
        copy=state_place(config, plan.folder),
    )


def trial_name(config: SweepConfig, point: Mapping[str, Any]) -> str:
    """The trial's name, as its MLflow run has it."""
    return run_name(full_config(config.trial, point), point, config.space)


def _siblings(config: SweepConfig, outcomes: Sequence[TrialOutcome]) -> dict[str, str]:
    """Trial id -> what the other trials' events say about its own, a sentence an event."""
    from infra.siblings import compare_events, event_of

    events = [
        event_of(outcome.trial_id, full_config(config.trial, outcome.point), diagnosis)
        for outcome in outcomes
        for diagnosis in (*outcome.diagnoses, outcome.row.get("diagnosis"))
        if diagnosis
    ]
    texts: dict[str, list[str]] = {}
    for evidence in compare_events(events):
        texts.setdefault(evidence.run, []).append(evidence.text)
    return {run: "; ".join(dict.fromkeys(found)) for run, found in texts.items()}


def _row(config: SweepConfig, outcome: TrialOutcome, siblings: str) -> TrialRow:
    row = outcome.row
    diagnosis = row.get("diagnosis") or {}
    remedy = diagnosis.get("remedy") or {}
    return TrialRow(
        trial_id=outcome.trial_id,
        name=trial_name(config, outcome.point),
        params=outcome.point,
        best_val_top1=float(row.get("best_val_top1", 0.0)),
        steps=int(row.get("step", 0)),
        status=outcome.status,
        symptom=str(row.get("symptom", "")),
        cause=str(diagnosis.get("cause", "")),
        group=str(diagnosis.get("group", "")),
        confidence=float(diagnosis.get("confidence", 0.0)),
        remedy=str(remedy.get("text", "")),
        verified=bool(remedy.get("verified", False)),
        interventions="; ".join(row.get("interventions") or ()),
        siblings=siblings,
        error=outcome.error,
    )
