"""Encoded images as ranges of bytes of local files: of tar shards, or of what Parquet files were copied to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trainables.data.sampler import IntArray
from trainables.data.shards.format import Where
from trainables.data.shards.labels import resolve_labels
from trainables.data.shards.source import SourceData, SourceSplit
from trainables.data.store import Encoded, unreadable


@dataclass(frozen=True)
class Ranges:
    """The images of one file."""

    path: str
    """Local file that is read."""
    origin: str
    """What a person knows it by."""
    names: list[str]
    labels: pa.Array
    """int64 or string."""
    offset: IntArray
    """First byte of each image, [n]."""
    length: IntArray
    """In bytes, [n]."""


@dataclass(frozen=True, eq=False)
class RangeStore:
    """Random access to the images of several files. Plain reads, as a map would count as this process's memory."""

    paths: tuple[str, ...]
    origins: tuple[str, ...]
    names: tuple[str, ...]
    file: NDArray[np.int32]
    """Place in `paths` of each image, [n]."""
    offset: IntArray
    length: IntArray

    def locate(self, place: int) -> str:
        """The file, and the image in it."""
        return f"{self.origins[self.file[place]]}: {self.names[place]}"

    def read(self, place: int) -> Encoded:
        """Read one image. Raises DataError where the file is gone or short."""
        length = int(self.length[place])
        path = self.paths[self.file[place]]
        try:
            data = np.fromfile(path, dtype=np.uint8, count=length, offset=int(self.offset[place]))
        except OSError as error:
            raise unreadable(self.locate(place), error.strerror or "it can't be read") from None
        if len(data) != length:
            raise unreadable(self.locate(place), f"it ends after {len(data)} of {length} bytes")
        return data


def join(where: Where, splits: Mapping[str, Sequence[Ranges]], declared: Sequence[str] | None) -> SourceData:
    """Put the files of each split together. Raises DataError where a split is empty or its labels don't fit."""
    labels = {}
    for split, parts in splits.items():
        if not any(part.names for part in parts):
            raise where.error(f"images in both splits ({split} has none)", f"add images to {split}")
        kinds = {str(part.labels.type): part.labels.type for part in parts if part.names}
        if len(kinds) > 1:
            raise where.error(f"labels of one kind ({split} has numbers and names)", "use one kind in all files")
        (kind,) = kinds.values()
        labels[split] = pa.concat_arrays([part.labels for part in parts if part.names]).cast(kind)
    classes, *numbers = resolve_labels(where, labels["train"], labels["val"], declared)
    found = {
        split: SourceSplit(_store(splits[split]), numbered, np.concatenate([part.length for part in splits[split]]))
        for split, numbered in zip(labels, numbers, strict=True)
    }
    return SourceData(classes, found)


def _store(parts: Sequence[Ranges]) -> RangeStore:
    counts = [len(part.names) for part in parts]
    return RangeStore(
        tuple(part.path for part in parts),
        tuple(part.origin for part in parts),
        tuple(name for part in parts for name in part.names),
        np.repeat(np.arange(len(parts), dtype=np.int32), counts),
        np.concatenate([part.offset for part in parts]),
        np.concatenate([part.length for part in parts]),
    )
