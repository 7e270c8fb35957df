"""Whether shards are as they were written."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from trainables.data.shards.format import INDEX, ShardFile, ShardIndex, Where, checksum_of, parse_index
from trainables.data.shards.meter import Meter, Progress, run_jobs
from trainables.data.shards.target import Target, open_target, place_errors


def verify(target: str, *, threads: int, listener: Callable[[Progress], None]) -> ShardIndex:
    """Read every file that the index names and compare its checksum.

    Args:
        target: a path or s3://bucket/prefix.
        threads: files that are read at once.
        listener: told how far the work is; called in any thread, by one at a time.

    Raises:
        DataError: the index is missing, damaged or foreign, or files are missing or not as they were written.

    """
    where = Where("DST", target)
    meter = Meter(listener)
    with place_errors(where, writing=False):
        place = open_target(where, writing=False)
        if INDEX not in place.names():
            raise where.error(
                f"a folder of finished shards (it has no {INDEX})", "run epoch14 shard SRC DST to its end"
            )
        index = parse_index(place.read(INDEX).decode(errors="replace"), where)
        meter.begin("verifying", sum(file.bytes for file in index.files))
        jobs = [partial(_problem, place, file, meter) for file in index.files]
        problems = [problem for problem in run_jobs(jobs, threads, meter) if problem is not None]
    if problems:
        more = f", and {len(problems) - 3} more" if len(problems) > 3 else ""
        remedy = "remove these files and run the epoch14 shard command that made them again: it writes what is missing"
        raise where.error(f"shards as they were written ({', '.join(problems[:3])}{more})", remedy)
    return index


def _problem(place: Target, file: ShardFile, meter: Meter) -> str | None:
    """What is wrong with a file, or None."""
    size = place.size(file.name)
    if size is None:
        return f"{file.name} is missing"
    if size != file.bytes:
        return f"{file.name} has {size} of {file.bytes} bytes"
    found = checksum_of(lambda: place.open_input(file.name), lambda read: meter.add(0, read))
    meter.add(file.rows if not file.name.startswith("rows-") else 0, 0)
    return None if found == file.checksum else f"the checksum of {file.name} is wrong"
