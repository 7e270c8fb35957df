"""Whole sweeps found again in the tracking store, with every trial of theirs, and what is added to them afterwards."""

from __future__ import annotations

import csv
import difflib
import io
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from infra.tracking import check_recorded, open_client, without_password
from infra.tracking_metrics import run_id_of
from infra.tracking_runs import CHECKPOINTS, DIAGNOSIS_FILE, SWEEP_FILE, TRIAL_FILE
from infra.tracking_search import read_events
from trainables.errors import ConfigError, TrackingError, complaint

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

SWEEPS = "tags.`epoch14.kind` = 'sweep'"
NEWEST = 1000
"""Sweeps among which close names are looked for."""
PAGE = 1000
"""Trials asked for at once."""
SUMMARY_FILE = "summary.csv"
"""Artifact of a sweep that came to its end: its final table."""
REPORT_FILE = "report.html"
"""Artifact of the sweep's run: its report, which MLflow's UI shows in place."""
SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
ENDINGS = {"FINISHED": "finished", "FAILED": "failed", "RUNNING": "running"}


@dataclass(frozen=True)
class SweptTrial:
    """One trial of a sweep, as the store has it."""

    trial_id: str
    name: str
    status: str
    """finished, stopped (by a symptom), pruned (by the scheduler), failed, interrupted, running, or ended early where
    the store can't tell which."""
    config: dict[str, Any]
    """The whole config of the trial; empty where the store has none."""
    changed: str = ""
    """Its point of the search space in words."""
    loss: tuple[tuple[int, float], ...] = ()
    """(step, training loss in nats) by rising step."""
    best_val_top1: float | None = None
    symptom: str = ""
    """The last symptom, whether it ended the trial or not; empty: there was none."""
    diagnosis: dict[str, Any] | None = None
    events: list[dict[str, Any]] = field(default_factory=list)
    """What the run went on after, each with its own diagnosis."""
    siblings: str = ""
    error: str = ""
    seconds: float | None = None
    """From the start of its run to the end; None: it still runs."""
    images_per_s: float | None = None
    """The speed that it reported last."""

    @property
    def steps(self) -> int:
        """Steps done."""
        return self.loss[-1][0] + 1 if self.loss else 0


@dataclass(frozen=True)
class RecordedSweep:
    """A sweep and its trials."""

    name: str
    run_id: str
    status: str
    """MLflow's: RUNNING, FINISHED, FAILED or KILLED."""
    config: dict[str, Any]
    """What the sweep ran with."""
    trials: tuple[SweptTrial, ...]
    """By trial id."""
    started_ms: int = 0
    """Milliseconds since 1970."""
    namesakes: int = 0
    """Other sweeps that the same word fits; this one is the newest."""
    synthetic: bool = False
    """Whether the records were made up, to test a report."""


def read_sweep(uri: str, word: str) -> RecordedSweep:
    """The newest sweep with this name, run id, or name of the folder that it wrote to, and all of its trials.

    Raises ConfigError, naming close ones, if there is none; TrackingError if there is no store or it fails.
    """
    check_recorded(uri)
    client = open_client(uri)
    from mlflow.exceptions import MlflowException

    try:
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        found = _matches(client, experiments, word)
        if found:
            return _read(uri, client, found[0], len(found) - 1)
        known = client.search_runs(experiments, SWEEPS, max_results=NEWEST, order_by=["attributes.start_time DESC"])
    except MlflowException as error:
        reason = str(error).splitlines()[0][:120]
        allowed = f"a store that gives its sweeps ({reason})"
        raise TrackingError(complaint("--uri", without_password(uri), allowed, "try again later")) from None
    allowed = f"the name, folder or run id of a sweep in {without_password(uri)}"
    raise ConfigError(complaint("SWEEP", word, allowed, _remedy(word, known)))


def attach_report(uri: str, run_id: str, html: str) -> None:
    """Keep the report of a sweep in its run, where MLflow's UI shows it in place."""
    open_client(uri).log_text(run_id, html, REPORT_FILE)


def _matches(client: MlflowClient, experiments: list[str], word: str) -> list[Run]:
    quote = '"' if "'" in word else "'"
    if not word or quote in word:
        return []
    order = ["attributes.start_time DESC"]
    if run_id := run_id_of(word):
        return list(client.search_runs(experiments, f"{SWEEPS} and attributes.run_id = '{run_id}'"))
    named = f"{SWEEPS} and attributes.run_name = {quote}{word}{quote}"
    runs = list(client.search_runs(experiments, named, max_results=100, order_by=order))
    if runs:
        return runs
    below = f"{SWEEPS} and tags.`{CHECKPOINTS}` LIKE {quote}%/{word}/%{quote}"
    runs = list(client.search_runs(experiments, below, max_results=100, order_by=order))
    # An underscore stands for any letter there.
    return [run for run in runs if f"/{word}/" in run.data.tags[CHECKPOINTS]]


def _remedy(word: str, known: Sequence[Run]) -> str:
    if not known:
        return "run a sweep first, or name its storage"
    names = list(dict.fromkeys(str(run.info.run_name) for run in known))
    near = difflib.get_close_matches(word, names, n=3, cutoff=0.6)
    return f"write {' or '.join(map(repr, near))}" if near else f"write one of {', '.join(map(repr, names[:6]))}"


def _read(uri: str, client: MlflowClient, run: Run, namesakes: int) -> RecordedSweep:
    run_id = run.info.run_id
    wanted = f"tags.`mlflow.parentRunId` = '{run_id}'"
    page = client.search_runs([run.info.experiment_id], wanted, max_results=PAGE)
    children = list(page)
    while page.token:
        page = client.search_runs([run.info.experiment_id], wanted, max_results=PAGE, page_token=page.token)
        children += page
    text = _text(uri, run, SUMMARY_FILE)
    endings = {row["trial_id"]: row["status"] for row in csv.DictReader(io.StringIO(text)) if row.get("trial_id")}
    trials = [_trial(uri, client, child, endings) for child in children]
    return RecordedSweep(
        name=str(run.info.run_name),
        run_id=run_id,
        status=run.info.status,
        config=_mapping(_text(uri, run, SWEEP_FILE)),
        trials=tuple(sorted(trials, key=lambda trial: trial.trial_id)),
        started_ms=int(run.info.start_time or 0),
        namesakes=namesakes,
    )


def _trial(uri: str, client: MlflowClient, run: Run, endings: dict[str, str]) -> SweptTrial:
    tags, metrics, info = run.data.tags, run.data.metrics, run.info
    symptom = tags.get("diagnosis.symptom", "none")
    symptom = "" if symptom == "none" else symptom
    history = client.get_metric_history(info.run_id, "loss") if "loss" in metrics else []
    trial_id = tags.get("trial_id", "")
    known = "stopped" if symptom and info.status == "KILLED" else ENDINGS.get(info.status, "ended early")
    return SweptTrial(
        trial_id=trial_id,
        name=str(info.run_name),
        status=endings.get(trial_id, known),
        config=_mapping(_text(uri, run, TRIAL_FILE)),
        changed=tags.get("epoch14.changed", ""),
        loss=tuple(sorted((int(point.step), float(point.value)) for point in history)),
        best_val_top1=metrics.get("best_val_top1"),
        symptom=symptom,
        diagnosis=_mapping(_text(uri, run, DIAGNOSIS_FILE)) or None if "diagnosis.cause" in tags else None,
        events=read_events(client, run) if "diagnosis.events" in tags else [],
        siblings=tags.get("diagnosis.siblings", ""),
        error=tags.get("error", ""),
        seconds=(info.end_time - info.start_time) / 1000 if info.end_time else None,
        images_per_s=metrics.get("images_per_s"),
    )


def _text(uri: str, run: Run, name: str) -> str:
    """Content of an artifact; empty where the run has none."""
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    # The client's own way asks for the run twice, which takes ten times as long.
    whence = f"{run.info.artifact_uri}/{name}"
    with tempfile.TemporaryDirectory() as folder:
        try:
            file = download_artifacts(artifact_uri=whence, dst_path=folder, tracking_uri=uri)
            return Path(file).read_text(encoding="utf-8")
        except (OSError, MlflowException):
            return ""


def _mapping(text: str) -> dict[str, Any]:
    try:
        # Whole diagnoses are JSON, which PyYAML reads a hundred times as slowly.
        values = json.loads(text) if text.startswith("{") else yaml.load(text, Loader=SAFE_LOADER)  # noqa: S506 - safe
    except (ValueError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}
