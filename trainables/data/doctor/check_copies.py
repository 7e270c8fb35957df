"""The same picture more than once: within a split, under two classes, or in both splits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trainables.data.doctor.finding import FEW, SOME, File, Finding, Severity, about, graded
from trainables.data.doctor.survey import Group, Survey
from trainables.data_config import DataConfig

LEAKED = 0.1
"""Share of val/ from which its figures say little: CIFAR-100 is known for as many (Barz and Denzler 2020 count 10 % of
its test images, and give a set without them)."""


def check_copies(survey: Survey, _: DataConfig) -> Iterator[Finding]:
    """Findings `duplicates`, `label_conflict` and `overlap`, and `near_...` for pictures that only look the same."""
    yield from _kind(survey, survey.copies, "", "the same bytes", "error")
    yield from _kind(survey, survey.lookalikes, "near_", "the same picture, stored anew or resized,", "warning")


def _kind(survey: Survey, groups: Sequence[Group], prefix: str, what: str, conflict: Severity) -> Iterator[Finding]:
    yield from _conflict(survey, groups, f"{prefix}label_conflict", what, conflict)
    yield from _overlap(survey, groups, f"{prefix}overlap", what)
    yield from _within(survey, groups, f"{prefix}duplicates", what)


def _conflict(survey: Survey, groups: Sequence[Group], check: str, what: str, worst: Severity) -> Iterator[Finding]:
    """One of the two labels is wrong, or the classes aren't apart."""
    torn = [group for group in groups if len({one.label for _, one in group}) > 1]
    files = [file for group in torn for file in _files(group)]
    if files:
        classes = survey.listing.classes
        pair = " and ".join(sorted({classes[one.label] for _, one in torn[0]})[:2])
        summary = f"{len(files)} images have {what} as one of another class (the first: {pair})"
        severity = graded(len(files), len(survey.images), FEW, worst)
        yield about(check, severity, summary, "keep each in the class where it belongs", files)


def _overlap(survey: Survey, groups: Sequence[Group], check: str, what: str) -> Iterator[Finding]:
    """Raises the figures of val/ by up to its share."""
    shared = [group for group in groups if len({part.name for part, _ in group}) > 1]
    leaked = sum(part.name == "val" for group in shared for part, _ in group)
    if leaked:
        total = len(survey.val.facts)
        share = 100 * leaked / total
        summary = f"{leaked} of {total} images of val/ have {what} in train/: their top-1 may be memory ({share:.1f} %)"
        files = [file for group in shared for file in _files(group)]
        severity: Severity = "error" if leaked > LEAKED * total else graded(leaked, total, FEW)
        yield about(check, severity, summary, "remove them from one of the two", files)


def _within(survey: Survey, groups: Sequence[Group], check: str, what: str) -> Iterator[Finding]:
    """Copies within a class weigh as often as they are there: little, unless they are many."""
    for part in survey.splits:
        inside = [[member for member in group if member[0] is part] for group in groups]
        same = [group for group in inside if len(group) > 1 and len({one.label for _, one in group}) == 1]
        spare = sum(len(group) - 1 for group in same)
        if spare:
            summary = f"{spare} of {len(part.facts)} images of {part.name}/ have {what} as another of their class"
            files = [file for group in same for file in _files(group)]
            severity = graded(spare, len(part.facts), SOME)
            yield about(check, severity, summary, "keep one of each, unless they are to weigh more", files)


def _files(group: Group) -> list[File]:
    return [file for part, one in group for file in part.files([one])]
