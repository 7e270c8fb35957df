"""The samples that diagnoses name, as thumbnails: each image once, however many trials name it."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infra.tracking_sweeps import SweptTrial
from pipelines.report_html.factors import setting
from pipelines.report_html.trials import diagnoses
from trainables.errors import Epoch14Error
from trainables.uris import is_uri

MOST_SHOWN = 48
MOST_CHARS = 1_500_000
"""Of all thumbnails together: a report is to stay a file that one sends around."""


@dataclass(frozen=True)
class Sample:
    """One image of train/ that a diagnosis names."""

    file: str
    """Relative to the data set."""
    label: str
    """Its class; empty where the images are not at hand."""
    uri: str
    """`data:` with the thumbnail; empty where there is none to show."""
    why_none: str
    """Why there is none."""
    trials: int
    """Trials whose diagnoses name it."""


@dataclass(frozen=True)
class Gallery:
    """The samples that most trials name."""

    samples: tuple[Sample, ...]
    more: int
    """Samples that are named but not shown."""


def find_samples(trials: Sequence[SweptTrial]) -> Gallery:
    """The named samples of all trials, those that most trials name first; never raises for images that are gone."""
    counted: Counter[tuple[str, int, str]] = Counter()
    for trial in trials:
        path = str(setting(trial.config, "data.path") or "")
        counted.update({(path, *named) for diagnosis in diagnoses(trial) for named in named_samples(diagnosis)})
    shown = sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:MOST_SHOWN]
    listings = {path: _Images(path) for path in {path for (path, _, _), _ in shown}}
    samples, room = [], MOST_CHARS
    for (path, sample_id, file), count in shown:
        label, uri, why_none = listings[path].show(sample_id, file)
        if len(uri) > room:
            uri, why_none = "", "left out to keep this file small"
        room -= len(uri)
        samples.append(Sample(file, label, uri, why_none, count))
    return Gallery(tuple(samples), len(counted) - len(samples))


def named_samples(diagnosis: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    """(id, file) of each sample that a diagnosis blames."""
    culprits = diagnosis.get("culprits") or {}
    yield from zip(culprits.get("sample_ids") or (), culprits.get("files") or (), strict=False)


class _Images:
    """The images of one data set, if they are at hand."""

    def __init__(self, path: str) -> None:
        from trainables.data.index import Listing, list_images

        self._listing: Listing | None = None
        self._why_none = "the images lie elsewhere"
        if not path or is_uri(path):
            # Fetching a whole data set for a report would be a surprise.
            return
        try:
            self._listing = list_images(path)
        except Epoch14Error:
            self._why_none = "the images are not where they were"

    def show(self, sample_id: int, file: str) -> tuple[str, str, str]:
        """(class, `data:` URI, why there is none) of a sample of train/."""
        if self._listing is None:
            return "", "", self._why_none
        train = self._listing.train
        if not 0 <= sample_id < len(train) or train.store.names[sample_id] != file:
            return "", "", "the data set is not the one that was trained on"
        from PIL import Image

        from pipelines.doctor_html import thumbnail

        label = self._listing.classes[int(train.labels[sample_id])]
        try:
            with Image.open(io.BytesIO(train.store.read(sample_id).tobytes())) as image:
                return label, thumbnail(image.convert("RGB")), ""
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return label, "", "does not decode"
