"""What images a source holds, whatever its layout: an image folder, Parquet files or tar shards, here or at s3://."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pyarrow import fs

from trainables.data.shards.format import SPLITS, Where
from trainables.data.shards.meter import Meter
from trainables.data.store import Store
from trainables.places import FAILURES, explain, store_remedy
from trainables.retries import OPENING, patient

LAYOUT = (
    "a folder or s3://bucket/prefix with train/ and val/, each of class folders; or with Parquet files or tar shards"
    " in train/ and val/, or named train-*.parquet and val-*.parquet (or .tar)"
)
MAX_DEPTH = 2
"""Parquet files and tar shards lie in the source or in its folders: deeper down an image folder has a million files."""


@dataclass(frozen=True)
class SourceSplit:
    """The images of a split; a sample's id is its place here."""

    store: Store
    labels: NDArray[np.int64]
    """Class of each image, [n]."""
    lengths: NDArray[np.int64]
    """Bytes of each encoded image, [n]."""


@dataclass(frozen=True)
class SourceData:
    """A data set that can be read at random."""

    classes: tuple[str, ...]
    splits: Mapping[str, SourceSplit]
    """Keyed by SPLITS."""


class Source(Protocol):
    """A data set that was found, and not yet read."""

    @property
    def identity(self) -> str:
        """Hash of names and sizes. A file that changes at the same size changes nothing here."""

    def load(self, spool: Path, threads: int, meter: Meter) -> SourceData:
        """List the images.

        Args:
            spool: local folder for copies of what can't be read at random; those of a killed process are used again.
            threads: that read.
            meter: counts what is copied.

        Raises:
            DataError: labels or images are not of the layout.

        """


@dataclass(frozen=True)
class SourceFile:
    """A Parquet file or a tar shard."""

    filesystem: Any
    path: str
    """In the file system."""
    name: str
    """Relative to the source."""
    size: int
    """In bytes."""


@contextmanager
def file_errors(where: Where, wanted: str) -> Iterator[None]:
    """Turn the failure to read a source's file into one line that doesn't blame the target, written meanwhile."""
    try:
        yield
    except FAILURES as error:
        reason, _ = explain(error)
        remedy = store_remedy(str(error)) or "make or copy it again, or let this user read it"
        raise where.error(f"{wanted} that can be read ({reason})", remedy) from None


def where_of(where: Where, file: SourceFile) -> Where:
    """The same key, with the file as its value."""
    return Where(where.key, f"{where.value.rstrip('/')}/{file.name}")


def split_of(name: str) -> str | None:
    """Split of a file by the first of its folders or its name that starts as one: `val*` and `validation*` are val."""
    *folders, file = name.lower().split("/")
    for part in folders:
        if part in ("train", "val", "validation"):
            return "train" if part == "train" else "val"
    return next((split for split in SPLITS if file.startswith(split)), None)


@patient(OPENING)
def list_folder(filesystem: Any, folder: str, *, recursive: bool = False) -> list[Any]:
    """What lies in a folder, or anywhere below it; raises one of FAILURES."""
    return list(filesystem.get_file_info(fs.FileSelector(folder, recursive=recursive)))


def shallow_files(filesystem: Any, root: str) -> tuple[list[SourceFile], list[str]]:
    """Files of a folder and of its folders, sorted by name, and names of the folders themselves."""
    files: list[SourceFile] = []
    folders: list[str] = []
    pending = [(root, 1)]
    for folder, depth in pending:
        for info in list_folder(filesystem, folder):
            name = info.path.removeprefix(f"{root}/")
            if info.type == fs.FileType.File:
                files.append(SourceFile(filesystem, info.path, name, info.size))
            elif depth == 1:
                folders.append(name)
            if info.type == fs.FileType.Directory and depth < MAX_DEPTH and not info.base_name.startswith("."):
                pending.append((info.path, depth + 1))
    return sorted(files, key=lambda file: file.name), sorted(folders)


def by_split(files: Sequence[SourceFile], where: Where) -> dict[str, list[SourceFile]]:
    """Files of each split. Raises DataError where one has none."""
    found = {split: [file for file in files if split_of(file.name) == split] for split in SPLITS}
    missing = [split for split in SPLITS if not found[split]]
    if missing:
        kind = Path(files[0].name).suffix
        raise where.error(
            f"{LAYOUT} (no {kind} file is of {missing[0]})",
            f"name its files {missing[0]}-*{kind}, or put them in a folder {missing[0]}/",
        )
    return found


def hash_of(kind: str, parts: Mapping[str, Sequence[tuple[str, int]]]) -> str:
    """Hash of the names and sizes of each split."""
    digest = hashlib.blake2b(kind.encode(errors="surrogateescape"), digest_size=16)
    for split, entries in parts.items():
        digest.update(f"\n\n{split}\n".encode())
        for name, size in entries:
            digest.update(f"{name}\x00{size}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()
