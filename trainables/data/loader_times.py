"""What a loader costs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class LoaderTimes:
    """Where the time of a prefetcher, and of those who wait for it, went so far."""

    waited: float = 0.0
    """Seconds that `get` took."""
    busy: float = 0.0
    """Seconds that `fetch` took, over all threads."""
    fetched: int = 0
    """Items that were made."""
