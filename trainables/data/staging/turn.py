"""One process of a machine fetches a data set; the others wait for it, and hear how far it is."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from trainables.data.shards.meter import Progress

QUIET_S = 2.0
"""What takes no longer than this says nothing."""
EVERY_S = 10.0
"""Between two lines of a process."""
POLL_S = 0.1
"""Between two looks at the lock, and two notes of the progress for those who wait."""
_NOTE_BYTES = 100


@contextmanager
def turn(lock: Path, what: str) -> Iterator[Callable[[Progress], None]]:
    """Hold a lock; waits while another process holds it, which the system ends when that process does.

    Args:
        lock: a file, which is made and stays: a lock on a file that was removed would keep nobody out.
        what: is staged, for the lines on stderr.

    Yields:
        A listener that tells on stderr, and through the file, how far this process is.

    Raises:
        OSError: the file can't be made, or its file system has no locks.

    """
    handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        lines = _Lines()
        while not _is_ours(handle):
            lines.tell(f"waiting for the process that stages {what}: {os.pread(handle, _NOTE_BYTES, 0).decode()}")
            time.sleep(POLL_S)
        os.ftruncate(handle, 0)
        yield _Teller(handle, what).tell
    finally:
        os.close(handle)


def _is_ours(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class _Teller:
    """Tells the progress of this process."""

    def __init__(self, handle: int, what: str) -> None:
        self._handle, self._what = handle, what
        self._lines = _Lines()
        self._noted = time.monotonic()

    def tell(self, progress: Progress) -> None:
        text = _text(progress)
        self._lines.tell(f"staging {self._what}: {text}")
        now = time.monotonic()
        if now - self._noted >= POLL_S:
            self._noted = now
            # One write of one length: whoever reads meanwhile finds no end of an older note.
            os.pwrite(self._handle, text.ljust(_NOTE_BYTES).encode(), 0)


class _Lines:
    """Writes a line on stderr now and then."""

    def __init__(self) -> None:
        self._next = time.monotonic() + QUIET_S

    def tell(self, text: str) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + EVERY_S
            sys.stderr.write(f"epoch14: {text.strip()}\n")


def _text(progress: Progress) -> str:
    """`45 % of 192.0 MB, 80.2 MB/s, about 2 s left`."""
    total = max(progress.total_bytes, 1)
    # What is fetched a second time is counted again.
    done = min(progress.bytes, total)
    rate = done / max(progress.seconds, 1e-3)
    left = (total - done) / max(rate, 1.0)
    return f"{100 * done / total:.0f} % of {total / 1e6:.1f} MB, {rate / 1e6:.1f} MB/s, about {left:.0f} s left"
