"""Webdataset's tar shards: `key.jpg` beside `key.cls` or `key.json`."""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import fs

from trainables.data.index import EXTENSIONS
from trainables.data.shards.format import Where
from trainables.data.shards.labels import is_text
from trainables.data.shards.meter import Meter, run_jobs
from trainables.data.shards.ranges import Ranges, join
from trainables.data.shards.remote import PatientFile
from trainables.data.shards.source import SourceData, SourceFile, file_errors, hash_of, where_of
from trainables.errors import DataError

LABEL_KEYS = ("label", "cls")
"""Where a sample's JSON may hold its label."""
_CHUNK = 1 << 22
_EVERY = 1000
_MAX_DIGITS = 18
"""Of a class number, which is an int64."""


@dataclass(frozen=True)
class TarSource:
    """Tar shards of both splits."""

    where: Where
    files: Mapping[str, Sequence[SourceFile]]

    @property
    def identity(self) -> str:
        """Hash of the files' names and sizes."""
        return hash_of(
            "tar", {split: [(file.name, file.size) for file in found] for split, found in self.files.items()}
        )

    def load(self, spool: Path, threads: int, meter: Meter) -> SourceData:
        """Read the headers; a local tar stays where it is, a remote one is copied first."""
        flat = [file for found in self.files.values() for file in found]
        remote = [file for file in flat if not isinstance(file.filesystem, fs.LocalFileSystem)]
        meter.begin("copying", sum(file.size for file in remote))
        copies = [partial(self._local, file, spool / f"{number:05d}.tar", meter) for number, file in enumerate(flat)]
        paths = run_jobs(copies, threads, meter)
        meter.begin("listing", sum(file.size for file in flat))
        jobs = [partial(list_tar, self.where, file, path, meter) for file, path in zip(flat, paths, strict=True)]
        ranges = iter(run_jobs(jobs, threads, meter))
        return join(self.where, {split: [next(ranges) for _ in found] for split, found in self.files.items()}, None)

    def _local(self, file: SourceFile, copy: Path, meter: Meter) -> str:
        """Path of a local file of the same bytes."""
        if isinstance(file.filesystem, fs.LocalFileSystem):
            return file.path
        if not copy.exists():
            unfinished = copy.with_suffix(".partial")
            with unfinished.open("wb") as out:
                for chunk in self._chunks(file, meter):
                    out.write(chunk)
                    meter.add(0, len(chunk))
                os.fsync(out.fileno())
            unfinished.rename(copy)
        return str(copy)

    def _chunks(self, file: SourceFile, meter: Meter) -> Iterator[bytes]:
        where = where_of(self.where, file)
        with file_errors(where, "a tar file"), PatientFile(file.filesystem, file.path, meter.wait) as stream:
            while chunk := stream.read(_CHUNK):
                yield chunk


@dataclass
class _Sample:
    """What was found of one key."""

    image: tuple[str, int, int] | None = None
    """Name of the member, first byte and length of its content."""
    label: int | str | None = None


@dataclass
class _Samples:
    where: Where
    file: SourceFile
    found: dict[str, _Sample] = field(default_factory=dict)

    def add(self, member: tarfile.TarInfo, archive: tarfile.TarFile) -> None:
        folder, _, base = member.name.rpartition("/")
        stem, _, extension = base.partition(".")
        ending = f".{extension.rpartition('.')[2].lower()}"
        if not member.isreg() or not stem or ending not in (*EXTENSIONS, ".cls", ".json"):
            return
        key = f"{folder}/{stem}"
        sample = self.found.setdefault(key, _Sample())
        if ending in EXTENSIONS:
            if sample.image is not None:
                raise self.error(f"keys that stand for one image ({member.name} is the second of its key)", "rename it")
            sample.image = (member.name, member.offset_data, member.size)
            return
        content = archive.extractfile(member)
        label = _parse_label(ending, content.read() if content is not None else b"")
        if label is not None and sample.label not in (None, label):
            raise self.error(f"one label a key ({member.name} has another)", "remove one of its labels")
        sample.label = label if label is not None else sample.label

    def error(self, allowed: str, remedy: str) -> DataError:
        return where_of(self.where, self.file).error(allowed, remedy)


def list_tar(where: Where, file: SourceFile, path: str, meter: Meter) -> Ranges:
    """Where the images of a local tar lie, in its order.

    Args:
        where: what an error names.
        file: the shard, as the user knows it.
        path: the local file.
        meter: counts images and their bytes.

    Raises:
        DataError: it is no uncompressed tar, a key has two images or none of cls and json, or labels are of two kinds.

    """
    samples = _Samples(where, file)
    try:
        with tarfile.open(path, "r:") as archive:
            seen = 0
            while (member := archive.next()) is not None:
                # It keeps every header in memory, for look-ups by name.
                archive.members.clear()  # type: ignore[attr-defined] # missing in typeshed
                samples.add(member, archive)
                seen += 1
                if seen % _EVERY == 0:
                    meter.add(0, 0)
    except DataError:
        raise
    except (OSError, tarfile.TarError, ValueError, OverflowError) as error:
        raise samples.error(f"a whole, uncompressed tar file ({error})", "make or copy it again") from None
    found = [(sample.image, sample.label) for sample in samples.found.values() if sample.image is not None]
    for image, label in found:
        if label is None:
            raise samples.error(
                f"images with a label ({image[0]} has none)", "add key.cls, or key.json with the key label or cls"
            )
    if len({type(label) for _, label in found}) > 1:
        raise samples.error("labels of one kind (numbers and names are mixed)", "use one kind in all files")
    kind = pa.int64() if found and isinstance(found[0][1], int) else pa.string()
    size = sum(image[2] for image, _ in found)
    meter.add(len(found), size)
    return Ranges(
        path,
        where_of(where, file).value,
        [f"{file.name}/{image[0]}" for image, _ in found],
        pa.array([label for _, label in found], kind),
        np.array([image[1] for image, _ in found], dtype=np.int64),
        np.array([image[2] for image, _ in found], dtype=np.int64),
    )


def _parse_label(ending: str, content: bytes) -> int | str | None:
    """A class number or name; None where it is neither."""
    try:
        value: Any = content.decode().strip()
        if ending == ".json":
            record = json.loads(value)
            value = next((record[key] for key in LABEL_KEYS if key in record), None)
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < _MAX_DIGITS:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value if abs(value) < 10**_MAX_DIGITS else None
    return value if isinstance(value, str) and value and is_text(value) else None
