"""One file of a data set, from an object store to the local disk: parts side by side, then proved by its checksum."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from trainables.data.shards.format import ShardFile, Where, checksum_of
from trainables.data.shards.meter import Meter, run_jobs
from trainables.data.shards.remote import read_range
from trainables.data.shards.target import FolderTarget, Target
from trainables.errors import DataError
from trainables.places import FAILURES, explain

PART_BYTES = 8 << 20
"""Of one request: so many that its latency doesn't count, so few that all of them fit the memory."""
PARTS_AT_ONCE = 4
"""Of one file."""
FETCHES = 2
"""Of a file whose checksum differs: what was damaged on the way may be whole the second time."""
PARTIAL = ".partial"
"""Ends the name of a file that is not yet whole."""


@dataclass(frozen=True)
class Copy:
    """What is copied from where to where."""

    where: Where
    """What an error names: data.path and the URI."""
    remote: Target
    folder: Path
    """Local."""

    def fetch(self, file: ShardFile, meter: Meter) -> None:
        """Fetch a file; under its own name it is whole, verified and on the disk.

        Raises:
            DataError: the object is missing, damaged or can't be read, or the disk is full or fails.

        """
        path = self.folder / f"{file.name}{PARTIAL}"
        with cache_errors(self.folder):
            try:
                for _ in range(FETCHES):
                    self._fetch_parts(file, path, meter)
                    if checksum_of(lambda: path.open("rb")) == file.checksum:
                        FolderTarget(self.folder).take(path, file.name)
                        return
            finally:
                path.unlink(missing_ok=True)
        raise self._damaged(file, "its checksum is wrong, twice")

    def _fetch_parts(self, file: ShardFile, path: Path, meter: Meter) -> None:
        with path.open("wb") as out:
            # Here, not in the last part, a full disk shows.
            os.posix_fallocate(out.fileno(), 0, file.bytes)
        with self.object_errors(file.name):
            source = self.remote.open_input(file.name)
            size = source.size()
        with source:
            if size != file.bytes:
                raise self._damaged(file, f"it has {size} of {file.bytes} bytes")
            starts = range(0, file.bytes, PART_BYTES)
            jobs = [partial(self._fetch_part, file, source, start, path, meter) for start in starts]
            run_jobs(jobs, PARTS_AT_ONCE, meter)

    def _fetch_part(self, file: ShardFile, source: Any, start: int, path: Path, meter: Meter) -> None:
        with self.object_errors(file.name):
            data = read_range(source, start, min(PART_BYTES, file.bytes - start), meter.wait)
        with path.open("r+b") as out:
            out.seek(start)
            out.write(data)
        meter.add(0, len(data))

    @contextmanager
    def object_errors(self, name: str) -> Iterator[None]:
        """Turn the failure of an object into one line."""
        try:
            yield
        except FAILURES as error:
            reason, remedy = explain(error)
            if isinstance(error, FileNotFoundError):
                reason, remedy = "it is missing", "write it again with the epoch14 shard command that made the shards"
            raise self._error(name, f"objects that can be read ({reason})", remedy) from None

    def _damaged(self, file: ShardFile, problem: str) -> DataError:
        remedy = "remove this object and run the epoch14 shard command that made it again: it writes what is missing"
        return self._error(file.name, f"objects as they were written ({problem})", remedy)

    def _error(self, name: str, allowed: str, remedy: str) -> DataError:
        return Where(self.where.key, f"{self.where.value.rstrip('/')}/{name}").error(allowed, remedy)


@contextmanager
def cache_errors(folder: Path) -> Iterator[None]:
    """Turn the failure of the local disk into one line."""
    try:
        yield
    except OSError as error:
        reason, remedy = explain(error)
        allowed = f"a folder on a local disk that can be written ({reason})"
        raise Where("EPOCH14_CACHE", str(folder)).error(allowed, f"{remedy}, or set EPOCH14_CACHE to another") from None
