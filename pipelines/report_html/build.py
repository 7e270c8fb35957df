"""Reports made: of a sweep that the reader names, and at the end of every sweep, beside its records."""

from __future__ import annotations

import logging
import re
import shlex
from pathlib import Path

from infra.tracking import default_tracking_uri, without_password
from infra.tracking_sweeps import attach_report, read_sweep
from pipelines.config import SweepConfig
from pipelines.sweep_folder import SWEEP_FILE
from trainables.errors import ConfigError, complaint

log = logging.getLogger("epoch14.report")


def write_report(sweep: str, out: Path | None, storage: str, uri: str | None) -> Path:
    """Write the report of the sweep with this name, run id or folder; returns the file.

    Raises ConfigError, naming close ones, for a sweep that is unknown, or where the file can't be written;
    TrackingError if there is no store.
    """
    from pipelines.report_html.page import to_html

    word, store = _located(sweep, uri or default_tracking_uri(storage), given=uri is not None)
    recorded = read_sweep(store, word)
    file = out or Path(f"{re.sub(r'[^A-Za-z0-9_.-]', '_', recorded.name)}-report.html")
    text = to_html(recorded, uri_option(store))
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        allowed = f"a file that can be written ({error.strerror})"
        raise ConfigError(complaint("--out", str(file), allowed, "name another file")) from None
    return file


def attach(uri: str, run_id: str) -> None:
    """Add the report of a sweep that has ended to its run; a warning where that can't be, for the records are whole."""
    from pipelines.report_html.page import to_html

    try:
        attach_report(uri, run_id, to_html(read_sweep(uri, run_id), uri_option(uri)))
    except Exception as error:  # noqa: BLE001 - whatever it is, hours of training are not to end in it
        reason = " ".join(str(error).split())[:200]
        log.warning("report: not added to the sweep's run (%s); remedy: epoch14 report %s", reason, run_id)


def uri_option(uri: str) -> str:
    """What a command needs to find the store; empty for the default one."""
    return "" if uri == default_tracking_uri("outputs") else f" --uri {shlex.quote(without_password(uri))}"


def _located(sweep: str, uri: str, *, given: bool) -> tuple[str, str]:
    """(what the store knows the sweep by, the store): a sweep's folder names both."""
    folder = Path(sweep)
    if not sweep or not (folder / SWEEP_FILE).is_file():
        return sweep, uri
    name = folder.resolve().name
    return name, uri if given else SweepConfig.load(str(folder / SWEEP_FILE)).tracking_uri
