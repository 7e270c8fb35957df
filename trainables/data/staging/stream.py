"""Images of a data set that no local disk has room for: each is one request, made when it is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trainables.data.index import ImageIndex, Split
from trainables.data.shards.format import ShardIndex, SplitFiles
from trainables.data.shards.remote import read_range
from trainables.data.shards.store import ShardStore, open_rows
from trainables.data.staging.fetch import Copy
from trainables.data.store import Encoded

STREAM = "stream+"
"""Begins the data.path of a URI whose images are read from there, such as stream+s3://bucket/prefix."""


@dataclass(frozen=True, eq=False)
class StreamStore:
    """Encoded images by place, out of shards in an object store; safe to read from several threads at once.

    A request waits most of its time: what one thread gets is the inverse of the latency, and threads add up. Images
    have no checksum of their own, so that what comes is as right as the connection.
    """

    rows: ShardStore
    """Where each image lies; its files are not here."""
    copy: Copy
    _open: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def names(self) -> Sequence[str]:
        """Of each image."""
        return self.rows.names

    def locate(self, place: int) -> str:
        """URI of the shard, and the name of the image in it."""
        return f"{self.copy.where.value}/{self._shard(place)}: {self.names[place]}"

    def read(self, place: int) -> Encoded:
        """One range of a shard, asked for patiently. Raises DataError where it can't be had."""
        name = self._shard(place)
        with self.copy.object_errors(name):
            # Two threads may open a shard at once; one of the two is kept.
            source = self._open.get(name)
            if source is None:
                source = self._open.setdefault(name, self.copy.remote.open_input(name))
            start, length = int(self.rows.offset[place]), int(self.rows.length[place])
            data = read_range(source, start, length)
        return np.frombuffer(bytearray(data), dtype=np.uint8)

    def _shard(self, place: int) -> str:
        return self.rows.shards[int(self.rows.shard[place])].name

    def __getstate__(self) -> dict[str, Any]:
        """Without the connections, which another process makes for itself."""
        return {**self.__dict__, "_open": {}}


def open_stream(copy: Copy, index: ShardIndex) -> ImageIndex:
    """The data set of `copy`, of whose files only the row tables are local. Raises DataError."""
    train, val = (_open_split(copy, files) for files in (index.train, index.val))
    return ImageIndex(copy.where.value, index.classes, train, val, index.channel_mean, index.channel_std)


def _open_split(copy: Copy, files: SplitFiles) -> Split:
    rows, labels = open_rows(str(copy.folder), files, copy.where)
    return Split(StreamStore(rows, copy), labels)
