"""Records become MLflow runs: a parent run per sweep, a child run per trial.

Every record may be applied again after a failure half-way, and after a restore of the sweep: runs are found by their
`trial_id`, steps that are in the store are left out, and a metric sent twice with one timestamp is one row there.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from infra.explanation import event_markdown, remedy_text, to_figure, to_markdown
from infra.system_metrics import KEY as SYSTEM
from infra.tracking import open_client, sqlite_file
from infra.tracking_names import flatten, param_key
from infra.tracking_records import Record, Report, Siblings, SweepEnd, SweepStart, TrialEnd, TrialStart
from infra.tracking_state import RunState, last_step, state_of
from infra.tracking_values import (
    MAX_METRICS,
    MAX_NAME_CHARS,
    MAX_PARAM_CHARS,
    MAX_PARAMS,
    MAX_TAG_CHARS,
    cut,
    cut_markdown,
    metrics_of,
    summary_csv,
    summary_markdown,
    user_name,
)
from infra.tracking_views import EVENT_LOSS, VIEW_NAME, VIEW_TAG, view_link, view_value
from trainables.errors import TrackingError, complaint
from trainables.speed import SPEEDS

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

MAY_FAIL = ("loss", "grad_norm")
"""Metrics whose first non-finite value is also kept as a tag; elsewhere NaN means 'none here'."""
SWEEP_FILE, TRIAL_FILE = "sweep.yaml", "config.yaml"
"""Artifacts of the sweep's run and of each trial's: their configs."""
DIAGNOSIS_FILE = "diagnosis.json"
"""Artifact of a trial's run: the diagnosis of what ended it."""
EVENTS_FOLDER = "events"
"""Artifacts of a trial's run: what it went on after, one JSON and one Markdown file an event, by number."""
QUARANTINE_FILE = "quarantined.txt"
"""Artifact of a trial's run: its images that don't decode, one a line; their number is the metric `quarantined`."""
CHECKPOINTS, TRIAL_ID = "epoch14.checkpoints", "{trial}"
"""Tag of the sweep's run: where a trial keeps its checkpoints, and what stands for the trial's id there."""
NOTE = "mlflow.note.content"
"""The run page shows it as the description, in Markdown."""


class RunRecorder:
    """Applies the records of one sweep to the store at `uri`, in order. Not thread safe: one thread owns it."""

    def __init__(self, uri: str, experiment: str, sweep: str) -> None:
        self._uri = uri
        self._client: MlflowClient = open_client(uri)
        self._sweep = sweep
        self._experiment_id = self._open_experiment(experiment)
        self._runs: dict[str, RunState] = {}
        self._closed: set[str] = set()
        """Trials that are over, and whose runs say so: there is nothing to tell again."""
        self.parent_run_id: str | None = None

    def apply(self, record: Record) -> None:
        """Write one record; raises what MLflow raises, and may then be called with it again."""
        match record:
            case Report() | TrialEnd() if record.trial_id in self._closed:
                return
            case SweepStart():
                self._start_sweep(record)
            case TrialStart():
                self._start_trial(record)
            case Report():
                self._report(self._state(record.trial_id), record)
            case Siblings():
                self._set_tags(self._state(record.trial_id).run_id, {"diagnosis.siblings": record.text})
            case TrialEnd():
                self._end_trial(self._state(record.trial_id), record)
            case SweepEnd():
                self._end_sweep(record)

    def _start_sweep(self, record: SweepStart) -> None:
        self.parent_run_id = self.parent_run_id or record.parent_run_id
        if self.parent_run_id is None:
            self.parent_run_id = self._create_run(self._sweep, {"epoch14.kind": "sweep", **record.tags})
        else:
            self._client.update_run(self.parent_run_id, status="RUNNING")
        self._log_params(self.parent_run_id, {param_key(key): str(value) for key, value in flatten(record.params)})
        self._client.log_text(self.parent_run_id, yaml.safe_dump(record.params, sort_keys=False), SWEEP_FILE)

    def _open_experiment(self, name: str) -> str:
        """Id of the experiment, made if need be; a local store keeps its artifacts beside its file."""
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            file = sqlite_file(self._uri)
            location = (file.parent / "mlartifacts").as_uri() if file else None
            try:
                # The kind is MLflow's word for an experiment that has nothing to do with language models.
                tags = {"mlflow.experimentKind": "custom_model_development", VIEW_TAG: view_value(_now_ms())}
                return str(self._client.create_experiment(name, artifact_location=location, tags=tags))
            except MlflowException as error:
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise error from None
        if found.lifecycle_stage != "active":
            remedy = f"choose another name, or `mlflow experiments restore --experiment-id {found.experiment_id}`"
            raise TrackingError(complaint("tracking.experiment", name, "an experiment that is not deleted", remedy))
        if VIEW_TAG not in found.tags:
            self._client.set_experiment_tag(found.experiment_id, VIEW_TAG, view_value(_now_ms()))
        return str(found.experiment_id)

    def _create_run(self, name: str, tags: Mapping[str, str]) -> str:
        tags = {
            "epoch14.sweep": self._sweep,
            "mlflow.source.name": "epoch14 sweep",
            "mlflow.source.type": "LOCAL",
            "mlflow.user": user_name(),
            **tags,
        }
        tags = {key: cut(value, MAX_TAG_CHARS) for key, value in tags.items()}
        run = self._client.create_run(self._experiment_id, run_name=cut(name, MAX_NAME_CHARS), tags=tags)
        return str(run.info.run_id)

    def _start_trial(self, record: TrialStart) -> None:
        found = self._find_run(record.trial_id)
        self._closed.discard(record.trial_id)
        if record.over and found is not None and found.info.status != "RUNNING":
            self._closed.add(record.trial_id)
            return
        if found is None:
            tags = {
                "mlflow.parentRunId": self.parent_run_id or "",
                "trial_id": record.trial_id,
                "epoch14.kind": "trial",
                "epoch14.changed": record.changed,
            }
            state = RunState(self._create_run(record.name, tags))
            self._client.log_text(state.run_id, yaml.safe_dump(record.config, sort_keys=False), TRIAL_FILE)
        else:
            state = state_of(self._client, found)
            if found.info.status != "RUNNING":
                self._client.update_run(state.run_id, status="RUNNING")
        self._log_params(state.run_id, record.params)
        self._runs[record.trial_id] = state

    def _find_run(self, trial_id: str) -> Run | None:
        wanted = f"tags.trial_id = '{trial_id}' and tags.`mlflow.parentRunId` = '{self.parent_run_id}'"
        found = self._client.search_runs([self._experiment_id], wanted, max_results=1)
        return found[0] if found else None

    def _state(self, trial_id: str) -> RunState:
        """State of a trial's run, which may have been begun by another process; raises LookupError."""
        if trial_id not in self._runs:
            found = self._find_run(trial_id)
            if found is None:
                raise LookupError(f"trial {trial_id} has no run")
            self._runs[trial_id] = state_of(self._client, found)
        return self._runs[trial_id]

    def _log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        entities = [Param(key, cut(value, MAX_PARAM_CHARS)) for key, value in params.items()]
        for start in range(0, len(entities), MAX_PARAMS):
            self._client.log_batch(run_id, params=entities[start : start + MAX_PARAMS])

    def _report(self, state: RunState, record: Report) -> None:
        self._log_steps(state, record)
        self._log_summary(state, record)
        if record.row.get("event"):
            self._log_event(state, record)
        diagnosis = record.row.get("diagnosis")
        symptom = str(record.row.get("symptom") or "")
        if diagnosis:
            self._log_diagnosis(state, diagnosis)
        elif symptom and symptom != state.symptom:
            self._set_tags(state.run_id, {"diagnosis.symptom": symptom})
            state.symptom = symptom

    def _log_steps(self, state: RunState, record: Report) -> None:
        """Every step that the store doesn't have yet, whole steps per batch, so that `loss` tells how far it got."""
        history = sorted(record.row.get("history") or (), key=lambda entry: int(entry["step"]))
        spacing = (record.until_ms - record.since_ms) / max(len(history), 1)
        batch: list[Metric] = []
        tags: dict[str, str] = {}
        for index, entry in enumerate(history):
            if int(entry["step"]) <= state.last_step:
                continue
            metrics = list(metrics_of(entry, record.since_ms + round(spacing * (index + 1))))
            if len(batch) + len(metrics) > MAX_METRICS:
                self._log_batch(state, batch, tags)
                batch, tags = [], {}
            batch += metrics
            for key in MAY_FAIL:
                value = entry.get(key)
                if isinstance(value, float) and not math.isfinite(value):
                    tags.setdefault(f"non_finite.{key}", f"{value} at step {entry['step']}")
        self._log_batch(state, batch, tags)

    def _log_batch(self, state: RunState, batch: list[Metric], tags: dict[str, str]) -> None:
        if not batch:
            return
        from mlflow.entities import RunTag

        known = self._client.get_run(state.run_id).data.tags if tags else {}
        entities = [RunTag(key, value) for key, value in tags.items() if key not in known]
        self._client.log_batch(state.run_id, metrics=batch, tags=entities)
        state.last_step = batch[-1].step

    def _log_summary(self, state: RunState, record: Report) -> None:
        """best_val_top1 whenever it rises, so that its latest value is the run's; the speeds once a report.

        How busy the machine is, too; the images that don't decode whenever there are more.
        """
        row, step = record.row, int(record.row["step"])
        summary = {}
        best = row.get("best_val_top1")
        if best is not None and best > state.best:
            summary["best_val_top1"] = best
        if step > state.last_report:
            summary |= {key: row[key] for key in SPEEDS if row.get(key)} | (row.get(SYSTEM) or {})
        if len(row.get("quarantined") or ()) > state.quarantined:
            summary["quarantined"] = len(row["quarantined"])
            self._client.log_text(state.run_id, "\n".join(row["quarantined"]) + "\n", QUARANTINE_FILE)
        if summary:
            metrics = list(metrics_of({"step": step, **summary}, record.until_ms))
            self._client.log_batch(state.run_id, metrics=metrics)
        state.best = summary.get("best_val_top1", state.best)
        state.quarantined = summary.get("quarantined", state.quarantined)
        state.last_report = max(state.last_report, step)

    def _log_event(self, state: RunState, record: Report) -> None:
        """An event that the run goes on after: its story, what was done, and how often the run has gone back."""
        event, texts = record.row["event"], record.row.get("interventions") or ()
        stem = f"{EVENTS_FOLDER}/{event['number']:02d}"
        self._client.log_text(state.run_id, json.dumps(event, indent=1), f"{stem}.json")
        self._client.log_text(state.run_id, event_markdown(event), f"{stem}.md")
        if event["number"] > state.events:
            metrics = list(metrics_of({"step": record.row["step"], "rollbacks": event["rollbacks"]}, record.until_ms))
            self._client.log_batch(state.run_id, metrics=metrics)
        tags = {"diagnosis.events": event["number"], "diagnosis.interventions": "; ".join(texts) or "none"}
        self._set_tags(state.run_id, tags)
        self._mark_event(state, self._client.get_metric_history(state.run_id, "loss"), event)
        state.events = max(state.events, event["number"])

    def _log_diagnosis(self, state: RunState, diagnosis: Mapping[str, Any]) -> None:
        markdown = to_markdown(diagnosis)
        self._client.log_text(state.run_id, json.dumps(diagnosis, indent=1), DIAGNOSIS_FILE)
        self._client.log_text(state.run_id, markdown, "diagnosis.md")
        history = self._client.get_metric_history(state.run_id, "loss")
        loss = [(point.step, point.value) for point in sorted(history, key=lambda point: point.step)]
        with tempfile.TemporaryDirectory() as folder:
            image = Path(folder) / "loss.png"
            to_figure(diagnosis, loss).savefig(image, dpi=110)
            self._client.log_artifact(state.run_id, str(image))
        self._mark_event(state, history, diagnosis["symptom"])
        symptom, remedy = diagnosis["symptom"], remedy_text(diagnosis)
        tags = {
            "diagnosis.cause": diagnosis["cause"],
            "diagnosis.group": diagnosis["group"],
            "diagnosis.confidence": f"{diagnosis['confidence']:.2f}",
            "diagnosis.step": symptom["step"],
            "diagnosis.epoch": symptom["epoch"],
            "diagnosis.symptom": symptom["kind"],
            "diagnosis.remedy": remedy or "none",
            "diagnosis.verified": "true" if remedy else "false",
            NOTE: cut_markdown(markdown),
        }
        self._set_tags(state.run_id, tags)
        state.symptom = str(symptom["kind"])

    def _mark_event(self, state: RunState, loss: Sequence[Metric], event: Mapping[str, Any]) -> None:
        """Tell the losses from the event's onset to its alarm once more, by a name of their own.

        Where none of them is a number, it is the last one that was. Points at the same times change nothing.
        """
        from mlflow.entities import Metric

        numbers = [point for point in loss if math.isfinite(point.value) and point.step <= event["step"]]
        during = [point for point in numbers if point.step >= event["onset"]]
        marked = during or sorted(numbers, key=lambda point: point.step)[-1:]
        metrics = [Metric(EVENT_LOSS, point.value, point.timestamp, point.step) for point in marked]
        for start in range(0, len(metrics), MAX_METRICS):
            self._client.log_batch(state.run_id, metrics=metrics[start : start + MAX_METRICS])

    def _set_tags(self, run_id: str, tags: Mapping[str, object]) -> None:
        from mlflow.entities import RunTag

        entities = [RunTag(key, cut(str(value), MAX_TAG_CHARS)) for key, value in tags.items()]
        self._client.log_batch(run_id, tags=entities)

    def _end_trial(self, state: RunState, record: TrialEnd) -> None:
        tags = {"diagnosis.symptom": state.symptom or "none"}
        if record.error:
            tags["error"] = record.error
        self._set_tags(state.run_id, tags)
        self._client.set_terminated(state.run_id, record.status)

    def _end_sweep(self, record: SweepEnd) -> None:
        run_id, rows = self.parent_run_id or "", record.rows
        if rows:
            self._log_table(run_id, rows)
        self._client.set_terminated(run_id, record.status)

    def _log_table(self, run_id: str, rows: list[dict[str, Any]]) -> None:
        markdown = summary_markdown(rows)
        self._client.log_text(run_id, summary_csv(rows), "summary.csv")
        self._client.log_text(run_id, markdown, "summary.md")
        table, charts = view_link(self._experiment_id), view_link(self._experiment_id, charts=True)
        links = f"[{VIEW_NAME}]({table}), [their charts]({charts})"
        self._set_tags(run_id, {NOTE: cut_markdown(f"{links}\n\n{markdown}")})
        totals = {
            "best_val_top1": max(float(row.get("best_val_top1") or 0.0) for row in rows),
            "num_trials": len(rows),
            "num_symptoms": sum(bool(row.get("symptom")) for row in rows),
        }
        # A sweep that was interrupted has told its totals before, at fewer steps.
        step = max(sum(int(row.get("steps") or 0) for row in rows), last_step(self._client, run_id, "num_trials") + 1)
        self._client.log_batch(run_id, metrics=list(metrics_of({"step": step, **totals}, _now_ms())))


def _now_ms() -> int:
    return round(time.time() * 1000)
