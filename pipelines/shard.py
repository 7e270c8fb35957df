"""`epoch14 shard`: its options' texts, its progress and its last line."""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING

from pipelines.progress.pace import Clock, Every, duration
from trainables.errors import ConfigError, complaint

if TYPE_CHECKING:
    from trainables.data.shards.format import Reencode
    from trainables.data.shards.meter import Progress

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}
MIN_SIZE, MAX_SIZE = 10**3, 4 * 10**9
"""Bytes of a shard."""
EVERY_S = 5.0
"""Between two lines of progress."""


def shard(source: str, target: str, *, seed: int, shard_size: str, reencode: str | None, threads: int | None) -> str:
    """Convert a data set, with progress on stderr; returns the closing line.

    Raises:
        ConfigError: an option's text is wrong.
        DataError: source or target can't be used.

    """
    size = parse_size(shard_size)
    encode = None if reencode is None else parse_reencode(reencode)
    count = parse_threads(threads)
    import torch

    from trainables.data.shards.convert import convert
    from trainables.data.shards.plan import Settings

    lines = Lines(time.monotonic)
    intra_op = torch.get_num_threads()
    # The threads here are the parallelism; torch's own would fight with them for the cores.
    torch.set_num_threads(1)
    try:
        outcome = convert(source, target, Settings(seed, size, encode), threads=count, listener=lines)
    finally:
        torch.set_num_threads(intra_op)
    index = outcome.index
    total = len(index.train.shards) + len(index.val.shards)
    images = f"train {index.train.images} and val {index.val.images} images of {len(index.classes)} classes"
    done = f"{outcome.written} of {total} shards written: {outcome.images} images, "
    work = done + speed(outcome.bytes, lines.seconds) if outcome.written else f"all {total} shards were there"
    return f"shards: {target}: {images}; {work}"


def verify(target: str, *, threads: int | None) -> str:
    """Compare all checksums of shards, with progress on stderr; returns the closing line. Raises DataError."""
    count = parse_threads(threads)
    from trainables.data.shards.verify import verify as verify_shards

    lines = Lines(time.monotonic)
    index = verify_shards(target, threads=count, listener=lines)
    size = sum(file.bytes for file in index.files)
    return f"shards: {target}: {len(index.files)} files as they were written, {speed(size, lines.seconds)}"


def parse_size(text: str) -> int:
    """Bytes of `192MB`. Raises ConfigError."""
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?) ?([KMG]B)", text.strip(), re.IGNORECASE | re.ASCII)
    size = round(float(match.group(1)) * UNITS[match.group(2).upper()]) if match else 0
    if not MIN_SIZE <= size <= MAX_SIZE:
        raise ConfigError(
            complaint("--shard-size", text, "a size from 1KB to 4GB, such as 192MB", "write --shard-size 192MB")
        )
    return size


def parse_reencode(text: str) -> Reencode:
    """Read `short=352,quality=90`. Raises ConfigError."""
    from pydantic import ValidationError

    from trainables.data.shards.format import Reencode

    parts = [part.partition("=") for part in text.split(",")]
    values = {key.strip(): value.strip() for key, _, value in parts}
    # A key that was given twice is no key.
    values = values if len(values) == len(parts) else {}
    try:
        return Reencode.model_validate(values)
    except ValidationError:
        allowed = "short=PIXELS,quality=PERCENT with 16 to 8192 pixels and a quality of 1 to 100"
        raise ConfigError(complaint("--reencode", text, allowed, "write --reencode short=352,quality=90")) from None


def parse_threads(threads: int | None) -> int:
    """Threads to use; None: one a core, up to 8. Raises ConfigError."""
    if threads is None:
        return min(8, os.cpu_count() or 1)
    if not 1 <= threads <= 256:
        raise ConfigError(complaint("--threads", threads, "1 to 256", "leave it out"))
    return threads


def speed(size: int, seconds: float) -> str:
    """`120 MB in 3 s, 40.0 MB/s`."""
    return f"{size / 1e6:.1f} MB in {duration(seconds)}, {size / 1e6 / max(seconds, 1e-3):.1f} MB/s"


class Lines:
    """Writes a line of progress on stderr every few seconds. `clock`: seconds, monotonic."""

    def __init__(self, clock: Clock) -> None:
        self._every = Every(EVERY_S, clock)
        self.seconds = 0.0
        """Since the present stage began, at its last report."""

    def __call__(self, progress: Progress) -> None:
        """Hear how far the work is."""
        self.seconds = progress.seconds
        if not progress.bytes or not self._every.due():
            return
        import typer

        left = progress.seconds * max(progress.total_bytes - progress.bytes, 0) / progress.bytes
        share = 100 * progress.bytes / max(progress.total_bytes, 1)
        typer.echo(
            f"epoch14: {progress.stage}: {share:.0f} %, {progress.images} images, "
            f"{progress.bytes / 1e6 / max(progress.seconds, 1e-3):.1f} MB/s; about {duration(left)} left",
            err=True,
        )
