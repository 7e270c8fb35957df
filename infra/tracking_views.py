"""A view of the trials that MLflow's UI lists under `Views`: causes in the table, the event on the loss in the charts.

MLflow 3.17 keeps such a view as a tag of the experiment, in the form of its own `Save view`. By default it folds trials
away below their sweep, shows none of their tags, and draws every metric by its name's place in the alphabet.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

VIEW = "epoch14-trials"
"""The view's id in an address."""
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
VIEW_NAME = "Trials by cause"
EVENT_LOSS = "event/loss"
"""Metric that has the loss's values from an event's onset to its alarm, and no others."""
TRIALS_ONLY = "tags.`epoch14.kind` = 'trial'"
RUNS_SHOWN = 20
"""Runs that the charts draw at first."""
CHARTS_ABREAST = 2
FACTOR_SECTION = "Factors"
"""Its one chart, the parallel coordinates, has the whole width."""
WIDTHS = {"tags.`diagnosis.cause`": 160, "tags.`diagnosis.remedy`": 320}
"""Columns wider than MLflow makes them, in pixels."""
COLUMNS = (
    *("tags.`diagnosis.cause`", "tags.`diagnosis.confidence`", "tags.`diagnosis.verified`", "tags.`diagnosis.remedy`"),
    *("metrics.`best_val_top1`", "tags.`epoch14.changed`"),
)
SECTIONS: Mapping[str, Sequence[tuple[str, ...]]] = {
    "Event": (("loss", EVENT_LOSS), ("lr",)),
    "Course": (("grad_norm",), ("update_ratio",), ("bn_drift",), ("val_top1",)),
}
"""Section of the charts -> metrics of each of its charts; dots mark the steps of EVENT_LOSS."""
FACTORS = ("model.norm", "schedule.kind", "global_batch_size", "optim.lr")
"""Axes of the parallel coordinates, before the result."""


def view_value(created_ms: int) -> str:
    """Value of the tag VIEW_TAG; `created_ms` (since 1970) is when the view was made."""
    view = {"name": VIEW_NAME, "createdAt": created_ms, "updatedAt": created_ms, "state": json.dumps(_state())}
    return json.dumps(view)


def view_link(experiment_id: str, *, charts: bool = False) -> str:
    """The view's address below an MLflow server's own."""
    mode = "&compareRunsMode=CHART" if charts else ""
    # Without the workflow MLflow opens on its pages for language models.
    return f"#/experiments/{experiment_id}/runs?workflowType=machine_learning{mode}&viewStateShareKey={VIEW}"


def _state() -> dict[str, Any]:
    sections = [*SECTIONS, FACTOR_SECTION]
    charts = [_line(name, metrics) for name, section in SECTIONS.items() for metrics in section]
    return {
        "searchFilter": TRIALS_ONLY,
        # Any order but by time: that one folds the trials away below their sweep.
        "orderByKey": COLUMNS[0],
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(COLUMNS),
        "columnOrder": list(COLUMNS),
        "columnWidths": WIDTHS,
        "runsHiddenMode": f"FIRST_{RUNS_SHOWN}_RUNS",
        "compareRunCharts": [*charts, _parallel(FACTOR_SECTION)],
        "compareRunSections": [_section(name) for name in sections],
        "isAccordionReordered": True,
        "hideEmptyCharts": True,
        "useGroupedValuesInCharts": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }


def _section(name: str) -> dict[str, Any]:
    abreast = 1 if name == FACTOR_SECTION else CHARTS_ABREAST
    section = {"uuid": name, "name": name, "display": True, "columns": abreast}
    return section | {"isReordered": True, "deleted": False, "isGenerated": False}


def _line(section: str, metrics: tuple[str, ...]) -> dict[str, Any]:
    return _card("LINE", section, " and ".join(metrics)) | {
        "metricKey": metrics[0],
        "selectedMetricKeys": list(metrics),
        "lineSmoothness": 0,
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "range": {},
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }


def _parallel(section: str) -> dict[str, Any]:
    factors = {"selectedParams": list(FACTORS), "selectedMetrics": ["best_val_top1"], "showAllRuns": False}
    return _card("PARALLEL", section, "settings and what came of them") | factors


def _card(kind: str, section: str, title: str) -> dict[str, Any]:
    card = {"uuid": f"{section}: {title}", "type": kind, "metricSectionId": section, "displayName": title}
    return card | {"runsCountToCompare": RUNS_SHOWN, "deleted": False, "isGenerated": False}
