"""Where shards are written: a folder, or a prefix of an object store. Every file is there as a whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from pyarrow import fs

from trainables.data.index import default_cache_dir
from trainables.data.shards.format import WORK, Where
from trainables.errors import DataError
from trainables.places import FAILURES, check_bucket, explain, open_filesystem
from trainables.retries import OPENING, patient

_CHUNK = 1 << 23


class Target(Protocol):
    """A place for shards. Each method raises one of FAILURES where the place fails; names may hold slashes."""

    work: Path
    """Local folder for what is not yet whole; it stays when the process is killed."""

    def names(self, folder: str = "") -> list[str]:
        """Names of what lies in the place, or in one of its folders; none where it is missing."""

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where it is missing."""

    def read(self, name: str) -> bytes:
        """Whole content of a file; raises FileNotFoundError where it is missing."""

    def open_input(self, name: str) -> Any:
        """A binary stream, and a context manager that closes it."""

    def take(self, path: Path, name: str) -> None:
        """Move a whole local file here."""

    def locked(self) -> Any:
        """A context manager that keeps other writers out where the place has locks."""

    def finish(self) -> None:
        """Remove what only an unfinished conversion needs."""


def open_target(where: Where, *, writing: bool) -> Target:
    """Open the place that `where.value` names; a folder is made by `locked`.

    Raises:
        DataError: its URI is of no known kind, or names the home of nobody.

    """
    with place_errors(where, writing=writing):
        filesystem, path = open_filesystem(where.value)
        return (
            FolderTarget(Path(path)) if isinstance(filesystem, fs.LocalFileSystem) else ObjectTarget(filesystem, path)
        )


@contextmanager
def place_errors(where: Where, *, writing: bool) -> Iterator[None]:
    """Turn a place's failure into one line."""
    try:
        yield
    except DataError:
        raise
    except FAILURES as error:
        reason, remedy = explain(error)
        able = "written" if writing else "read"
        raise where.error(f"a folder or s3://bucket/prefix that can be {able} ({reason})", remedy) from None


class FolderTarget:
    """A folder of a file system: files are flushed to the disk and renamed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / WORK

    def names(self, folder: str = "") -> list[str]:
        """Names of what lies there."""
        try:
            return sorted(path.name for path in (self.folder / folder).iterdir())
        except FileNotFoundError:
            return []

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where it is missing."""
        try:
            return (self.folder / name).stat().st_size
        except FileNotFoundError:
            return None

    def read(self, name: str) -> bytes:
        """Whole content of a file."""
        return (self.folder / name).read_bytes()

    def open_input(self, name: str) -> BinaryIO:
        """A binary stream."""
        return (self.folder / name).open("rb")

    def take(self, path: Path, name: str) -> None:
        """Flush and rename."""
        final = self.folder / name
        final.parent.mkdir(exist_ok=True)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        path.replace(final)
        handle = os.open(final.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        except OSError:
            # Some network file systems can't flush a folder, and have it on the server already.
            pass
        finally:
            os.close(handle)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold a lock of the work folder; raises BlockingIOError where another process holds it."""
        self.work.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.work / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BlockingIOError(errno.EAGAIN, "another epoch14 shard is writing there") from None
            except OSError:
                # Some network file systems have no locks; there the rule of one writer is all there is.
                pass
            yield
        finally:
            os.close(handle)

    def finish(self) -> None:
        """Remove the work folder."""
        shutil.rmtree(self.work, ignore_errors=True)


class ObjectTarget:
    """A prefix of an object store, where an object appears as a whole; the work folder lies in the cache."""

    def __init__(self, filesystem: Any, root: str) -> None:
        self.filesystem = filesystem
        self.root = root.rstrip("/")
        if not self.root:
            raise FileNotFoundError(errno.EINVAL, "the bucket's name is missing")
        key = hashlib.blake2b(self.root.encode(), digest_size=8).hexdigest()
        self.work = default_cache_dir() / f"shard-{key}"

    @patient(OPENING)
    def names(self, folder: str = "") -> list[str]:
        """Names of what lies there."""
        selector = fs.FileSelector(f"{self.root}/{folder}".rstrip("/"), allow_not_found=True)
        found = self.filesystem.get_file_info(selector)
        if not found:
            check_bucket(self.filesystem, self.root)
        return sorted(info.base_name for info in found)

    @patient(OPENING)
    def size(self, name: str) -> int | None:
        """Bytes of an object; None where it is missing."""
        info = self.filesystem.get_file_info(f"{self.root}/{name}")
        return info.size if info.type == fs.FileType.File else None

    @patient(OPENING)
    def read(self, name: str) -> bytes:
        """Whole content of an object."""
        with self.filesystem.open_input_file(f"{self.root}/{name}") as file:
            return bytes(file.read())

    @patient()
    def open_input(self, name: str) -> Any:
        """A binary stream."""
        return self.filesystem.open_input_file(f"{self.root}/{name}")

    @patient()
    def take(self, path: Path, name: str) -> None:
        """Upload in parts, then remove the local file."""
        with (
            path.open("rb") as file,
            self.filesystem.open_output_stream(f"{self.root}/{name}", compression=None) as out,
        ):
            while chunk := file.read(_CHUNK):
                out.write(chunk)
        path.unlink()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the work folder; an object store has no locks."""
        self.work.mkdir(parents=True, exist_ok=True)
        yield

    def finish(self) -> None:
        """Remove the work folder and the objects of the same name."""
        with suppress(FileNotFoundError):
            self.filesystem.delete_dir(f"{self.root}/{WORK}")
        shutil.rmtree(self.work, ignore_errors=True)
