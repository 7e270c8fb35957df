"""The images of a split in Arrow shards: a memory map a file, and views of it."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trainables.data.index import ImageIndex, Split
from trainables.data.sampler import IntArray
from trainables.data.shards.format import (
    AGAIN,
    INDEX,
    WORK,
    ShardFile,
    ShardIndex,
    SplitFiles,
    Where,
    checksum_of,
    parse_index,
)
from trainables.data.store import Encoded, unreadable

FETCH = "copy it again, or repair the folder with the epoch14 shard command that made it"
"""The remedy for a file that is missing or not as it was written."""


@dataclass(frozen=True, eq=False)
class ShardStore:
    """Encoded images by place, as views of memory maps; safe to read from several threads at once.

    A file is mapped at its first use. Its pages belong to the system's cache, which all processes of a machine share.
    """

    root: str
    """Absolute path of the folder."""
    shards: tuple[ShardFile, ...]
    names: tuple[str, ...]
    shard: NDArray[np.int32]
    """Place in `shards` of each image, [n]."""
    offset: IntArray
    """First byte of each image in its file, [n]."""
    length: IntArray
    """Of each image, in bytes, [n]."""
    _maps: dict[int, mmap.mmap] = field(default_factory=dict, repr=False)

    def locate(self, place: int) -> str:
        """Path of the shard, and the name of the image in it."""
        return f"{self.root}/{self.shards[self.shard[place]].name}: {self.names[place]}"

    def read(self, place: int) -> Encoded:
        """A view of the image's bytes. Raises DataError where the file was removed or cut since it was opened."""
        number = int(self.shard[place])
        # Two threads may map a file at once; one of the maps is kept, and both are right.
        mapped = self._maps.get(number)
        if mapped is None:
            mapped = self._maps.setdefault(number, self._map(number, place))
        start, length = int(self.offset[place]), int(self.length[place])
        page = start - start % mmap.PAGESIZE
        # One request to the disk for the whole image, instead of one for each page that is touched.
        mapped.madvise(mmap.MADV_WILLNEED, page, start + length - page)
        return np.frombuffer(mapped, dtype=np.uint8, count=length, offset=start)

    def _map(self, number: int, place: int) -> mmap.mmap:
        file = self.shards[number]
        path = Path(self.root, file.name)
        try:
            with path.open("rb") as opened:
                # Pages that would be copied if anyone wrote to them: torch warns of arrays that can't be written.
                mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError) as error:
            raise unreadable(self.locate(place), getattr(error, "strerror", None) or "it can't be mapped") from None
        if len(mapped) != file.bytes:
            raise unreadable(self.locate(place), f"the shard has {len(mapped)} of {file.bytes} bytes")
        return mapped

    def __getstate__(self) -> dict[str, Any]:
        """Without the maps, which another process makes for itself."""
        return {**self.__dict__, "_maps": {}}


def open_shards(folder: Path) -> ImageIndex:
    """Open a local folder that `epoch14 shard` made; no image is read.

    The index and the row tables are checked by checksum, the shards by their size.

    Raises:
        DataError: a file is missing, short or another one, or the index is damaged or of another format.

    """
    where = Where("data.path", str(folder))
    index = read_index(folder)
    root = str(folder.resolve())
    with _readable(where):
        train, val = (_open_split(root, split, where) for split in (index.train, index.val))
    return ImageIndex(root, index.classes, train, val, index.channel_mean, index.channel_std)


def read_index(folder: Path) -> ShardIndex:
    """Read the index of a local folder of shards. Raises DataError where it is missing, damaged or foreign."""
    where = Where("data.path", str(folder))
    if (folder / WORK).exists() and not (folder / INDEX).exists():
        raise where.error(
            "shards that are all there (they are not finished)", "run the same epoch14 shard command again: it goes on"
        )
    with _readable(where):
        text = (folder / INDEX).read_bytes().decode(errors="replace")
    return parse_index(text, where)


def check_file(folder: Path, file: ShardFile) -> str | None:
    """What is wrong with one file of a folder of shards, or None: its bytes are those that were written."""
    path = folder / file.name
    try:
        size = path.stat().st_size
        if size != file.bytes:
            return f"{file.name} has {size} of {file.bytes} bytes"
        found = checksum_of(lambda: path.open("rb"))
    except OSError as error:
        return f"{file.name} can't be read: {error.strerror}"
    return None if found == file.checksum else f"the checksum of {file.name} is wrong"


def read_rows(path: Path) -> pa.Table:
    """The row table of a split, of ROWS_SCHEMA; copied to memory, so that the file may change afterwards."""
    return pa.ipc.open_file(pa.py_buffer(path.read_bytes())).read_all().combine_chunks()


def _open_split(root: str, files: SplitFiles, where: Where) -> Split:
    _check_sizes(root, files, where)
    return Split(*open_rows(root, files, where))


def open_rows(root: str, files: SplitFiles, where: Where) -> tuple[ShardStore, IntArray]:
    """Where each image of a split lies, and its label, from the row table in a local folder; shards play no part.

    Raises:
        DataError: the row table is missing, damaged, or of other shards.

    """
    wrong = check_file(Path(root), files.rows)
    if wrong is not None:
        raise where.error(f"shards as they were written ({wrong})", FETCH)
    rows = read_rows(Path(root, files.rows.name))
    shard, offset, length, label = (rows[key].to_numpy() for key in ("shard", "offset", "length", "label"))
    store = ShardStore(root, files.shards, tuple(rows["name"].to_pylist()), shard, offset, length)
    if not _fits(store, label, files):
        raise where.error(f"shards that belong together ({files.rows.name} is of others)", AGAIN)
    return store, label


def _check_sizes(root: str, files: SplitFiles, where: Where) -> None:
    for file in files.shards:
        try:
            size = Path(root, file.name).stat().st_size
        except FileNotFoundError:
            raise where.error(f"shards that are all there ({file.name} is missing)", FETCH) from None
        if size != file.bytes:
            raise where.error(f"shards as they were written ({file.name} has {size} of {file.bytes} bytes)", FETCH)


def _fits(store: ShardStore, labels: IntArray, files: SplitFiles) -> bool:
    """Whether every row lies inside its shard, and the labels are those that were counted."""
    if len(labels) != files.images or labels.min() < 0:
        return False
    if not 0 <= store.shard.min() <= store.shard.max() < len(files.shards):
        return False
    ends = np.array([file.bytes for file in files.shards], dtype=np.int64)[store.shard]
    inside = (store.offset >= 0) & (store.length >= 0) & (store.offset + store.length <= ends)
    counts = np.bincount(labels, minlength=len(files.images_per_class)).tolist()
    return bool(inside.all()) and tuple(counts) == files.images_per_class


@contextmanager
def _readable(where: Where) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = f"check {error.filename}" if error.filename else "check the folder"
        raise where.error(f"files that can be read ({error.strerror})", remedy) from None
