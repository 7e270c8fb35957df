"""Which images go into which shard, in which order: a function of the source's listing and the settings."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

import numpy as np

from trainables.data.sampler import IntArray
from trainables.data.shards.format import VERSION, Reencode
from trainables.rng import generator


@dataclass(frozen=True)
class Settings:
    """What the user chose."""

    seed: int = 0
    """Keys the order of the rows."""
    shard_size: int = 192_000_000
    """Most bytes of images in one shard, about."""
    reencode: Reencode | None = None
    """None: the images' bytes stay as they are."""

    def describe(self) -> str:
        """As the command line has them."""
        how = f" --reencode short={self.reencode.short},quality={self.reencode.quality}" if self.reencode else ""
        return f"--seed {self.seed} --shard-size {self.shard_size}{how}"


@dataclass(frozen=True)
class PlannedShard:
    """One file to be written."""

    split: str
    number: int
    """Of the shard in its split."""
    places: IntArray
    """Sample ids of its rows, in their order."""

    @property
    def name(self) -> str:
        """Of the file."""
        return f"{self.split}-{self.number:05d}.arrow"


def plan_hash(identity: str, settings: Settings) -> str:
    """Hash of what the shards are a function of: the source's `identity`, the settings, the version of the format."""
    reencode = settings.reencode.model_dump() if settings.reencode else None
    values = [VERSION, identity, {**asdict(settings), "reencode": reencode}]
    return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=16).hexdigest()


def plan_shards(split: str, lengths: IntArray, settings: Settings, ratio: float = 1.0) -> list[PlannedShard]:
    """Shuffle a split and cut it into shards of about equal size.

    Args:
        split: keys the order, with the seed.
        lengths: bytes of each image as it is in the source, [n], n at least 1.
        settings: seed and size of the shards.
        ratio: bytes of an image as it is written over those in the source.

    Returns:
        Shards that hold every image once, and none of them empty.

    """
    order = generator(settings.seed, "shards", split).permutation(len(lengths))
    ends = np.cumsum(lengths[order])
    total = max(int(ends[-1]), 1)
    count = min(max(1, -int(-total * ratio // settings.shard_size)), len(lengths))
    middles = ends - lengths[order] // 2
    owner = np.minimum(middles.astype(np.float64) * (count / total), count - 1).astype(np.int64)
    cuts = np.flatnonzero(np.diff(owner)) + 1
    return [PlannedShard(split, number, places) for number, places in enumerate(np.split(order, cuts))]
