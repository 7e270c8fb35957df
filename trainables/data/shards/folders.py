"""Image folders: train/ and val/, each of class folders, here or at s3://; or shards that were made before."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyarrow import fs

from trainables.data.index import Listing, check_classes, check_images, is_image, list_images
from trainables.data.shards.format import SPLITS, Where
from trainables.data.shards.meter import Meter
from trainables.data.shards.source import SourceData, SourceSplit, hash_of, list_folder
from trainables.data.shards.store import ShardStore
from trainables.data.store import Encoded, Store, unreadable
from trainables.places import FAILURES, explain
from trainables.retries import patiently


@dataclass(frozen=True)
class FolderSource:
    """Images that can be read at random where they are."""

    data: SourceData

    @property
    def identity(self) -> str:
        """Hash of class names, and of the images' names and sizes."""
        parts = {
            split: list(zip(found.store.names, found.lengths.tolist(), strict=True))
            for split, found in self.data.splits.items()
        }
        return hash_of("\n".join(self.data.classes), parts)

    def load(self, spool: Path, threads: int, meter: Meter) -> SourceData:
        """All is known already."""
        del spool, threads, meter
        return self.data


@dataclass(frozen=True)
class ObjectStore:
    """One object an image, below a prefix."""

    filesystem: Any
    root: str
    uri: str
    names: tuple[str, ...]

    def locate(self, place: int) -> str:
        """URI of the object."""
        return f"{self.uri}/{self.names[place]}"

    def read(self, place: int) -> Encoded:
        """The whole object. Raises DataError where it can't be read."""
        try:
            content = patiently(lambda: self._read_once(place))
        except FAILURES as error:
            raise unreadable(self.locate(place), explain(error)[0]) from None
        return np.frombuffer(bytearray(content), dtype=np.uint8)

    def _read_once(self, place: int) -> bytes:
        with self.filesystem.open_input_file(f"{self.root}/{self.names[place]}") as file:
            return bytes(file.read())


def open_folder(where: Where) -> FolderSource:
    """List a local image folder, the digits, or a folder of shards. Raises DataError as `list_images` does."""
    listing = list_images(where.value)
    splits = {
        split: SourceSplit(part.store, part.labels, _lengths(where, listing, part.store))
        for split, part in (("train", listing.train), ("val", listing.val))
    }
    return FolderSource(SourceData(listing.classes, splits))


def open_object_folder(where: Where, filesystem: Any, root: str) -> FolderSource:
    """List an image folder of an object store, by the rules of a local one. Raises DataError as `list_images` does."""
    sizes: dict[str, dict[str, dict[str, int]]] = {split: {} for split in SPLITS}
    for split in SPLITS:
        for info in list_folder(filesystem, f"{root}/{split}", recursive=True):
            name = info.path.removeprefix(f"{root}/")
            parts = name.split("/")
            if info.type == fs.FileType.File and len(parts) > 2 and is_image(parts[-1]) and parts[1][0] != ".":
                sizes[split].setdefault(parts[1], {})[name] = info.size
    classes = tuple(sorted(sizes["train"]))
    check_classes(where.value, classes, tuple(sorted(sizes["val"])))
    splits = {}
    for split, by_class in sizes.items():
        found = [sorted(by_class.get(name, {}).items()) for name in classes]
        store = ObjectStore(
            filesystem, root, where.value.rstrip("/"), tuple(name for part in found for name, _ in part)
        )
        labels = np.repeat(np.arange(len(classes)), [len(part) for part in found])
        lengths = np.array([size for part in found for _, size in part], dtype=np.int64)
        splits[split] = SourceSplit(store, labels, lengths)
    check_images(where.value, classes, splits["train"].labels, splits["val"].labels)
    return FolderSource(SourceData(classes, splits))


def _lengths(where: Where, listing: Listing, store: Store) -> NDArray[np.int64]:
    if isinstance(store, ShardStore):
        return store.length
    return np.array([_size(where, f"{listing.root}/{name}") for name in store.names], dtype=np.int64)


def _size(where: Where, path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError as error:
        raise where.error(f"files that can be read ({error.strerror})", f"check {path}") from None
