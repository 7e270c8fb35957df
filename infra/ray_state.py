"""Tune's state on disk, kept whole: Tune writes its files in place, so a process that is killed may leave one torn.

A copy of each is kept beside it, and put back before the sweep goes on. One archive of the copies may be kept in a
place that outlives this machine, and unpacked on another.
"""

from __future__ import annotations

import io
import json
import logging
import tarfile
from collections.abc import Iterator
from pathlib import Path

from pyarrow import fs

from trainables.places import FAILURES, explain, open_filesystem
from trainables.retries import patiently

log = logging.getLogger(__name__)
ARCHIVE = "sweep.tar"
"""Of a sweep's folder, less what its trials left."""
KEPT, PARTIAL = ".kept", ".partial"
PATTERNS = ("*.json", "*.pkl")
PICKLE = (b"\x80", b".")
"""How one begins and ends. Tune pickles the state of its searchers too, though it names some of it .json."""


def keep_state(folder: Path, place: str | None = None) -> None:
    """Copy the state in `folder`, each file whole or not at all; of one that is torn the last copy stays.

    place: folder or URI that gets an archive of the copies; None: there is none.
    """
    for file in _files(folder):
        content = file.read_bytes()
        if _is_whole(content):
            _put(_copy_of(file), content)
    if place is not None:
        put_away(folder, place)


def mend_state(folder: Path) -> list[str]:
    """Put the copies in the place of files that are torn; returns the names of these."""
    torn = [file for file in _files(folder) if not _is_whole(file.read_bytes())]
    mended = [file for file in torn if _copy_of(file).is_file()]
    for file in mended:
        _put(file, _copy_of(file).read_bytes())
    return [file.name for file in mended]


def put_away(folder: Path, uri: str) -> None:
    """Write an archive of the copies, and of the sweep's config, to the place `uri`; it is there as a whole or not.

    A place that fails ends nothing: it is logged, and the next call tries again.
    """
    try:
        content = _packed(folder)
        patiently(lambda: _write(uri, content))
    except FAILURES as error:
        reason, remedy = explain(error)
        log.warning("the sweep's state was not written to %s: %s; remedy: %s", uri, reason, remedy)


def fetch(uri: str, folder: Path) -> bool:
    """Unpack the archive at `uri` into `folder`; whether there is one. Raises one of FAILURES."""
    filesystem, path = open_filesystem(f"{uri}/{ARCHIVE}")

    def read() -> bytes | None:
        if filesystem.get_file_info(path).type != fs.FileType.File:
            return None
        with filesystem.open_input_file(path) as file:
            return bytes(file.read())

    content = patiently(read)
    if content is None:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(folder, filter="data")
    return True


def _packed(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for file in sorted([*folder.glob(f"*{KEPT}"), *folder.glob("*.yaml")]):
            archive.add(file, file.name.removesuffix(KEPT))
    return buffer.getvalue()


def _write(uri: str, content: bytes) -> None:
    filesystem, path = open_filesystem(f"{uri}/{ARCHIVE}")
    if isinstance(filesystem, fs.LocalFileSystem):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        _put(Path(path), content)
        return
    with filesystem.open_output_stream(path, compression=None) as stream:
        stream.write(content)


def _copy_of(file: Path) -> Path:
    return file.with_name(file.name + KEPT)


def _put(file: Path, content: bytes) -> None:
    """Write a file as a whole."""
    partial = file.with_name(file.name + PARTIAL)
    partial.write_bytes(content)
    partial.replace(file)


def _files(folder: Path) -> Iterator[Path]:
    for pattern in PATTERNS:
        yield from sorted(folder.glob(pattern))


def _is_whole(content: bytes) -> bool:
    begin, end = PICKLE
    if content.startswith(begin):
        return content.endswith(end)
    try:
        json.loads(content)
    except ValueError:
        return False
    return True
