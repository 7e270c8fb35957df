"""Files that are not what they seem: damaged, misnamed, turned, or in unusual colours."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from trainables.data.doctor.facts import ImageFacts
from trainables.data.doctor.finding import FEW, Finding, about, graded
from trainables.data.doctor.survey import SplitFacts, Survey
from trainables.data_config import DataConfig

FLAT_END = 0.1
"""Share of rows of one colour at the end of a JPEG from which its data seem to have stopped: none of 3,781 photos of
clothing has one such row, and cut in the middle they have 0.39 or more."""
Rule = Callable[[ImageFacts], bool]


def check_files(survey: Survey, _: DataConfig) -> Iterator[Finding]:
    """Findings `undecodable`, `truncated`, `misnamed`, `rotated`, `cmyk` and `alpha`."""
    for part in survey.splits:
        yield from _undecodable(part)
        yield from _odd(
            part,
            "truncated",
            _is_truncated,
            "end in rows of one colour, as JPEGs do whose data stop early",
            "copy them anew from their source",
        )
        yield from _odd(
            part,
            "misnamed",
            lambda one: bool(one.promised and one.format) and one.format != one.promised,
            "hold another format than their extension promises (read here by content; other readers go by name)",
            "rename them, or store them in the format that the others have",
        )
        yield from _odd(
            part,
            "rotated",
            lambda one: one.orientation > 1 and one.pixels is not None,
            "carry an EXIF orientation, which is not applied: the model sees them turned or mirrored",
            "turn the pixels and remove the mark, such as with `mogrify -auto-orient`",
        )
        yield from _odd(
            part,
            "cmyk",
            lambda one: one.mode == "CMYK",
            "are stored in CMYK, whose conversion to RGB without a colour profile shifts the colours",
            "convert them to RGB with their profile",
        )
        yield from _alpha(part)


def _is_truncated(one: ImageFacts) -> bool:
    """Where the mark of the end stands behind a gap, libjpeg fills the gap with the last colour."""
    return one.format == "JPEG" and one.pixels is not None and FLAT_END <= one.pixels.flat_end < 1.0


def _undecodable(part: SplitFacts) -> Iterator[Finding]:
    broken = [one for one in part.facts if one.pixels is None]
    if broken:
        instead = "other images of their class take their place" if part.name == "train" else "no score counts them"
        summary = f"{_of(broken, part)} don't decode: {instead}, up to data.max_quarantined of them"
        yield about("undecodable", "error", summary, "replace or remove them", part.files(broken))


def _odd(part: SplitFacts, check: str, rule: Rule, what: str, remedy: str) -> Iterator[Finding]:
    """Images that fit the rule: a warning from a share on that accuracy may feel."""
    odd = [one for one in part.facts if rule(one)]
    if odd:
        severity = graded(len(odd), len(part.facts), FEW)
        yield about(check, severity, f"{_of(odd, part)} {what}", remedy, part.files(odd))


def _alpha(part: SplitFacts) -> Iterator[Finding]:
    """Transparency, which may well be opaque throughout: an info."""
    clear = [one for one in part.facts if one.mode in ("RGBA", "LA", "PA")]
    if clear:
        summary = f"{_of(clear, part)} have an alpha channel, which is dropped: what was transparent shows its colour"
        yield about("alpha", "info", summary, "put them on a background if they are transparent", part.files(clear))


def _of(odd: list[ImageFacts], part: SplitFacts) -> str:
    return f"{len(odd)} of {len(part.facts)} images of {part.name}/"
