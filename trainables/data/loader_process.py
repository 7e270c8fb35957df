"""Decoding in one process beside the trainer, which keeps Python's lock for what launches kernels.

In the trainer each fetch only waits for an answer and copies pixels, both without the lock. Batches are pure functions
of what is asked for, so they are the same bits wherever they are made.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import Self

import numpy as np
import torch

from trainables.data.images import ImageSource
from trainables.data.loader_worker import Buffer, Reply, Request, SetUp
from trainables.errors import ConfigError, LoaderError, complaint

# By -m the module would be __main__, and what it sends of another class than what is received here.
WORKER = "from trainables.data.loader_worker import main; main()"
NOT_SENT = ("split", "quarantine", "helper")
"""Fields of a source that the worker has its own of."""
PATIENCE_S = 10.0
"""Seconds that a process which closed its connections may take to end."""


@dataclass(frozen=True)
class _Line:
    """A thread of the worker, as the trainer sees it."""

    connection: Connection
    buffer: Buffer


class LoaderProcess:
    """A helper of image sources; starts with the first fetch, and may be asked from several threads at once.

    Its memory is that of `threads` batches, each as large as the largest so far. It ends with `close`, with this
    object, or with this process, and is killed then, as it holds nothing that must be kept.

    Args:
        sources: by name; those that differ from one of these in plain settings are served too.
        threads: that decode, each a batch.
        pinned: whether batches come in page-locked memory, from which a GPU copies while the host goes on.

    Raises:
        ConfigError: this is no Linux.

    """

    def __init__(self, sources: Mapping[str, ImageSource], threads: int, *, pinned: bool = False) -> None:
        if sys.platform != "linux":
            raise ConfigError(complaint("data.loader", "process", "threads on this system", "set data.loader=threads"))
        self._sources = dict(sources)
        self._threads = threads
        self._pinned = pinned
        self._lock = threading.Lock()
        self._free: SimpleQueue[_Line] = SimpleQueue()
        self._process: subprocess.Popen[bytes] | None = None
        self._end: weakref.finalize[..., LoaderProcess] | None = None

    @property
    def pid(self) -> int | None:
        """Of the process; None before the first fetch."""
        return None if self._process is None else self._process.pid

    def serves(self, source: ImageSource) -> bool:
        """Whether images, decoder and quarantine are those of a source that the process was made for."""
        return self._name(source) is not None

    def fetch(self, source: ImageSource, ids: np.ndarray, epoch: int | np.ndarray | None) -> torch.Tensor:
        """As `ImageSource.fetch`. Raises LoaderError besides, where the process has ended."""
        return self._ask(source, ids, epoch, sound=False)[0]

    def fetch_sound(self, source: ImageSource, ids: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        """As `ImageSource.fetch_sound`. Raises LoaderError besides, where the process has ended."""
        return self._ask(source, ids, None, sound=True)

    def close(self) -> None:
        """End the process; returns when it is gone. May be called twice."""
        if self._end is not None:
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _name(self, source: ImageSource) -> str | None:
        """Name of the one it was made for."""
        same = ("split", "decoder", "quarantine")
        for name, own in self._sources.items():
            if all(getattr(source, key) is getattr(own, key) for key in same):
                return name
        return None

    def _ask(
        self, source: ImageSource, ids: np.ndarray, epoch: int | np.ndarray | None, *, sound: bool
    ) -> tuple[torch.Tensor, np.ndarray]:
        name = self._name(source)
        assert name is not None
        settings = {field.name: getattr(source, field.name) for field in fields(source) if field.name not in NOT_SENT}
        request = Request(name, settings, ids, epoch, sound)
        with self._lock:
            if self._process is None:
                self._start()
        line = self._free.get()
        try:
            pixels = line.buffer.batch(request.shape)
            line.connection.send(request)
            reply: Reply = line.connection.recv()
            kept = pixels[: len(reply.kept)]
            batch = torch.empty(kept.shape, dtype=torch.uint8, pin_memory=self._pinned).copy_(kept)
        except (EOFError, OSError):
            raise self._ended() from None
        except BaseException:
            # The answer that was not waited for must not be taken for the next one's.
            self.close()
            raise
        finally:
            self._free.put(line)
        if source.quarantine is not None:
            source.quarantine.merge(reply.quarantined)
        if reply.error is not None:
            raise reply.error
        return batch, reply.kept

    def _start(self) -> None:
        """Start the process. Not a fork, which would copy locks that threads hold, and not multiprocessing's spawn.

        The latter runs the caller's main module again, and refuses daemonic processes.
        """
        pairs = [Pipe() for _ in range(max(self._threads, 1))]
        buffers = [Buffer(os.memfd_create("epoch14-batch")) for _ in pairs]
        theirs = [file for (_, end), buffer in zip(pairs, buffers, strict=True) for file in (end.fileno(), buffer.file)]
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter, and a module of ours
            [sys.executable, "-P", "-c", WORKER, str(os.getpid()), *map(str, theirs)],
            stdin=subprocess.DEVNULL,
            pass_fds=theirs,
            # It takes no memory of a GPU.
            env={**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""},
            # Ctrl-C is the trainer's affair.
            process_group=0,
        )
        for _, end in pairs:
            end.close()
        lines = [_Line(own, buffer) for (own, _), buffer in zip(pairs, buffers, strict=True)]
        self._end = weakref.finalize(self, _end, self._process, lines, os.getpid())
        for line in lines:
            self._free.put(line)
        splits = {
            name: (source.split, None if source.quarantine is None else source.quarantine.limit)
            for name, source in self._sources.items()
        }
        try:
            lines[0].connection.send(SetUp(splits, torch.get_num_threads()))
        except OSError:
            raise self._ended() from None

    def _ended(self) -> LoaderError:
        """The one line for a process that is no more."""
        assert self._process is not None
        try:
            code = self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            how = "hangs"
        else:
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        self.close()
        allowed = f"a process that lives as long as the run (this one {how})"
        remedy = "see its last lines and the host's memory, or set data.loader=threads"
        return LoaderError(complaint("data.loader", "process", allowed, remedy))


def _end(process: subprocess.Popen[bytes], lines: Sequence[_Line], owner: int) -> None:
    """Kill the worker and free what it was reached by."""
    # A fork of the trainer has this to do at its exit too.
    if os.getpid() != owner:
        return
    process.kill()
    process.wait()
    for line in lines:
        line.connection.close()
        line.buffer.close()
