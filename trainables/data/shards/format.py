"""What a folder of shards holds: `index.json`, which is written last, row tables, and the shards that it names.

    index.json          classes, counts, moments of the training pixels, every other file with size and checksum
    rows-<split>.arrow  where each image lies, in the order of sample ids
    <split>-00000.arrow Arrow IPC files, uncompressed, of the columns image, label, sample_id and name

Checksums are BLAKE2b of 16 bytes: 0.8 GB/s on one core, which no disk of ours outruns by much, outside the GIL, and in
Python's own library; xxHash is faster, but would be one more dependency and proves nothing against a file that was
changed on purpose.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, BinaryIO

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trainables.data.index import SHARDS_MARKS
from trainables.errors import DataError, complaint

INDEX, WORK = SHARDS_MARKS
"""The index, and the folder beside the shards that holds what an unfinished conversion needs to go on."""
FORMAT = "epoch14-shards"
VERSION = 1
SPLITS = ("train", "val")
AGAIN = "make the shards again with epoch14 shard"
"""The remedy for shards whose index can't be trusted."""

SHARD_SCHEMA = pa.schema(
    [("image", pa.large_binary()), ("label", pa.int64()), ("sample_id", pa.int64()), ("name", pa.string())]
)
ROWS_SCHEMA = pa.schema(
    [
        ("shard", pa.int32()),
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("label", pa.int64()),
        ("name", pa.string()),
    ]
)
"""shard: number of the file; offset: of the first byte of the encoded image in that file; length: in bytes."""
_CHUNK = 1 << 22


def new_checksum() -> Any:
    """A fresh hash object of the kind that all checksums here are of."""
    return hashlib.blake2b(digest_size=16)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ShardFile(_Part):
    """One file of a folder of shards: all that is needed to fetch it and to prove it whole."""

    name: str = Field(pattern=r"^(rows-)?[a-z]+(-\d{5,})?\.arrow$")
    """Relative to the folder."""
    rows: int = Field(ge=0)
    bytes: int = Field(ge=0)
    checksum: str
    """Hexadecimal."""


class SplitFiles(_Part):
    """The files of one split."""

    images: int = Field(ge=1)
    image_bytes: int = Field(ge=0)
    """Sum over the encoded images."""
    images_per_class: tuple[int, ...]
    rows: ShardFile
    shards: tuple[ShardFile, ...]


class Reencode(_Part):
    """How the pixels were changed."""

    short: int = Field(ge=16, le=8192)
    """Short sides above this many pixels were resized to it (antialiased)."""
    quality: int = Field(ge=1, le=100)
    """Of the JPEG."""


Channels = tuple[float, float, float]


class ShardIndex(_Part):
    """Content of `index.json`."""

    classes: tuple[str, ...]
    """Class names; a label is a place here."""
    channel_mean: Channels
    channel_std: Channels
    """Of the training pixels / 255, as `channels.count_channels` has them."""
    seed: int
    """Keys the order of the rows."""
    shard_size: int
    """Most bytes of images in one shard, about."""
    reencode: Reencode | None
    plan: str
    """Hash of what the shards are a function of: see `plan.plan_hash`."""
    train: SplitFiles
    val: SplitFiles

    @property
    def files(self) -> tuple[ShardFile, ...]:
        """Every file that the index names, the row tables first."""
        return (self.train.rows, self.val.rows, *self.train.shards, *self.val.shards)

    def to_json(self) -> str:
        """The text of `index.json`; equal values give equal bytes."""
        content = {"format": FORMAT, "version": VERSION, **self.model_dump(mode="json")}
        return json.dumps({**content, "checksum": _checksum_of(content)}, indent=1) + "\n"


@dataclass(frozen=True)
class Where:
    """What an error names: the key and value that the user gave."""

    key: str
    value: str

    def error(self, allowed: str, remedy: str) -> DataError:
        """The one line."""
        return DataError(complaint(self.key, self.value, allowed, remedy))


def parse_index(text: str, where: Where) -> ShardIndex:
    """Read `index.json`.

    Raises:
        DataError: it is no index of shards, of another version of the format, or damaged.

    """
    try:
        content = json.loads(text)
        kind, version, checksum = (content.pop(key, None) for key in ("format", "version", "checksum"))
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise _damaged(where) from None
    if kind != FORMAT:
        raise where.error(f"shards of epoch14 ({INDEX} is another program's)", "name a folder that epoch14 shard made")
    if version != VERSION:
        raise where.error(f"shards of format {VERSION} (these are of format {version!r:.20})", AGAIN)
    if checksum != _checksum_of({"format": kind, "version": version, **content}):
        raise _damaged(where)
    try:
        return ShardIndex.model_validate(content)
    except ValidationError:
        raise _damaged(where) from None


def checksum_of(
    open_input: Callable[[], AbstractContextManager[BinaryIO]], count: Callable[[int], None] = lambda size: None
) -> str:
    """Checksum of a stream, read in chunks; `count` gets the bytes of each, and may raise to end the work."""
    digest = new_checksum()
    with open_input() as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            count(len(chunk))
    return str(digest.hexdigest())


def _checksum_of(content: dict[str, Any]) -> str:
    digest = new_checksum()
    digest.update(json.dumps(content, sort_keys=True).encode())
    return str(digest.hexdigest())


def _damaged(where: Where) -> DataError:
    return where.error(f"shards with the {INDEX} that epoch14 shard wrote ({INDEX} is damaged or was edited)", AGAIN)
