"""Findings of an installation out of errors: each line says what is wrong and, after the last mark, the remedy."""

from __future__ import annotations

from trainables.data.doctor.finding import Finding, Severity
from trainables.errors import Epoch14Error

_MARK = "; remedy: "


def of_error(check: str, error: Epoch14Error, severity: Severity = "error") -> Finding:
    """The finding that an error of epoch14 stands for."""
    summary, _, remedy = str(error).rpartition(_MARK)
    return Finding(check, severity, summary or str(error), remedy if summary else "")


def ok(check: str, summary: str) -> Finding:
    """A check that passed."""
    return Finding(check, "ok", summary, "")
