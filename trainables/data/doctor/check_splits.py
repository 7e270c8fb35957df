"""Differences between train/ and val/ that preparing them in two ways makes, and a random split does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from trainables.data.doctor.facts import ImageFacts
from trainables.data.doctor.finding import Finding, Severity
from trainables.data.doctor.pixel_facts import PixelFacts
from trainables.data.doctor.statistics import ENOUGH, SURE, effect, of_pixels, share_of
from trainables.data.doctor.survey import Survey
from trainables.data.doctor.turned import turn_of
from trainables.data_config import DataConfig

LARGE = 0.5
"""Difference, in spreads of single images, that is worth a warning: a middling effect by Cohen's rule of thumb. The
splits of the digits and of the photos of clothing stay below 0.15."""
SIZE_RATIO = 1.5
"""Of the median short sides."""
SQUARE_SHARE, FORMAT_SHARE, GREY_SHARE = 0.5, 0.5, 0.25
"""Difference of the shares of square images, of JPEGs, and of grey ones."""
QUALITY = 15.0
"""Difference of the median JPEG qualities: a judgement; what programs save by default (75 to 85) stays within it."""
MAX_SHOWN = 6
"""Images of val/ that stand for all of it."""
REMEDY = "prepare both splits by the same steps"


def check_splits(survey: Survey, _: DataConfig) -> Iterator[Finding]:
    """Findings `negative` and `split_...`: pixels, size, shape, format, quality, grey."""
    if min(len(part.shown) for part in survey.splits) < ENOUGH:
        return
    if turn_of(survey) == "negative":
        summary = "brightness and colours of val/ are those of a negative of train/"
        yield _whole(survey, "negative", summary, "look at some of both, and invert those that are negatives")
    yield from _pixels(survey)
    yield from _size(survey)
    yield from _share(survey, "split_shape", "square", SQUARE_SHARE, _is_square)
    yield from _share(survey, "split_format", "JPEG", FORMAT_SHARE, lambda one: one.format == "JPEG")
    yield from _share(survey, "split_grey", "grey", GREY_SHARE, _is_grey)
    yield from _quality(survey)


def _pixels(survey: Survey) -> Iterator[Finding]:
    """One finding for all figures, since most ways to spoil pixels move several."""
    moved, largest = [], 0.0
    for what, figure in _figures(survey):
        train, val = (of_pixels(part, figure) for part in survey.splits)
        size, errors = effect(train, val)
        if abs(errors) >= SURE:
            moved.append(f"{what} {train.mean():.3f} in train/ and {val.mean():.3f} in val/")
            largest = max(largest, abs(size))
    if moved:
        severity: Severity = "warning" if largest >= LARGE else "info"
        summary = f"{'; '.join(moved)} ({largest:.1f} times the spread of single images)"
        yield _whole(survey, "split_pixels", summary, REMEDY, severity)


def _figures(survey: Survey) -> Iterator[tuple[str, Callable[[PixelFacts], float]]]:
    """What is compared; not what another finding explains."""
    turn, grey = turn_of(survey), [share_of(part, _is_grey) for part in survey.splits]
    same_colours = abs(grey[0] - grey[1]) < GREY_SHARE
    if turn != "negative":
        yield "brightness", _brightness
    if same_colours and not turn:
        yield "excess of red over blue", lambda pixels: pixels.mean[0] - pixels.mean[2]
    if same_colours:
        yield "contrast", lambda pixels: sum(pixels.std) / 3
    if not _differ_in_size(*_short_sides(survey)):
        yield "difference of neighbouring pixels, in spreads of an image,", lambda pixels: pixels.detail


def _size(survey: Survey) -> Iterator[Finding]:
    train, val = _short_sides(survey)
    if _differ_in_size(train, val):
        summary = f"the median short side is {train:.0f} px in train/ and {val:.0f} px in val/"
        yield _whole(survey, "split_size", summary, REMEDY)


def _short_sides(survey: Survey) -> tuple[float, float]:
    """Median of train/ and of val/, in pixels."""
    train, val = (float(np.median(of_pixels(part, _short_side))) for part in survey.splits)
    return train, val


def _differ_in_size(train: float, val: float) -> bool:
    return max(train, val) >= SIZE_RATIO * min(train, val)


def _share(
    survey: Survey, check: str, what: str, limit: float, rule: Callable[[ImageFacts], bool]
) -> Iterator[Finding]:
    train, val = (share_of(part, rule) for part in survey.splits)
    if abs(train - val) >= limit:
        summary = f"{100 * train:.0f} % of train/ and {100 * val:.0f} % of val/ are {what}"
        yield _whole(survey, check, summary, REMEDY)


def _quality(survey: Survey) -> Iterator[Finding]:
    both = [[one.quality for one in part.shown if one.quality is not None] for part in survey.splits]
    if min(map(len, both)) < ENOUGH:
        return
    train, val = (float(np.median(qualities)) for qualities in both)
    if abs(train - val) >= QUALITY:
        summary = f"the median JPEG quality is {train:.0f} in train/ and {val:.0f} in val/"
        yield _whole(survey, "split_quality", summary, REMEDY)


def _whole(survey: Survey, check: str, summary: str, remedy: str, severity: Severity = "warning") -> Finding:
    """A finding about all of val/: the smaller split, and the one whose figures it distorts."""
    files = survey.val.files(survey.val.shown[:MAX_SHOWN])
    return Finding(check, severity, summary, remedy, tuple(files), len(survey.val.shown))


def _brightness(pixels: PixelFacts) -> float:
    return sum(pixels.mean) / 3


def _short_side(pixels: PixelFacts) -> float:
    return min(pixels.width, pixels.height)


def _is_square(one: ImageFacts) -> bool:
    return one.pixels is not None and one.pixels.width == one.pixels.height


def _is_grey(one: ImageFacts) -> bool:
    return one.pixels is not None and one.pixels.grey
