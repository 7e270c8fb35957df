"""Trials found again in the tracking store, by trial id, run name or run id."""

from __future__ import annotations

import difflib
import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from infra.tracking import check_recorded, dialect_of, open_client, without_password
from infra.tracking_runs import CHECKPOINTS, DIAGNOSIS_FILE, EVENTS_FOLDER, SWEEP_FILE, TRIAL_FILE, TRIAL_ID
from trainables.errors import ConfigError, complaint

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

TRIALS = "tags.`epoch14.kind` = 'trial'"
NEWEST = 1000
"""Trials among which close names are looked for."""
RUN_ID = re.compile(r"[0-9a-f]{32}")
PLACE = re.compile(r"\d{5}")
"""The last part of a Tune trial id, its place in the sweep."""


@dataclass(frozen=True)
class TrialRecord:
    """What the store knows of one trial."""

    trial_id: str
    name: str
    run_id: str
    sweep: str
    status: str
    changed: str
    """The trial's point of the search space, `optim.lr=0.1 model.norm=gn`."""
    best_val_top1: float | None
    last_step: int | None
    symptom: str
    """Empty for a healthy trial, and for one that still runs."""
    diagnosis: dict[str, Any] | None
    events: list[dict[str, Any]]
    """What the run went on after, each with its own diagnosis."""
    siblings: str
    """What other trials of the sweep say about it; empty: nothing."""
    namesakes: int
    """Other trials that the same words fit; this one is the newest."""


def find_trial(uri: str, trial: str) -> TrialRecord:
    """The newest trial with this trial id, run name or run id, or with this place (`00003`) in its sweep.

    Raises ConfigError, naming close ones, if there is none; TrackingError if there is no store.
    """
    check_recorded(uri)
    client = open_client(uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = _matches(client, experiments, trial)
    if not found:
        known = client.search_runs(experiments, TRIALS, max_results=NEWEST, order_by=["attributes.start_time DESC"])
        allowed = f"a trial id, run name or run id in {without_password(uri)}"
        raise ConfigError(complaint("TRIAL", trial, allowed, _remedy(trial, known)))
    return _record(client, found[0], len(found) - 1)


def recorded_config(uri: str, run_id: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(config of the trial with this run, config of its sweep). Raises ConfigError where the run holds none."""
    client = open_client(uri)
    from mlflow.exceptions import MlflowException

    run = client.get_run(run_id)
    try:
        trial = _read_yaml(client, run_id, TRIAL_FILE)
        return trial, _read_yaml(client, run.data.tags["mlflow.parentRunId"], SWEEP_FILE)
    except (OSError, MlflowException) as error:
        reason = str(error).splitlines()[0][:120]
        allowed = f"a trial whose run holds {TRIAL_FILE} ({reason})"
        raise ConfigError(complaint("TRIAL", str(run.info.run_name), allowed, "train from its YAML instead")) from None


def recorded_checkpoints(uri: str, run_id: str) -> str:
    """Folder or URI where the trial with this run kept its checkpoints; empty where its sweep doesn't say."""
    client = open_client(uri)
    tags = client.get_run(run_id).data.tags
    pattern = client.get_run(tags["mlflow.parentRunId"]).data.tags.get(CHECKPOINTS, "")
    return str(pattern).replace(TRIAL_ID, tags["trial_id"])


def recorded_losses(uri: str, run_id: str) -> dict[int, float]:
    """Step -> training loss (nats) of the trial with this run, by rising step; NaN where it was not finite."""
    history = open_client(uri).get_metric_history(run_id, "loss")
    return {point.step: point.value for point in sorted(history, key=lambda point: point.step)}


def run_place(uri: str, experiment: str, run_id: str) -> str:
    """Where people find a run: the address of its page on a server; else the store, the experiment and the run."""
    place = f"{without_password(uri)} experiment {experiment} run {run_id}"
    if dialect_of(uri) not in ("http", "https"):
        return place
    client = open_client(uri)
    from mlflow.exceptions import MlflowException

    try:
        experiment_id = client.get_run(run_id).info.experiment_id
    except MlflowException:
        # The server may be gone by now; where the records are is told all the same.
        return place
    return f"{without_password(uri).rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"


def _read_yaml(client: MlflowClient, run_id: str, name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        text = Path(client.download_artifacts(run_id, name, folder)).read_text(encoding="utf-8")
    values: dict[str, Any] = yaml.safe_load(text)
    return values


def _matches(client: MlflowClient, experiments: list[str], trial: str) -> list[Run]:
    quote = '"' if "'" in trial else "'"
    if not trial or quote in trial:
        return []
    wanted = [f"tags.trial_id = {quote}{trial}{quote}", f"attributes.run_name = {quote}{trial}{quote}"]
    if RUN_ID.fullmatch(trial):
        wanted.append(f"attributes.run_id = '{trial}'")
    if PLACE.fullmatch(trial):
        wanted.append(f"tags.trial_id LIKE '%_{trial}'")
    for condition in wanted:
        order = ["attributes.start_time DESC"]
        runs = client.search_runs(experiments, f"{TRIALS} and {condition}", max_results=100, order_by=order)
        if runs:
            return list(runs)
    return []


def _remedy(trial: str, known: list[Run]) -> str:
    """Close names, or the newest where none is close."""
    if not known:
        return "run a sweep first, or name its storage"
    names = [name for run in known for name in (run.data.tags.get("trial_id", ""), str(run.info.run_name))]
    near = difflib.get_close_matches(trial, dict.fromkeys(names), n=3, cutoff=0.6)
    return f"write {' or '.join(map(repr, near))}" if near else f"write one of {', '.join(map(repr, names[:6]))}"


def _record(client: MlflowClient, run: Run, namesakes: int) -> TrialRecord:
    tags, metrics = run.data.tags, run.data.metrics
    symptom = tags.get("diagnosis.symptom", "none")
    history = client.get_metric_history(run.info.run_id, "loss")
    return TrialRecord(
        trial_id=tags.get("trial_id", ""),
        name=str(run.info.run_name),
        run_id=run.info.run_id,
        sweep=tags.get("epoch14.sweep", ""),
        status=run.info.status,
        changed=tags.get("epoch14.changed", ""),
        best_val_top1=metrics.get("best_val_top1"),
        last_step=max((point.step for point in history), default=None),
        symptom="" if symptom == "none" else symptom,
        diagnosis=_diagnosis(client, run) if "diagnosis.cause" in tags else None,
        events=read_events(client, run) if "diagnosis.events" in tags else [],
        siblings=tags.get("diagnosis.siblings", ""),
        namesakes=namesakes,
    )


def _diagnosis(client: MlflowClient, run: Run) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(client.download_artifacts(run.info.run_id, DIAGNOSIS_FILE, folder))
        diagnosis: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return diagnosis


def read_events(client: MlflowClient, run: Run) -> list[dict[str, Any]]:
    """What a trial's run went on after; the run has the tag `diagnosis.events`."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(client.download_artifacts(run.info.run_id, EVENTS_FOLDER, folder))
        return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(found.glob("*.json"))]
