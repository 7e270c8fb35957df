"""What a sweep found: the final table, and below it the answer in a sentence or two."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from infra.explanation import percent, plain
from infra.tracking import default_tracking_uri, without_password

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pipelines.sweep import SweepResult, TrialRow

PLAIN_WIDTH = 100
"""Columns where there is no terminal to ask."""
HEALTHY = "none"
NOTHING = "-"


def print_report(result: SweepResult, console: Console) -> None:
    """Print table, answer, errors, and where to read on; on fewer columns config and remedy wrap, nothing is cut."""
    if not console.is_terminal:
        console.width = max(console.width, PLAIN_WIDTH)
    console.print(final_table(result.rows))
    console.print(answer(result.rows), markup=False, highlight=False)
    for row in result.rows:
        if row.status == "failed":
            console.print(f"{short_ids(result.rows)[row.trial_id]} failed: {row.error}", markup=False, highlight=False)
        if row.siblings:
            console.print(
                f"{short_ids(result.rows)[row.trial_id]}: {plain(row.siblings)}", markup=False, highlight=False
            )
        if row.interventions:
            went_on = f"{short_ids(result.rows)[row.trial_id]} went back and on with {plain(row.interventions)}"
            console.print(went_on, markup=False, highlight=False)
    for line in _where_next(result):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def final_table(rows: Sequence[TrialRow]) -> Table:
    """One line a trial: trial, config, best val top-1, symptom, cause, confidence, verified remedy."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    names = short_ids(rows)
    table.add_column("trial", no_wrap=True)
    table.add_column("config", overflow="fold")
    table.add_column("best val\ntop-1", no_wrap=True, justify="right")
    table.add_column("symptom", no_wrap=True)
    table.add_column("cause", no_wrap=True)
    table.add_column("confidence", no_wrap=True, justify="right")
    table.add_column("verified remedy", overflow="fold")
    for row in rows:
        cells = (
            names[row.trial_id],
            row.name,
            f"{100 * row.best_val_top1:.1f} %",
            _symptom(row),
            row.cause or NOTHING,
            percent(row.confidence) if row.cause else NOTHING,
            row.remedy if row.verified else NOTHING,
        )
        table.add_row(*(Text(plain(cell)) for cell in cells), style="bold" if row.symptom else "")
    return table


def answer(rows: Sequence[TrialRow]) -> str:
    """What the sweep found, in one or two sentences; a remedy is named only where a replay proved it."""
    if not rows:
        return "No trial ran."
    ill = [row for row in rows if row.symptom]
    healthy = healthy_rows(rows)
    count = Counter(row.status for row in rows)
    found = "no trial fell ill"
    if ill:
        causes = Counter(row.cause or "not diagnosed" for row in ill)
        named = ", ".join(f"{cause} ({n})" for cause, n in causes.most_common())
        found = f"{len(ill)} of {len(rows)} trials fell ill: {named}"
    parts = [found]
    if count["failed"]:
        parts.append(f"{count['failed']} failed with an error")
    if count["interrupted"]:
        parts.append(f"{count['interrupted']} did not come to an end")
    if healthy:
        best = max(healthy, key=lambda row: row.best_val_top1)
        which = "best healthy one" if ill else f"best of {len(healthy)}"
        parts.append(f"the {which} is {plain(best.name)} with a val top-1 of {100 * best.best_val_top1:.1f} %")
    elif not count["interrupted"]:
        parts.append("none stayed healthy")
    first = "; ".join(parts)
    sentences = [f"{first[0].upper()}{first[1:]}."]
    if ill:
        sentences.append(_remedies(ill))
    return " ".join(sentences)


def healthy_rows(rows: Sequence[TrialRow]) -> list[TrialRow]:
    """The trials that fell ill with nothing and raised nothing."""
    return [row for row in rows if not row.symptom and row.status in ("finished", "pruned")]


def short_ids(rows: Sequence[TrialRow]) -> dict[str, str]:
    """Trial id -> its place in the sweep (`00003`) where that tells the trials apart; `epoch14 explain` takes both."""
    places = {row.trial_id: row.trial_id.rpartition("_")[2] for row in rows}
    distinct = len(set(places.values())) == len(rows) and all(place.isdigit() for place in places.values())
    return places if distinct else {row.trial_id: row.trial_id for row in rows}


def _symptom(row: TrialRow) -> str:
    return row.symptom or (HEALTHY if row.status == "finished" else f"({row.status})")


def _remedies(ill: Sequence[TrialRow]) -> str:
    """The surest verified remedy of each cause."""
    proved = sorted((row for row in ill if row.verified and row.remedy), key=lambda row: -row.confidence)
    by_cause = {row.cause: row for row in reversed(proved)}
    if not by_cause:
        return "No replay proved a remedy."
    listed = "; ".join(f"for {cause}, {plain(row.remedy)}" for cause, row in reversed(by_cause.items()))
    return f"Proved by a replay: {listed}."


def _where_next(result: SweepResult) -> list[str]:
    local = result.tracking_uri == default_tracking_uri("outputs")
    option = "" if local else f" --uri {without_password(result.tracking_uri)}"
    lines = [f"the report: epoch14 report {shlex.quote(str(result.path))}{option}", f"records: epoch14 ui{option}"]
    ill = [row for row in result.rows if row.symptom]
    if ill:
        # Its place alone would be a later sweep's by then.
        lines.insert(0, f"the evidence: epoch14 explain {ill[0].trial_id}{option}")
    return lines
