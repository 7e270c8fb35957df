"""Mean and standard deviation of each colour channel of a data set, counted once and kept."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np

from trainables.data.kept import keep_text
from trainables.data.spacing import evenly_spaced
from trainables.data.store import FileStore, Store
from trainables.errors import DataError, DecodeError, complaint

MAX_IMAGES = 2000
"""Images that are decoded; of a larger set, this many evenly spaced ones."""

Channels = tuple[float, float, float]


def channel_statistics(files: FileStore, cache_dir: Path) -> tuple[Channels, Channels]:
    """Per-channel mean and standard deviation of the stored pixels / 255, every pixel counted once.

    Those of `count_channels`, kept in `cache_dir`/channels/, keyed by name, size and time of change of the images that
    are read.

    Args:
        files: the training images.
        cache_dir: holds the kept results.

    Raises:
        DataError: no image decodes, one can't be read, or a channel is constant over the whole set.

    """
    kept = cache_dir / "channels" / f"{_fingerprint(files)}.json"
    found = _read(kept)
    if found is None:
        found = count_channels(files)
        keep_text(kept, json.dumps({"mean": found[0], "std": found[1]}))
    mean, std = found
    if min(std) <= 0.0:
        allowed = "images that differ in every colour channel"
        raise DataError(complaint("data.path", files.root, allowed, "check the images"))
    return mean, std


def count_channels(store: Store) -> tuple[Channels, Channels]:
    """Per-channel mean and standard deviation of the stored pixels / 255, every pixel counted once.

    Exact (integer counts) over the images that it reads: all of them, or `MAX_IMAGES` evenly spaced ones. Those that
    don't decode are left out. Raises DataError where none does, or one can't be read.
    """
    return _moments(_histogram(store))


def _fingerprint(files: FileStore) -> str:
    digest = hashlib.sha256()
    for place in evenly_spaced(len(files.names), MAX_IMAGES):
        status = Path(files.locate(place)).stat()
        digest.update(
            f"{files.names[place]}\x00{status.st_size}\x00{status.st_mtime_ns}\n".encode(errors="surrogateescape")
        )
    return digest.hexdigest()[:32]


def _histogram(store: Store) -> np.ndarray:
    """Count the values of each channel: int64 [3, 256]."""
    # Torch takes seconds to import, and a kept result needs none of it.
    from trainables.data.decode import read_rgb

    counts = np.zeros((3, 256), dtype=np.int64)
    last: DecodeError | None = None
    for place in evenly_spaced(len(store.names), MAX_IMAGES):
        try:
            pixels = read_rgb(store, place).numpy()
        except DecodeError as error:
            last = error
            continue
        for channel, values in enumerate(pixels):
            counts[channel] += np.bincount(values.reshape(-1), minlength=256)
    if last is not None and counts.sum() == 0:
        raise last
    return counts


def _moments(counts: np.ndarray) -> tuple[Channels, Channels]:
    values = np.arange(256, dtype=np.int64)
    means, stds = [], []
    for row in counts:
        total, first, second = int(row.sum()), int((row * values).sum()), int((row * values**2).sum())
        means.append(first / total / 255.0)
        stds.append(math.sqrt(total * second - first**2) / total / 255.0)
    return (means[0], means[1], means[2]), (stds[0], stds[1], stds[2])


def _read(kept: Path) -> tuple[Channels, Channels] | None:
    try:
        content = json.loads(kept.read_text())
        mean, std = (tuple(float(value) for value in content[key]) for key in ("mean", "std"))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (mean, std) if len(mean) == len(std) == 3 else None
