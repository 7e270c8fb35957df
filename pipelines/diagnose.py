"""`epoch14 diagnose`: logs of other people's trainings -> what went wrong, as far as a log can tell."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rich.table import Table as ShownTable

from infra.event_files import event_files, read_event_files
from infra.tracking_metrics import read_run, run_id_of
from pipelines.sparkline import sparkline
from trainables.errors import ConfigError, DataError, complaint
from trainables.runlog.files import READABLE, read_file
from trainables.runlog.finding import Finding, diagnose_log
from trainables.runlog.names import ALLOWED
from trainables.runlog.runs import runs_of
from trainables.runlog.table import Table

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_WIDTH = 110
"""Columns where there is no terminal to ask."""
SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".gz")
KNOWN = ("metrics.csv", "trainer_state.json", "summary.csv", "training.log", "metrics.jsonl", "log.jsonl", "log.txt")
"""Files in which Lightning, Transformers, timm and others keep a folder's log."""
MOST_SHOWN = 12
"""Symptoms of a run that are printed; `--json` has all."""
LIMITS = (
    "A log holds no batches and no weights, so nothing was replayed: these are candidates, not causes. Replay would "
    "settle it: run the config under `epoch14 sweep` or `epoch14 train`, or put a SpikeGuard around your own step."
)


def diagnose(word: str, *, uri: str, num_classes: int | None = None, columns: Sequence[str] = ()) -> list[Finding]:
    """What is found in each run of a file, a folder of event files, or an MLflow run (`runs:/ID`, ID or a trial).

    Raises ConfigError or DataError for what can't be read, TrackingError if the store at `uri` can't.
    """
    by_hand = parse_columns(columns)
    table = _read(word, uri, by_hand)
    if not table.height or not table.columns:
        raise DataError(complaint("PATH_OR_RUN", word, "a log with rows (this one has none)", "name another log"))
    name = Path(word).name or word
    return [diagnose_log(log, num_classes) for log in runs_of(table, by_hand, name)]


def parse_columns(pairs: Sequence[str]) -> dict[str, str]:
    """`["loss=my_loss"]` -> `{"loss": "my_loss"}`; raises ConfigError."""
    found = {}
    for pair in pairs:
        role, separator, column = pair.partition("=")
        if not separator or not column or role not in ALLOWED:
            allowed = f"NAME=COLUMN with NAME one of {', '.join(ALLOWED)}"
            raise ConfigError(complaint("--column", pair, allowed, "write it so, as --column loss=my_loss"))
        found[role] = column
    return found


def print_json(findings: Sequence[Finding], output: TextIO) -> None:
    """One object a line."""
    output.writelines(json.dumps(finding.to_dict(), allow_nan=False) + "\n" for finding in findings)


def print_findings(findings: Sequence[Finding], console: Console) -> None:
    """A table first where there are several runs, then the story of each that has a symptom."""
    if not console.is_terminal:
        console.width = max(console.width, PLAIN_WIDTH)
    if len(findings) > 1:
        console.print(_overview(findings))
        ill = [finding for finding in findings if finding.symptoms]
        _say(console, f"{len(findings)} runs, {len(ill)} with symptoms")
    for finding in findings:
        if finding.symptoms or len(findings) == 1:
            console.print()
            for line in story(finding):
                _say(console, line)
    if any(finding.symptoms for finding in findings):
        console.print()
        _say(console, LIMITS)


def story(finding: Finding) -> list[str]:
    """One run in lines: its loss, its timeline, what speaks for which cause, what the log lacks."""
    points = sum(len(part.steps) for part in finding.parts)
    lines = [f"run      {finding.run}  ({points} points, steps {_range(finding)})"]
    for part in finding.parts:
        steps = part.steps.tolist()
        inside = [event.step for event in finding.symptoms if steps[0] <= event.step <= steps[-1]]
        line, marks = sparkline(part.loss, [part.position(step) for step in inside])
        lines += [f"loss     {line}", f"         {marks}"] if marks else [f"loss     {line}"]
    lines.append("timeline" if finding.symptoms else "timeline no symptom")
    for event in finding.symptoms[:MOST_SHOWN]:
        until = f" to {event.end_step}" if event.end_step > event.step else ""
        lines.append(f"  step {event.step}{until}: {event.kind}, severity {event.severity:.1f}; {event.detail}")
    if len(finding.symptoms) > MOST_SHOWN:
        lines.append(f"  and {len(finding.symptoms) - MOST_SHOWN} more (--json has all)")
    if finding.symptoms:
        lines.append(f"verdict  {finding.verdict}")
    if finding.causes:
        lines.append("candidate causes")
    for cause in finding.causes:
        lines.append(f"  {cause.cause} ({cause.group}), confidence {cause.confidence:.2f}: {cause.evidence}")
        lines.append(f"    a replay that would settle it: {cause.replay}")
    return lines + [f"note     {note}" for note in finding.notes]


def _range(finding: Finding) -> str:
    return f"{min(int(part.steps.min()) for part in finding.parts)} to {max(int(p.steps.max()) for p in finding.parts)}"


def _overview(findings: Sequence[Finding]) -> ShownTable:
    table = ShownTable("run", "points", "symptoms", "first", "verdict", box=None, pad_edge=False)
    table.columns[0].overflow = "fold"
    for finding in findings:
        first = finding.symptoms[0] if finding.symptoms else None
        shown = f"{first.kind} at step {first.step}" if first else "-"
        points = sum(len(part.steps) for part in finding.parts)
        cells = (finding.run, str(points), str(len(finding.symptoms)), shown, finding.verdict if first else "-")
        table.add_row(*(cell.replace("[", r"\[") for cell in cells))
    return table


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _read(word: str, uri: str, by_hand: Mapping[str, str]) -> Table:
    path = Path(word).expanduser()
    if not word.startswith("runs:/") and path.exists():
        if event_files(path):
            return read_event_files(path)
        return read_file(_log_in(path) if path.is_dir() else path)
    if run_id_of(word) or not _is_path(word):
        return read_run(uri, word, tuple(by_hand.values()))
    allowed = f"{READABLE}; there is no such file"
    raise ConfigError(complaint("PATH_OR_RUN", word, allowed, "name a log that exists"))


def _is_path(word: str) -> bool:
    return "/" in word or word.startswith((".", "~")) or Path(word).suffix.lower() in (*SUFFIXES, ".txt", ".log")


def _log_in(folder: Path) -> Path:
    """The one log in a folder."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.suffix.lower() in SUFFIXES)
    known = [folder / name for name in KNOWN if (folder / name).is_file()]
    if len(known) == 1 or len(files) == 1:
        return (known or files)[0]
    listed = ", ".join(file.name for file in (known or files)[:6]) or "no log"
    allowed = f"a folder with event files, or with one log (this one has {listed})"
    raise ConfigError(complaint("PATH_OR_RUN", str(folder), allowed, "name one file"))
