"""Which images are read where not all are, and by how many threads; needs no torch."""

from __future__ import annotations

import os
from collections.abc import Sequence

MAX_THREADS = 16


def evenly_spaced(count: int, limit: int | None) -> Sequence[int]:
    """Places of all of `count` images, or of `limit` evenly spaced ones: some of every class."""
    if limit is None or count <= limit:
        return range(count)
    return [i * count // limit for i in range(limit)]


def usable_threads() -> int:
    """Threads that decode: one for each core that this process may use, up to MAX_THREADS."""
    return min(MAX_THREADS, len(os.sched_getaffinity(0)))
