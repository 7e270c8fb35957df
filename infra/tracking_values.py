"""What MLflow takes: values cut to its limits, metrics out of a row, the final table of a sweep."""

from __future__ import annotations

import csv
import getpass
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from infra.explanation import escape, percent

if TYPE_CHECKING:
    from mlflow.entities import Metric

MAX_METRICS = 1000
MAX_PARAMS = 100
MAX_NAME_CHARS = 250
MAX_PARAM_CHARS = 6000
MAX_TAG_CHARS = 8000
"""Limits of one log_batch call of MLflow 3, and of its values."""
CUT_NOTE = "\n\n(cut here; the whole is in the run's artifacts)"
SUMMARY_HEAD = ("trial", "config", "best val top-1", "symptom", "cause", "confidence", "verified remedy")


def cut(text: object, limit: int) -> str:
    """`text`, shortened to `limit` characters with an ellipsis."""
    whole = str(text)
    return whole if len(whole) <= limit else whole[: limit - 1] + "\N{HORIZONTAL ELLIPSIS}"


def cut_markdown(text: str) -> str:
    """Whole lines of `text` that fit into a tag, and a word on where the rest is."""
    if len(text) <= MAX_TAG_CHARS:
        return text
    room = MAX_TAG_CHARS - len(CUT_NOTE)
    end = text.rfind("\n", 0, room)
    return text[: end if end > 0 else room] + CUT_NOTE


def metrics_of(entry: Mapping[str, Any], time_ms: int) -> Iterator[Metric]:
    """Every number of one step; a list goes by index (`input_mean.0`).

    An infinity becomes NaN: SQL has none, and MLflow's stand-in of 1.8e308 flattens every chart.
    """
    from mlflow.entities import Metric

    for key, value in entry.items():
        values = {f"{key}.{index}": item for index, item in enumerate(value)} if isinstance(value, list | tuple) else {}
        for name, item in (values or {key: value}).items():
            if key != "step" and isinstance(item, int | float):
                number = float(item)
                finite = number - number == 0.0
                yield Metric(name, number if finite else float("nan"), time_ms, int(entry["step"]))


def summary_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as they are; MLflow's UI shows a CSV as a table."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: json.dumps(v) if isinstance(v, Mapping) else v for key, v in row.items()})
    return text.getvalue()


def summary_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The final table of a sweep."""
    lines = [f"| {' | '.join(SUMMARY_HEAD)} |", "|---|---|---:|---|---|---:|---|"]
    for row in rows:
        ill = bool(row.get("symptom"))
        cells = (
            escape(row.get("trial_id", "")),
            escape(row.get("name", "")),
            f"{100 * float(row.get('best_val_top1') or 0.0):.1f} %",
            escape(row["symptom"]) if ill else "none",
            escape(row.get("cause") or "-"),
            percent(row.get("confidence")) if row.get("cause") else "-",
            escape(row.get("remedy") or "-") if row.get("verified") else "-",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def user_name() -> str:
    """Who runs this; containers may have no name for their user."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
