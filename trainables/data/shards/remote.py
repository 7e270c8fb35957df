"""Files of an object store, each read of which is tried again while the store fails in a way that may pass."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from typing import Any

from trainables.retries import patiently

Sleep = Callable[[float], None]
"""Waits so many seconds, or raises to end the matter."""


def read_range(source: Any, start: int, length: int, sleep: Sleep = time.sleep) -> bytes:
    """A range of an open object, whole. Raises one of FAILURES."""
    return patiently(lambda: _read_once(source, start, length), sleep=sleep)


def _read_once(source: Any, start: int, length: int) -> bytes:
    data = bytes(source.read_at(length, start))
    if len(data) != length:
        raise OSError(f"only {len(data)} of {length} bytes came")
    return data


class PatientFile(io.RawIOBase):
    """A file of any file system, read from its begin to its end or at random, by one thread at a time.

    Args:
        filesystem: of pyarrow.
        path: in it.
        sleep: between two tries.

    Raises:
        OSError: the file can't be opened; its methods raise one of FAILURES where it can't be read.

    """

    def __init__(self, filesystem: Any, path: str, sleep: Sleep = time.sleep) -> None:
        self._place, self._sleep = 0, sleep
        self._source = patiently(lambda: filesystem.open_input_file(path), sleep=sleep)
        self._size: int = self._source.size()

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte; returns its place."""
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        return self._place

    def tell(self) -> int:
        """The place of the next byte."""
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        """The next bytes: so many, or all that are left."""
        left = max(self._size - self._place, 0)
        length = left if size is None or size < 0 else min(size, left)
        data = read_range(self._source, self._place, length, self._sleep) if length else b""
        self._place += length
        return data

    def close(self) -> None:
        """Let the object go."""
        if not self.closed:
            self._source.close()
        super().close()
