"""Images that don't decode: named, counted and replaced, up to a limit."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from trainables.data.index import Split
from trainables.errors import DataError, DecodeError, complaint

log = logging.getLogger(__name__)

MOST_NAMED = 10
"""Files that the error beyond the limit lists."""
Pixels = TypeVar("Pixels")


class Quarantine:
    """The images of a split that this process found not to decode.

    Each is replaced by the next one of its class, in the order of ids, that decodes. That depends on the files and the
    crop alone, so whoever meets it, whenever, takes the same pixels, and its label stays right. An image that can't
    even be read is no such case: what a disk or a network fails to give today it may give tomorrow, so that error is
    raised.

    Args:
        split: the samples.
        limit: most images that may be quarantined.

    """

    def __init__(self, split: Split, limit: int) -> None:
        self.limit = limit
        self._split = split
        self._lock = threading.Lock()
        self._reasons: dict[int, str] = {}

    def decode(self, sample_id: int, decode: Callable[[int], Pixels]) -> Pixels:
        """`decode(sample_id)`, or that of its stand-in. Raises DataError beyond the limit, or without a stand-in."""
        # Tried each time: where a crop alone is decoded, another crop of a damaged image may be whole.
        try:
            return decode(sample_id)
        except DecodeError as error:
            self.add(sample_id, error)
        same_class = np.flatnonzero(self._split.labels == self._split.labels[sample_id])
        first = int(np.searchsorted(same_class, sample_id)) + 1
        for other in np.roll(same_class, -first)[:-1].tolist():
            try:
                return decode(other)
            except DecodeError as error:
                self.add(other, error)
        allowed = f"a class with at least one image that decodes ({self.files()[-1]})"
        raise DataError(complaint("data.path", self._split.store.names[sample_id], allowed, "replace its images"))

    def add(self, sample_id: int, error: DecodeError) -> None:
        """Take an image in. Raises DataError beyond the limit."""
        self.merge({sample_id: str(error)})
        check_quarantined(self.files(), self.limit)

    def merge(self, reasons: Mapping[int, str]) -> None:
        """Take in what another process quarantined, whatever the limit: sample id -> line of the error."""
        with self._lock:
            for sample_id in reasons.keys() - self._reasons.keys():
                log.warning("quarantined: %s", reasons[sample_id])
            self._reasons.update(reasons)

    def reasons(self) -> dict[int, str]:
        """Sample id -> line of the error."""
        with self._lock:
            return dict(self._reasons)

    def files(self) -> list[str]:
        """Where the quarantined images are, in the order of their ids."""
        with self._lock:
            return [self._split.store.locate(sample_id) for sample_id in sorted(self._reasons)]


def check_quarantined(files: Sequence[str], limit: int) -> None:
    """Raise DataError, which lists `files`, where they are more than `limit`."""
    if len(files) <= limit:
        return
    named = ", ".join(files[:MOST_NAMED]) + (", ..." if len(files) > MOST_NAMED else "")
    allowed = f"at least {len(files)}, the images that don't decode so far ({named})"
    remedy = "replace or remove them, or raise data.max_quarantined"
    raise DataError(complaint("data.max_quarantined", limit, allowed, remedy))
