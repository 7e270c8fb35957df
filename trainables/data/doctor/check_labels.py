"""How many images each class has, in either split; read off the names, so that no limit plays a part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from trainables.data.doctor.finding import Finding
from trainables.data.doctor.survey import Survey
from trainables.data_config import DataConfig

FEW_IMAGES = 10
"""Training images below which a class is hardly learned from nothing: a judgement, as no set here has so few."""
IMBALANCE = 20.0
"""Largest class over the smallest from which top-1 tells little of small classes: the photos of clothing have 7, the
long-tailed sets of Cui et al. (2019) 10 to 200."""
SHIFT = 0.25
"""Total variation between the shares of the classes in train/ and val/ that is worth knowing."""


def check_labels(survey: Survey, _: DataConfig) -> Iterator[Finding]:
    """Findings `absent_from_val`, `few_images`, `imbalance`, `class_shares` and `classes`."""
    listing = survey.listing
    train, val = (np.bincount(split.labels, minlength=len(listing.classes)) for split in (listing.train, listing.val))
    absent = _named(listing.classes, np.flatnonzero(val == 0))
    if absent:
        summary = f"{absent} in train/ and not in val/: whether they are learned is not seen"
        yield Finding("absent_from_val", "warning", summary, "add images of them to val/")
    small = _named(listing.classes, np.flatnonzero(train < FEW_IMAGES))
    if small:
        summary = f"{small} with fewer than {FEW_IMAGES} images in train/"
        yield Finding("few_images", "warning", summary, "add images, or leave the class out")
    ratio = float(train.max() / train.min())
    if ratio >= IMBALANCE:
        most, least = (listing.classes[int(place)] for place in (train.argmax(), train.argmin()))
        summary = f"the largest class of train/ ({most!r}) has {ratio:.0f} times the images of the smallest ({least!r})"
        yield Finding("imbalance", "warning", summary, "look at each class's accuracy, not at top-1 alone")
    moved = float(np.abs(train / train.sum() - val / val.sum()).sum() / 2)
    if moved >= SHIFT:
        summary = f"{100 * moved:.0f} % of val/ would have to change class to have the class shares of train/"
        yield Finding("class_shares", "info", summary, "none, where val/ is balanced on purpose")
    summary = f"{len(listing.classes)} classes of {train.min()} to {train.max()} images in train/ and "
    yield Finding("classes", "info", f"{summary}{val.min()} to {val.max()} in val/", "")


def _named(classes: Sequence[str], places: np.ndarray) -> str:
    """`2 classes ('hat', 'shoes')`; empty for none."""
    shown = ", ".join(repr(classes[int(place)]) for place in places[:5])
    more = ", ..." if len(places) > 5 else ""
    return f"{len(places)} classes ({shown}{more})" if len(places) else ""
