"""One shard: an uncompressed Arrow IPC file, written batch by batch, with the place of each image in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from trainables.data.sampler import IntArray
from trainables.data.shards.format import ROWS_SCHEMA, SHARD_SCHEMA, ShardFile, new_checksum
from trainables.data.store import Encoded, Store

BATCH_ROWS = 128
"""Rows of a record batch: so few that a reader of shuffled batches mixes well, so many that a read pays."""
BATCH_BYTES = 32_000_000
"""A batch that has reached this many bytes of images is closed: what bounds the memory where images are large."""


@dataclass(frozen=True, eq=False)
class Written:
    """A shard that is whole."""

    file: ShardFile
    offset: IntArray
    """First byte of each image in the file, [rows]."""
    length: IntArray
    """Bytes of each image, [rows]."""


class HashedFile:
    """A binary file that hashes what is written to it, on the way."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._digest = new_checksum()

    def write(self, data: Any) -> int:
        """Write all of `data`."""
        self._digest.update(data)
        return self._file.write(data)

    def tell(self) -> int:
        """Bytes so far."""
        return self._file.tell()

    def flush(self) -> None:
        """Hand what is buffered to the system."""
        self._file.flush()

    def close(self) -> None:
        """Flush and close."""
        self._file.close()

    @property
    def closed(self) -> bool:
        """Whether it is."""
        return self._file.closed

    def checksum(self) -> str:
        """Of all that was written."""
        return str(self._digest.hexdigest())


def write_shard(
    store: Store, labels: IntArray, places: IntArray, path: Path, count: Callable[[IntArray], None]
) -> Written:
    """Write the images of some places to a file of SHARD_SCHEMA. Equal images give equal bytes.

    Args:
        store: what is read.
        labels: of all images of the split, [n].
        places: sample ids of the rows, in their order, [rows].
        path: of the file, which is overwritten.
        count: called with the places of each batch that was written; may raise to end the work.

    Raises:
        DataError: an image can't be read.
        OSError: the file can't be written.

    """
    file = HashedFile(path)
    try:
        with pa.ipc.new_file(file, SHARD_SCHEMA) as writer:
            for rows, images in _batches(store, places):
                writer.write_batch(_record_batch(store, labels, rows, images))
                count(rows)
    finally:
        file.close()
    offset, length = _image_ranges(path)
    shard = ShardFile(name=path.name, rows=len(places), bytes=path.stat().st_size, checksum=file.checksum())
    return Written(shard, offset, length)


def write_rows(path: Path, columns: dict[str, Any]) -> ShardFile:
    """Write a table of ROWS_SCHEMA; columns: by name, [n]."""
    table = pa.table(columns, schema=ROWS_SCHEMA)
    file = HashedFile(path)
    try:
        with pa.ipc.new_file(file, ROWS_SCHEMA) as writer:
            writer.write_table(table)
    finally:
        file.close()
    return ShardFile(name=path.name, rows=len(table), bytes=path.stat().st_size, checksum=file.checksum())


def _batches(store: Store, places: IntArray) -> Iterator[tuple[IntArray, list[Encoded]]]:
    """Rows and images of each record batch."""
    start, size = 0, 0
    images: list[Encoded] = []
    for end, place in enumerate(places.tolist(), 1):
        images.append(store.read(place))
        size += len(images[-1])
        if len(images) == BATCH_ROWS or size >= BATCH_BYTES or end == len(places):
            yield places[start:end], images
            start, size, images = end, 0, []


def _record_batch(store: Store, labels: IntArray, rows: IntArray, images: list[Encoded]) -> pa.RecordBatch:
    ends = np.cumsum([0, *map(len, images)], dtype=np.int64)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(image.data for image in images))]
    image = pa.Array.from_buffers(pa.large_binary(), len(images), buffers)
    names = pa.array([store.names[row] for row in rows.tolist()], pa.string())
    return pa.record_batch([image, pa.array(labels[rows]), pa.array(rows), names], schema=SHARD_SCHEMA)


def _image_ranges(path: Path) -> tuple[IntArray, IntArray]:
    """First byte and length of each image of a shard, as Arrow itself finds them."""
    offsets, lengths = [], []
    with pa.memory_map(str(path)) as mapped:
        whole = mapped.read_buffer()
        reader = pa.ipc.open_file(whole)
        for number in range(reader.num_record_batches):
            image = reader.get_batch(number).column("image")
            _, ends_buffer, data = image.buffers()
            ends = np.frombuffer(ends_buffer, dtype=np.int64, count=len(image) + 1)
            # An empty buffer has no address of its own in the file.
            start = data.address - whole.address if ends[-1] else 0
            offsets.append(start + ends[:-1])
            lengths.append(np.diff(ends))
    return np.concatenate(offsets), np.concatenate(lengths)
