"""`epoch14 doctor`: examine a data set, show what was found, and write it down."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from infra.explanation import plain
from pipelines.progress.pace import Every, duration
from trainables.data.doctor.examine import findings_of
from trainables.data.doctor.finding import Finding, Severity, at_least
from trainables.data.doctor.survey import Survey, survey
from trainables.data.index import list_images
from trainables.data.spacing import usable_threads
from trainables.data_config import DataConfig, NormalizationName
from trainables.errors import ConfigError, complaint

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PLAIN_WIDTH = 100
"""Columns where there is no terminal to ask."""
LINE_EVERY_S = 10.0
"""Between two lines of progress where there is no terminal."""
SHOWN_FILES = 3
"""Images that are named below the table for each finding."""


@dataclass(frozen=True)
class Examination:
    """What the doctor saw of a data set, and thinks of it."""

    path: str
    """As it was given."""
    survey: Survey
    findings: list[Finding]
    """The worst first."""

    def is_as_bad_as(self, severity: Severity) -> bool:
        """Whether there is a finding of this severity or a worse one."""
        return bool(at_least(self.findings, severity))


def data_config(path: str, normalization: str, image_size: int) -> DataConfig:
    """The part of a config that the doctor needs; raises ConfigError."""
    names = get_args(NormalizationName)
    if normalization not in names:
        raise ConfigError(complaint("--normalization", normalization, ", ".join(names), "choose one of these"))
    return DataConfig.parse({"path": path, "normalization": normalization, "image_size": image_size})


def examine_data(data: DataConfig, *, limit: int | None, progress: Callable[[int, int], None]) -> Examination:
    """List and examine a data set; raises DataError where it can't be listed."""
    import torch

    # Images are decoded side by side; torch's own threads would only wait for each other.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seen = survey(list_images(data.path), limit=limit, threads=usable_threads(), progress=progress)
    finally:
        torch.set_num_threads(before)
    return Examination(data.path, seen, findings_of(seen, data))


def print_findings(examination: Examination, console: Console) -> None:
    """Print what was read, a table of the findings, and a sentence; nothing is cut, and names are no markup."""
    console.print(plain(read_images(examination)), markup=False, highlight=False, soft_wrap=not console.is_terminal)
    print_table(examination.findings, console)
    for line in (line for finding in examination.findings for line in _examples(finding)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(verdict(examination.findings), markup=False, highlight=False)


def print_table(findings: list[Finding], console: Console) -> None:
    """Print the findings alone; where there is no terminal to ask, at PLAIN_WIDTH or more."""
    if not console.is_terminal:
        console.width = max(console.width, PLAIN_WIDTH)
    console.print(_table(findings))


def read_images(examination: Examination) -> str:
    """Which data set, and how many images of it were read."""
    seen = examination.survey
    parts = [f"{len(part.facts)} of {len(part.split)} images of {part.name}/" for part in seen.splits]
    return f"{examination.path}: {' and '.join(parts)} were read, {len(seen.listing.classes)} classes"


def verdict(findings: list[Finding]) -> str:
    """One sentence."""
    errors, worse = len(at_least(findings, "error")), len(at_least(findings, "warning"))
    if not worse:
        return "Nothing above info was found."
    return f"Found: {_counted(errors, 'error')}, {_counted(worse - errors, 'warning')}."


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def write_files(examination: Examination, json_file: Path | None, html_file: Path | None) -> None:
    """Write what was asked for; raises ConfigError where a file can't be written."""
    if json_file is not None:
        write_json(examination, json_file)
    if html_file is not None:
        from pipelines.doctor_html import write_html

        write_html(examination, html_file)


def write_json(examination: Examination, file: Path) -> None:
    """Write the findings as JSON; raises ConfigError where the file can't be written."""
    seen = examination.survey
    content = {
        "path": examination.path,
        "root": seen.listing.root,
        "images": {part.name: {"read": len(part.facts), "listed": len(part.split)} for part in seen.splits},
        "findings": [asdict(finding) for finding in examination.findings],
    }
    write_text(file, json.dumps(content, indent=2) + "\n", "--json")


def write_text(file: Path, text: str, option: str) -> None:
    """Write a file that an option names; raises ConfigError where that can't be."""
    try:
        # A name of a file may hold bytes that are no UTF-8.
        file.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        allowed = f"a file that can be written ({error.strerror})"
        raise ConfigError(complaint(option, str(file), allowed, "name another file")) from None


def check_writable(file: Path | None, option: str) -> None:
    """Raise ConfigError, before minutes are spent, where a file can't be made."""
    if file is not None and (file.is_dir() or not os.access(file.parent, os.W_OK)):
        allowed = "a file in a folder that is there and can be written"
        raise ConfigError(complaint(option, str(file), allowed, "make the folder, or name another file"))


@contextmanager
def shown_progress(console: Console) -> Iterator[Callable[[int, int], None]]:
    """Show the images done and the time left: a bar on a terminal, else a line now and then."""
    if not console.is_terminal:
        yield _Lines(console).tell
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("left"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("images", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class _Lines:
    """Progress in a log: nothing for a short pass."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._every = Every(LINE_EVERY_S, time.monotonic)

    def tell(self, done: int, total: int) -> None:
        if self._every.due() and done < total:
            left = duration(self._every.elapsed * (total - done) / done)
            line = f"{done} of {total} images; about {left} left"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _table(findings: list[Finding]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    styles = {"error": "bold red", "warning": "bold yellow", "info": "", "ok": "green"}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("severity", no_wrap=True)
    table.add_column("check", no_wrap=True)
    table.add_column("what was found", overflow="fold")
    table.add_column("remedy", overflow="fold")
    for finding in findings:
        severity = Text(finding.severity, style=styles[finding.severity])
        table.add_row(severity, Text(finding.check), Text(plain(finding.summary)), Text(plain(finding.remedy or "-")))
    return table


def _examples(finding: Finding) -> list[str]:
    """Some of its images; none where only how many there are is of interest."""
    if finding.severity == "info" or not finding.files:
        return []
    shown = [plain(file.location) for file in finding.files[:SHOWN_FILES]]
    more = finding.count - len(shown)
    return [f"{finding.check}: {name}" for name in (*shown, *([f"and {more} more"] if more else []))]
