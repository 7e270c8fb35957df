"""Channels in the wrong order, or grey images that give a class away."""

from __future__ import annotations

from collections.abc import Iterator

from trainables.data.doctor.facts import ImageFacts
from trainables.data.doctor.finding import Finding, about
from trainables.data.doctor.statistics import ENOUGH, of_pixels
from trainables.data.doctor.survey import SplitFacts, Survey
from trainables.data.doctor.turned import red_less_blue, turn_of
from trainables.data_config import DataConfig

BLUER_SHARE = 0.7
"""Share of images with more blue than red from which the order of channels is suspected. Of photos of clothing 0.15
have it, of the drawn digits none; ImageNet's means fall from red (0.485) to blue (0.406). Sets of sea or sky are an
exception, which the doctor can't know."""
BLUER_BY = 0.02
"""Least excess of the mean of blue over that of red, of pixels / 255: ImageNet's is -0.08."""
MOSTLY, RARELY = 0.9, 0.1
"""Share of grey images in a class, and in all others, from which colour gives the class away."""


def check_channels(survey: Survey, _: DataConfig) -> Iterator[Finding]:
    """Findings `channel_order` and `grey_class`, and `grey` for a mix as such."""
    yield from _channel_order(survey)
    yield from _grey(survey)


def _suspects(survey: Survey) -> list[SplitFacts]:
    """Splits whose channels seem to be in the order B, G, R: beside the other split, or else by themselves."""
    turn = turn_of(survey)
    if turn == "reversed":
        return [min(survey.splits, key=lambda part: float(red_less_blue(part).mean()))]
    return [] if turn else [part for part in survey.splits if _is_bluer(part)]


def _is_bluer(part: SplitFacts) -> bool:
    excess = -red_less_blue(part)
    coloured = excess[of_pixels(part, lambda pixels: pixels.grey) == 0]
    enough = len(coloured) >= max(ENOUGH, len(excess) / 2)
    return enough and float((coloured > 0).mean()) >= BLUER_SHARE and float(coloured.mean()) >= BLUER_BY


def _channel_order(survey: Survey) -> Iterator[Finding]:
    for part in _suspects(survey):
        red = float(of_pixels(part, lambda pixels: pixels.mean[0]).mean())
        blue = float(of_pixels(part, lambda pixels: pixels.mean[2]).mean())
        summary = f"{part.name}/ has more blue ({blue:.3f}) than red ({red:.3f}), as images have that were saved in "
        summary += "the order B, G, R"
        remedy = "look at some: where skin is blue, save them anew in RGB (OpenCV reads and writes BGR)"
        yield about("channel_order", "warning", summary, remedy, part.files(part.shown))


def _grey(survey: Survey) -> Iterator[Finding]:
    for part in survey.splits:
        grey = [one for one in part.shown if _is_grey(one)]
        told = [label for label in sorted({one.label for one in grey}) if _gives_away(part, grey, label)]
        for label in told:
            summary = f"the images of class {survey.listing.classes[label]!r} in {part.name}/ are grey, those of other "
            summary += "classes are not: a model may learn that instead of the class"
            files = part.files([one for one in grey if one.label == label])
            yield about("grey_class", "warning", summary, "use the same source for all classes, or only grey", files)
        if grey and not told:
            summary = f"{len(grey)} of {len(part.facts)} images of {part.name}/ are grey"
            yield about("grey", "info", summary, "", part.files(grey))


def _gives_away(part: SplitFacts, grey: list[ImageFacts], label: int) -> bool:
    own = sum(one.label == label for one in part.shown)
    grey_own = sum(one.label == label for one in grey)
    others = len(part.shown) - own
    return own >= ENOUGH <= others and grey_own >= MOSTLY * own and len(grey) - grey_own <= RARELY * others


def _is_grey(one: ImageFacts) -> bool:
    return one.pixels is not None and one.pixels.grey
