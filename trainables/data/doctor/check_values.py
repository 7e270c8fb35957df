"""Pixels that use little of the range: blank images, values of 0 to 1 stored as bytes, washed-out ones."""

from __future__ import annotations

from collections.abc import Iterator

from trainables.data.doctor.blank import is_blank, is_unit_range
from trainables.data.doctor.facts import ImageFacts
from trainables.data.doctor.finding import FEW, SOME, Finding, Severity, about, graded
from trainables.data.doctor.survey import SplitFacts, Survey
from trainables.data_config import DataConfig

FAINT_RANGE = 48
"""Levels between an image's least and greatest value below which it is faint: dim digits have 83 or more, photos of
clothing 132."""
CEILING = 192
"""Level that some image of any normal set passes: the dimmest of the digits stay at 100, the set reaches 249."""
ENOUGH = 20
"""Images from which the ceiling of a set is told."""
LOST = 0.5
"""Share of images of values 0 and 1 from which a split is hopeless."""


def check_values(survey: Survey, _: DataConfig) -> Iterator[Finding]:
    """Findings `blank`, `unit_range`, `ceiling` and `faint`."""
    for part in survey.splits:
        yield from _blank(part)
        yield from _unit_range(part)
        ceiling = list(_ceiling(part))
        yield from ceiling or _faint(part)


def _blank(part: SplitFacts) -> Iterator[Finding]:
    odd = [one for one in part.decoded if one.pixels is not None and is_blank(one.pixels)]
    if odd:
        summary = f"{_of(odd, part)} are of one colour, or black or white but for a hundredth: they show nothing"
        severity = graded(len(odd), len(part.facts), FEW)
        yield about("blank", severity, summary, "remove them, or find what they were", part.files(odd))


def _unit_range(part: SplitFacts) -> Iterator[Finding]:
    """Black to the eye and to the model."""
    odd = [one for one in part.decoded if one.pixels is not None and is_unit_range(one.pixels)]
    if odd:
        summary = f"{_of(odd, part)} hold only the levels 0 and 1 of 255: pixels that were divided by 255 before saving"
        total = len(part.facts)
        severity: Severity = "error" if len(odd) > LOST * total else graded(len(odd), total, FEW)
        remedy = "store them anew as uint8 0..255; what was rounded away is lost"
        yield about("unit_range", severity, summary, remedy, part.files(odd))


def _ceiling(part: SplitFacts) -> Iterator[Finding]:
    """A scale that is wrong for the whole split, such as 7 bits stored as 8, where each image alone may look normal."""
    highest = max((one.pixels.high for one in part.shown if one.pixels is not None), default=255)
    if len(part.shown) >= ENOUGH and highest < CEILING:
        summary = f"no image of {part.name}/ passes the level {highest} of 255: a scale that was wrong in all of them"
        yield about("ceiling", "warning", summary, "store them anew in the full range", part.files(part.shown))


def _faint(part: SplitFacts) -> Iterator[Finding]:
    odd = [one for one in part.shown if one.pixels is not None and one.pixels.high - one.pixels.low < FAINT_RANGE]
    if odd:
        summary = f"{_of(odd, part)} use fewer than {FAINT_RANGE} of the 256 levels"
        remedy = "see whether a scaling, or 16 bits with 12 in use, made them so"
        severity = graded(len(odd), len(part.facts), SOME)
        yield about("faint", severity, summary, remedy, part.files(odd))


def _of(odd: list[ImageFacts], part: SplitFacts) -> str:
    return f"{len(odd)} of {len(part.facts)} images of {part.name}/"
