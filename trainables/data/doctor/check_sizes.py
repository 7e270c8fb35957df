"""Images that are smaller than the model's input, and those of odd size or shape."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from trainables.data.doctor.facts import ImageFacts
from trainables.data.doctor.finding import SOME, Finding, about, graded
from trainables.data.doctor.survey import SplitFacts, Survey
from trainables.data_config import DataConfig

MANY_ENLARGED = 0.1
"""Share of images below the input's size from which a smaller input would see as much."""
ELONGATED = 4.0
"""Long side over short side from which the middle that is cut shows a quarter of the image: photos of clothing have
2.34 at most."""
ODD_AREA = 16.0
"""Area over the median's, or the reverse: four times the side."""


def check_sizes(survey: Survey, data: DataConfig) -> Iterator[Finding]:
    """Findings `enlarged`, `elongated` and `odd_size`."""
    for part in survey.splits:
        if part.decoded:
            yield from _enlarged(part, data.image_size)
            yield from _elongated(part)
            yield from _odd_size(part)


def sides(facts: list[ImageFacts]) -> np.ndarray:
    """Width and height of decoded images, in pixels: int64 [n, 2]."""
    shown = [one.pixels for one in facts if one.pixels is not None]
    return np.array([(pixels.width, pixels.height) for pixels in shown], dtype=np.int64).reshape(-1, 2)


def _enlarged(part: SplitFacts, image_size: int) -> Iterator[Finding]:
    short = sides(part.decoded).min(1)
    below = [one for one, side in zip(part.decoded, short, strict=True) if side < image_size]
    if not below:
        return
    total, half = len(part.facts), int((2 * short <= image_size).sum())
    many = graded(len(below), total, MANY_ENLARGED) == "warning" or graded(half, total, SOME) == "warning"
    summary = f"{len(below)} of {total} images of {part.name}/ are smaller than image_size {image_size} ({half} by "
    summary += f"half or more; the smallest has {short.min()} px): they are enlarged, and blurred"
    remedy = f"lower image_size to {int(np.median(short))} or below, or use larger originals"
    yield about("enlarged", "warning" if many else "info", summary, remedy, part.files(below))


def _elongated(part: SplitFacts) -> Iterator[Finding]:
    both = sides(part.decoded)
    ratio = both.max(1) / both.min(1)
    odd = [one for one, value in zip(part.decoded, ratio, strict=True) if value >= ELONGATED]
    if odd:
        summary = f"{len(odd)} of {len(part.facts)} images of {part.name}/ are {ELONGATED:.0f} times as long as wide "
        summary += f"or more (up to {ratio.max():.1f}): evaluation sees their middle only"
        severity = graded(len(odd), len(part.facts), SOME)
        yield about("elongated", severity, summary, "cut or pad them, if they matter", part.files(odd))


def _odd_size(part: SplitFacts) -> Iterator[Finding]:
    """Harmless in itself, since images are resized; what it costs, `enlarged` and `elongated` tell."""
    area = sides(part.decoded).prod(1)
    median = float(np.median(area))
    factor = np.maximum(area / median, median / area)
    odd = [one for one, value in zip(part.decoded, factor, strict=True) if value >= ODD_AREA]
    if odd:
        summary = f"{len(odd)} of {len(part.facts)} images of {part.name}/ have {ODD_AREA:.0f} times the pixels of the "
        summary += "median image or more, or as much fewer"
        yield about("odd_size", "info", summary, "see whether they are thumbnails or scans", part.files(odd))
