"""The process that decodes beside a trainer; `loader_process` starts it.

Each of its threads has a connection and a buffer of shared memory of its own: it reads a request, writes the pixels to
the buffer, and answers. It ends with its trainer, however that ends.
"""

from __future__ import annotations

import logging
import mmap
import os
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch

from trainables.data.images import ImageSource
from trainables.data.index import Split
from trainables.data.quarantine import Quarantine
from trainables.errors import Epoch14Error

LOOK_EVERY_S = 0.2
"""Seconds between two looks at whether the trainer lives."""


@dataclass(frozen=True)
class SetUp:
    """The first message: what every request refers to."""

    splits: Mapping[str, tuple[Split, int | None]]
    """Images by name, and the most of them that may be quarantined; None: none may, one is an error."""
    torch_threads: int
    """Intra-op threads, which show in the last bits of a mean."""


@dataclass(frozen=True)
class Request:
    """A batch of a source."""

    split: str
    settings: Mapping[str, Any]
    """The source's other fields."""
    ids: np.ndarray
    epoch: int | np.ndarray | None
    sound: bool
    """Whether `fetch_sound` is asked for, rather than `fetch`."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of the pixels: n, height, width, channels."""
        side = self.settings["image_size"]
        return len(self.ids), side, side, 3


@dataclass(frozen=True)
class Reply:
    """How a request went; the pixels lie in the buffer, one image after the other."""

    kept: np.ndarray
    """Ids of these images."""
    quarantined: Mapping[int, str]
    """All that the process has quarantined of the split so far: sample id -> line of the error."""
    error: Epoch14Error | None


class Buffer:
    """Shared memory that two processes map, as large as the largest batch so far.

    It has no name, so nothing is left of it when both are gone, and a container's limit on /dev/shm doesn't count.

    Args:
        file: descriptor of a memory file, which is closed by `close`.

    """

    def __init__(self, file: int) -> None:
        self.file = file
        self._memory: mmap.mmap | None = None

    def batch(self, shape: tuple[int, int, int, int]) -> torch.Tensor:
        """Its first bytes as uint8 of `shape`."""
        size = int(np.prod(shape))
        if self._memory is None or len(self._memory) < size:
            # The trainer asks first, so that the worker finds the file as long as it needs it.
            if os.fstat(self.file).st_size < size:
                os.ftruncate(self.file, size)
            self._memory = mmap.mmap(self.file, max(size, 1))
        return torch.frombuffer(self._memory, dtype=torch.uint8)[:size].view(shape)

    def close(self) -> None:
        """Let go of it; batches that are in use keep their memory."""
        os.close(self.file)
        # The number may soon be another file's.
        self.file, self._memory = -1, None


def answer(request: Request, buffer: Buffer, split: Split, quarantine: Quarantine | None) -> Reply:
    """Do what a request asks for."""
    source = ImageSource(split, quarantine=quarantine, **request.settings)
    out, kept, error = buffer.batch(request.shape), request.ids, None
    try:
        if request.sound:
            _, kept = source.fetch_sound(request.ids, out=out)
        else:
            source.fetch(request.ids, request.epoch, out=out)
    except Epoch14Error as caught:
        error = caught
    return Reply(kept, quarantine.reasons() if quarantine else {}, error)


def serve(connection: Connection, buffer: Buffer, splits: Mapping[str, tuple[Split, Quarantine | None]]) -> None:
    """Answer requests until the trainer closes the connection."""
    with suppress(EOFError, ConnectionError):
        while True:
            request: Request = connection.recv()
            connection.send(answer(request, buffer, *splits[request.split]))


def main() -> None:
    """Serve the trainer whose process id, and whose connections and buffers by descriptor, are the arguments."""
    trainer, *files = (int(argument) for argument in sys.argv[1:])
    connections = [Connection(file) for file in files[::2]]
    # The trainer says what is quarantined.
    logging.disable()
    try:
        set_up: SetUp = connections[0].recv()
    except (EOFError, ConnectionError):
        return
    torch.set_num_threads(set_up.torch_threads)
    splits = {
        name: (split, None if limit is None else Quarantine(split, limit))
        for name, (split, limit) in set_up.splits.items()
    }
    threads = [
        threading.Thread(target=serve, args=(connection, Buffer(file), splits), daemon=True)
        for connection, file in zip(connections, files[1::2], strict=True)
    ]
    for thread in threads:
        thread.start()
    # A thread that ends has lost its trainer, or has met a bug and printed it: the trainer then sees this process end.
    while os.getppid() == trainer and all(thread.is_alive() for thread in threads):
        time.sleep(LOOK_EVERY_S)
    sys.stderr.flush()
    os._exit(1)
