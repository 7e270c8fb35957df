"""Where the files of checkpoints lie: a folder of a file system, or a prefix of an object store.

Each checkpoint is a folder `step-000000123/`. Both kinds of place commit it as a whole: a file system by renaming
the folder that was written beside it, an object store, which can't rename, by the manifest, which is written last. One
process writes to a place; any number may read it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from pyarrow import fs

from trainables.checkpoint_format import MANIFEST
from trainables.errors import CheckpointError, complaint
from trainables.places import FAILURES, explain, open_filesystem
from trainables.retries import OPENING, patient

_KEY = "checkpoint"
_FOLDER = re.compile(r"step-(\d{9,})")
_REPLACED = re.compile(r"\.(step-\d{9,})\.old-[0-9a-f]+")


class Files(Protocol):
    """A place that holds checkpoints. Each method raises one of FAILURES where the place fails."""

    def steps(self) -> list[int]:
        """Steps of the committed checkpoints, in no order."""

    def read(self, step: int, name: str) -> bytes:
        """Whole content of a file; raises FileNotFoundError where it is missing."""

    def write(self, step: int, files: Mapping[str, bytes]) -> None:
        """Commit a checkpoint, the manifest as its last file; one of the same step is replaced."""

    def remove(self, step: int) -> None:
        """Remove a checkpoint; a crash meanwhile leaves the whole or nothing."""

    def set_aside(self, step: int) -> str:
        """Take a damaged checkpoint out of `steps` without losing its bytes; returns where they are."""


def open_files(uri: str) -> Files:
    """Open the place for reading and writing, and make it where it is a folder.

    Args:
        uri: as of `places.open_filesystem`.

    Raises:
        CheckpointError: nothing can be written there; one line.

    """
    try:
        filesystem, path = open_filesystem(uri)
        if isinstance(filesystem, fs.LocalFileSystem):
            return FolderFiles(Path(path))
        return ObjectFiles(filesystem, path)
    except FAILURES as error:
        reason, remedy = explain(error)
        allowed = f"a folder or s3://bucket/prefix that can be written ({reason})"
        raise CheckpointError(complaint(_KEY, uri, allowed, remedy)) from None


class FolderFiles:
    """Checkpoints in a folder of a file system.

    Whoever writes or cleans holds the lock of `.lock`, so that no opening takes a living writer's temporaries away.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for path in missing:
            _sync_folder(path.parent)
        with self._locked(wait=False) as alone:
            # What can't be written here can't be written later either.
            _write_synced(folder / ".lock", b"held while checkpoints are written\n")
            if alone:
                self._tidy()

    def steps(self) -> list[int]:
        """Steps of the committed checkpoints, in no order."""
        matches = [_FOLDER.fullmatch(entry.name) for entry in os.scandir(self.folder) if entry.is_dir()]
        return [int(match.group(1)) for match in matches if match]

    def read(self, step: int, name: str) -> bytes:
        """Whole content of a file; raises FileNotFoundError where it is missing."""
        return (self._path(step) / name).read_bytes()

    def write(self, step: int, files: Mapping[str, bytes]) -> None:
        """Write a folder beside, flush it to the disk, rename it."""
        with self._locked():
            temporary, final = self._beside(step, "tmp"), self._path(step)
            try:
                temporary.mkdir()
                for name, content in files.items():
                    _write_synced(temporary / name, content)
                _sync_folder(temporary)
                if final.exists():
                    final.rename(self._beside(step, "old"))
                temporary.rename(final)
                _sync_folder(self.folder)
            finally:
                with suppress(OSError):
                    self._tidy()

    def remove(self, step: int) -> None:
        """Remove a checkpoint; a crash meanwhile leaves the whole or nothing."""
        with self._locked():
            doomed = self._beside(step, "tmp")
            self._path(step).rename(doomed)
            shutil.rmtree(doomed)

    def set_aside(self, step: int) -> str:
        """Rename the folder to damaged-step-...; returns its new path."""
        aside = self.folder / f"damaged-{_name(step)}-{secrets.token_hex(4)}"
        self._path(step).rename(aside)
        return str(aside)

    def _path(self, step: int) -> Path:
        return self.folder / _name(step)

    def _beside(self, step: int, kind: str) -> Path:
        return self.folder / f".{_name(step)}.{kind}-{secrets.token_hex(8)}"

    def _tidy(self) -> None:
        """Remove what dead writers left; one that died between its two renames gets its former checkpoint back."""
        for path in self.folder.glob(".step-*.old-*"):
            replaced = _REPLACED.fullmatch(path.name)
            if replaced and not (self.folder / replaced.group(1)).exists():
                path.rename(self.folder / replaced.group(1))
            else:
                shutil.rmtree(path)
        for path in self.folder.glob(".step-*.tmp-*"):
            shutil.rmtree(path)

    @contextmanager
    def _locked(self, *, wait: bool = True) -> Iterator[bool]:
        """Hold the folder's lock; yields False where another process has it and `wait` is not set."""
        handle = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = True
            except OSError as error:
                # Some network file systems have no locks; there the rule of one writer is all there is.
                held = not isinstance(error, BlockingIOError)
            yield held
        finally:
            os.close(handle)


class ObjectFiles:
    """Checkpoints below a prefix of an object store.

    A folder without its manifest is the rest of a dead writer; the next write removes it. It is not removed earlier,
    as an opening can't know whether the writer is dead. Parts of uploads that a dead writer left are for the bucket's
    own rule (S3: AbortIncompleteMultipartUpload).
    """

    def __init__(self, filesystem: Any, root: str) -> None:
        self.filesystem = filesystem
        self.root = root.rstrip("/")
        if not self.root:
            raise FileNotFoundError(errno.EINVAL, "the bucket's name is missing")
        self._probe()

    @patient()
    def steps(self) -> list[int]:
        """Steps of the checkpoints that have a manifest, in no order."""
        steps = self._all_steps()
        return [step for step, there in zip(steps, self._have(steps, MANIFEST), strict=True) if there]

    @patient()
    def read(self, step: int, name: str) -> bytes:
        """Whole content of an object; raises FileNotFoundError where it is missing."""
        with self.filesystem.open_input_file(self._path(step, name)) as file:
            return bytes(file.read())

    def write(self, step: int, files: Mapping[str, bytes]) -> None:
        """Write the objects in their order; the manifest is the last and commits them."""
        self._make_room(step)
        try:
            for name, content in files.items():
                self._put(self._path(step, name), content)
        except BaseException:
            with suppress(*FAILURES):
                self._remove_once(step)
            raise

    @patient()
    def remove(self, step: int) -> None:
        """Remove what there is of a checkpoint, its manifest first; a crash meanwhile leaves the whole or nothing."""
        self._remove_once(step)

    def _remove_once(self, step: int) -> None:
        with suppress(FileNotFoundError):
            self.filesystem.delete_file(self._path(step, MANIFEST))
        with suppress(FileNotFoundError):
            self.filesystem.delete_dir(self._path(step))

    def set_aside(self, step: int) -> str:
        """Rename the manifest to manifest.damaged.json, by copy and delete; returns its new path.

        It stays until the same step is saved again.
        """
        aside = self._path(step, _aside(MANIFEST))
        self.filesystem.move(self._path(step, MANIFEST), aside)
        return aside

    def _path(self, step: int, *names: str) -> str:
        return "/".join((self.root, _name(step), *names))

    @patient(OPENING)
    def _probe(self) -> None:
        """Write and delete an object."""
        probe = f"{self.root}/.probe-{secrets.token_hex(8)}"
        self._put_once(probe, b"can be written\n")
        self.filesystem.delete_file(probe)

    @patient()
    def _put(self, path: str, content: bytes) -> None:
        self._put_once(path, content)

    def _put_once(self, path: str, content: bytes) -> None:
        with self.filesystem.open_output_stream(path, compression=None) as stream:
            stream.write(content)

    def _all_steps(self) -> list[int]:
        listed = self.filesystem.get_file_info(fs.FileSelector(self.root, allow_not_found=True))
        matches = [_FOLDER.fullmatch(info.base_name) for info in listed]
        return [int(match.group(1)) for match in matches if match]

    def _have(self, steps: list[int], name: str) -> list[bool]:
        infos = self.filesystem.get_file_info([self._path(step, name) for step in steps])
        return [info.type == fs.FileType.File for info in infos]

    @patient()
    def _make_room(self, step: int) -> None:
        """Remove a former checkpoint of `step`, and what dead writers left: folders with neither manifest."""
        steps = self._all_steps()
        held = zip(steps, self._have(steps, MANIFEST), self._have(steps, _aside(MANIFEST)), strict=True)
        for found, committed, aside in held:
            if found == step or not (committed or aside):
                self._remove_once(found)


def _name(step: int) -> str:
    return f"step-{step:09d}"


def _aside(name: str) -> str:
    path = Path(name)
    return f"{path.stem}.damaged{path.suffix}"


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems can't flush a folder, and have it on the server already (so PostgreSQL does it).
        if error.errno not in (errno.EBADF, errno.EINVAL):
            raise
    finally:
        os.close(handle)
