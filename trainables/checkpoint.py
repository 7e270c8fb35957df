"""Checkpoints that a long run can be trusted to: whole or not there, hashed, without pickle, written in the background.

    step-000000123/
        state.safetensors    every tensor by name
        manifest.json        format, step, score, meta; size and hash of the state, hash of the manifest itself

What is read back is what was saved, bit for bit; or it is reported as damaged, and the checkpoint before it is used.
"""

from __future__ import annotations

import errno
import json
import logging
import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, TypeVar

from torch import Tensor

from trainables.checkpoint_files import open_files
from trainables.checkpoint_format import (
    MANIFEST,
    STATE,
    DamagedError,
    Manifest,
    pack_manifest,
    pack_tensors,
    unpack_manifest,
    unpack_tensors,
)
from trainables.errors import CheckpointError, complaint
from trainables.places import FAILURES, explain

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Checkpoint:
    """What was saved."""

    step: int
    """Next step to run."""
    tensors: dict[str, Tensor]
    """Host tensors by name, contiguous."""
    meta: dict[str, Any]
    uri: str
    """The store that it comes from."""


class Standing(NamedTuple):
    """Place of a checkpoint among the others; the greatest is the best."""

    score: float
    sequence: int
    """The greatest is the newest."""

    @classmethod
    def of(cls, score: float, sequence: int) -> Self:
        """The standing; a score of nan is below all others."""
        return cls(-math.inf if math.isnan(score) else score, sequence)


class CheckpointStore:
    """Checkpoints of one run below one URI. One process saves, and uses the store from one thread.

    Kept are the last `keep` that were saved and the one with the best score; an older one is removed only after the
    newer one is committed. The newest is the one saved last: a run that goes back to an earlier step and saves there
    is resumed from there.

    Args:
        uri: a folder, made where it is missing, or s3://bucket/prefix; see places.open_filesystem.
        keep: latest checkpoints kept, at least 1.

    Raises:
        CheckpointError: the place can't be written; one line, before any work.

    Example:
        >>> with CheckpointStore("checkpoints", keep=2) as store:
        ...     store.save(500, state.snapshot().tensors, {"loss": 6.2}, score=0.11)
        >>> store.latest().step
        500

    """

    def __init__(self, uri: str, *, keep: int) -> None:
        assert keep >= 1
        self.uri = uri
        self.keep = keep
        self.failures: list[str] = []
        """One line for each save, or removal of old checkpoints, that failed."""
        self._files = open_files(uri)
        self._standings: dict[int, Standing] | None = None
        """By step; None: not known, read the manifests."""
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save(self, step: int, tensors: dict[str, Tensor], meta: dict[str, Any], *, score: float = 0.0) -> None:
        """Write a checkpoint in the background; waits first for the one before it, so that memory holds one at most.

        A place that fails (disk full, permission lost, server gone) ends nothing: it is logged and added to `failures`,
        the former checkpoints stay, and the next save tries again.

        Args:
            step: next step to run.
            tensors: host tensors that nobody changes later; strides don't matter.
            meta: what JSON holds: strings, numbers, booleans, None, lists, dicts with string keys; read before this
                returns. Floats keep their bits; nan and inf are written as NaN and Infinity, which Python's json reads.
            score: higher is better; nan is below all others.

        Raises:
            TypeError: `meta` holds what JSON doesn't.

        """
        assert all(tensor.device.type == "cpu" for tensor in tensors.values())
        text = json.dumps(meta)
        self.wait()
        self._pending = self._writer.submit(self._write, step, dict(tensors), text, float(score))

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint whose hashes are right; None where there is none.

        Damaged ones are logged and set aside. Raises CheckpointError where the place can't be read: a run must not
        start anew because a server is away.
        """
        return self._first_whole(lambda standing: standing.sequence)

    def best(self) -> Checkpoint | None:
        """The checkpoint with the highest score, the newest among equals; else as `latest`."""
        return self._first_whole(lambda standing: standing)

    def manifests(self) -> list[Manifest]:
        """What is kept, without the tensors, by step; damaged ones are set aside, errors as `latest`."""
        self.wait()
        return self._reading(lambda: [m for m in self._manifests().values() if m is not None])

    def at(self, step: int) -> Checkpoint | None:
        """The checkpoint of `step`; None where it is not there or damaged; errors as `latest`."""
        self.wait()
        return self._reading(lambda: self._guard(step, self._read_checkpoint))

    def wait(self) -> None:
        """Return when what was saved is on the disk, or has failed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Wait, and end the writer."""
        try:
            self.wait()
        finally:
            self._writer.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _first_whole(self, place: Callable[[Standing], Any]) -> Checkpoint | None:
        """The whole checkpoint with the greatest `place`."""
        self.wait()

        def first() -> Checkpoint | None:
            standings = self._read_standings()
            steps = sorted(standings, key=lambda step: place(standings[step]), reverse=True)
            found = (self._guard(step, self._read_checkpoint) for step in steps)
            return next((checkpoint for checkpoint in found if checkpoint is not None), None)

        return self._reading(first)

    def _reading(self, read: Callable[[], T]) -> T:
        """What `read` returns; raises CheckpointError where the place can't be read."""
        try:
            return read()
        except FAILURES as error:
            reason, remedy = explain(error)
            allowed = f"a place that can be read ({reason})"
            raise CheckpointError(complaint("checkpoint", self.uri, allowed, remedy)) from None

    def _write(self, step: int, tensors: dict[str, Tensor], meta: str, score: float) -> None:
        """Commit a checkpoint, then remove the ones that it makes old; runs in the writer's thread."""
        task = f"the checkpoint of step {step} was not written to {self.uri}"
        stays = "the former ones stay, the next save tries again"
        try:
            standings = self._read_standings() if self._standings is None else self._standings
            sequence = 1 + max((standing.sequence for standing in standings.values()), default=0)
            state = pack_tensors(tensors)
            manifest = pack_manifest(step, score, sequence, meta, state)
            self._files.write(step, {STATE: state, MANIFEST: manifest})
            standings[step] = Standing.of(score, sequence)
            task = f"old checkpoints were not removed from {self.uri} after step {step}"
            stays = "the new one is there, the next save tries again"
            self._remove_old(standings)
            self._standings = standings
        except FAILURES as error:
            self._standings = None
            reason, remedy = explain(error)
            self.failures.append(f"{task}: {reason}; {stays}; remedy: {remedy}")
            log.warning("%s", self.failures[-1])

    def _remove_old(self, standings: dict[int, Standing]) -> None:
        newest = sorted(standings, key=lambda step: standings[step].sequence)[-self.keep :]
        best = max(standings, key=lambda step: standings[step])
        for step in standings.keys() - {*newest, best}:
            self._files.remove(step)
            del standings[step]

    def _read_standings(self) -> dict[int, Standing]:
        """Standings by step of the checkpoints whose manifests are whole."""
        return {step: Standing.of(m.score, m.sequence) for step, m in self._manifests().items() if m is not None}

    def _manifests(self) -> dict[int, Manifest | None]:
        return {step: self._guard(step, self._read_manifest) for step in sorted(self._files.steps())}

    def _read_manifest(self, step: int) -> Manifest:
        return unpack_manifest(self._content(step, MANIFEST), step)

    def _read_checkpoint(self, step: int) -> Checkpoint:
        manifest = self._read_manifest(step)
        tensors = unpack_tensors(self._content(step, STATE), manifest)
        return Checkpoint(step, tensors, manifest.meta, self.uri)

    def _content(self, step: int, name: str) -> bytes:
        try:
            return self._files.read(step, name)
        except FileNotFoundError:
            raise DamagedError(f"{name} is missing") from None
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            raise DamagedError(f"{name} lies on a bad part of the disk") from None

    def _guard(self, step: int, read: Callable[[int], T]) -> T | None:
        """What `read` returns; None for a damaged checkpoint, which is logged and set aside."""
        try:
            return read(step)
        except DamagedError as damage:
            # The next save must not count, nor remove, what is no longer there.
            self._standings = None
            try:
                fate = f"it is set aside as {self._files.set_aside(step)}"
            except FAILURES as error:
                fate = f"it can't be set aside ({explain(error)[0]})"
            log.warning(
                "the checkpoint of step %d in %s is damaged: %s; %s, and passed over", step, self.uri, damage, fate
            )
            return None
