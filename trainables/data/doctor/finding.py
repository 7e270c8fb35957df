"""What a check has to say, and how bad it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["ok", "info", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = ("info", "warning", "error")
"""From harmless to hopeless: worth knowing; likely to cost accuracy, or to make a figure wrong; sure to. A check of
an installation also says where all is well: ok."""

SplitName = Literal["train", "val"]

MAX_FILES = 20
"""Images that a finding names; it counts all."""
FEW = 0.001
"""Share of a split up to which odd images are an info. It can't move the tenth of a point to which a top-1 is told, and
good data sets have as many: of ImageNet's 1.28 million training images 22 are CMYK and one is a PNG named .JPEG
(TensorFlow's build_imagenet_data.py), and of 3,409 photos of clothing two are one picture under two classes."""
SOME = 0.01
"""The same where the odd images still teach something, such as small ones: a point of top-1."""


@dataclass(frozen=True)
class File:
    """One image that a finding is about."""

    split: SplitName
    place: int
    """In its split."""
    location: str
    """Where a person finds it, as `Store.locate` has it."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found, with the images that show it."""

    check: str
    """Its name, such as `truncated`; the same in every run."""
    severity: Severity
    summary: str
    """One line, with the figures."""
    remedy: str
    """One line; empty where there is nothing to do."""
    files: tuple[File, ...] = ()
    """The first MAX_FILES of them; images that belong together stand side by side."""
    count: int = 0
    """How many there are; 0 where the finding is about the set as a whole."""


def about(check: str, severity: Severity, summary: str, remedy: str, files: Iterable[File]) -> Finding:
    """A finding about these images, of which the first MAX_FILES are named."""
    listed = tuple(files)
    return Finding(check, severity, summary, remedy, listed[:MAX_FILES], len(listed))


def graded(count: int, total: int, limit: float, severity: Severity = "warning") -> Severity:
    """`severity` where `count` of `total` is a larger share than `limit`, else info."""
    return severity if count > limit * total else "info"


def at_least(findings: Iterable[Finding], severity: Severity) -> list[Finding]:
    """The findings that are as bad as `severity`, or worse, in their order."""
    bad = SEVERITIES[SEVERITIES.index(severity) :]
    return [finding for finding in findings if finding.severity in bad]
