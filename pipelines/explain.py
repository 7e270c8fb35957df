"""`epoch14 explain`: the story of one trial, as the tracking store has it, in the terminal."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, ClassVar, TextIO

from rich.markdown import Markdown, MarkdownElement, TableElement
from rich.table import Table

from infra.explanation import escape, event_markdown, plain, to_markdown
from infra.tracking_search import TrialRecord, find_trial
from pipelines.json_text import print_json

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

PLAIN_WIDTH = 100
"""Columns where there is no terminal to ask."""


class FoldingTable(TableElement):
    """A Markdown table whose cells lose no letter in a narrow terminal."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for part in super().__rich_console__(console, options):
            if isinstance(part, Table):
                for column in part.columns:
                    column.overflow = "fold"
            yield part


class Story(Markdown):
    """Markdown with folding tables."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {**Markdown.elements, "table_open": FoldingTable}


def explain(trial: str, uri: str, console: Console) -> None:
    """Print why a trial went wrong, and the evidence; `trial` is a trial id, a run name or a run id.

    Raises ConfigError, naming close ones, for a trial that is unknown; TrackingError if there is no store.
    """
    record = find_trial(uri, trial)
    if not console.is_terminal:
        console.width = max(console.width, PLAIN_WIDTH)
    for line in _head(record):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print()
    for event in record.events:
        console.print(Story(event_markdown(event)))
    if record.siblings:
        console.print(Story(f"**Siblings:** {escape(record.siblings)}."))
    if record.diagnosis is not None:
        console.print(Story(to_markdown(record.diagnosis)))
    else:
        console.print(_without_diagnosis(record), markup=False, highlight=False)


def explain_as_json(trial: str, uri: str, output: TextIO) -> None:
    """Write what `explain` tells as one JSON object: the record of the trial, its diagnosis as it is stored.

    A number that is not finite is null. Raises as `explain` does.
    """
    print_json(asdict(find_trial(uri, trial)), output)


def _head(record: TrialRecord) -> list[str]:
    lines = [
        f"trial   {plain(record.trial_id)}  {plain(record.name)}",
        f"sweep   {plain(record.sweep)}",
        f"config  {plain(record.changed)}",
        f"MLflow  run {record.run_id}, {record.status}",
    ]
    if record.namesakes:
        lines.append(f"        the newest of {record.namesakes + 1} trials that this fits; others go by their trial id")
    return lines


def _without_diagnosis(record: TrialRecord) -> str:
    steps = "no step yet" if record.last_step is None else f"last step {record.last_step}"
    best = "not evaluated" if record.best_val_top1 is None else f"best val top-1 {100 * record.best_val_top1:.1f} %"
    if record.symptom:
        return f"{record.symptom}: the trial was stopped, and no diagnosis was written ({steps}, {best})."
    state = {"FINISHED": "Healthy: no symptom", "RUNNING": "Still running, no symptom so far"}
    failed = {"FAILED": "Failed with an error, no symptom before it", "KILLED": "Stopped early, no symptom"}
    return f"{(state | failed).get(record.status, record.status)} ({steps}, {best})."
