"""Tune's state on disk, kept whole: Tune writes its files in place, so a process that is killed may leave one torn.

A copy of each is kept beside it, and put back before the sweep goes on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

KEPT, PARTIAL = ".kept", ".partial"
PATTERNS = ("*.json", "*.pkl")
END_OF_PICKLE = b"."


def keep_state(folder: Path) -> None:
    """Copy the state in `folder`, each file whole or not at all; of one that is torn the last copy stays."""
    for file in _files(folder):
        content = file.read_bytes()
        if _is_whole(file, content):
            _put(_copy_of(file), content)


def mend_state(folder: Path) -> list[str]:
    """Put the copies in the place of files that are torn; returns the names of these."""
    torn = [file for file in _files(folder) if not _is_whole(file, file.read_bytes())]
    mended = [file for file in torn if _copy_of(file).is_file()]
    for file in mended:
        _put(file, _copy_of(file).read_bytes())
    return [file.name for file in mended]


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


def _is_whole(file: Path, content: bytes) -> bool:
    if file.suffix == ".pkl":
        return content.endswith(END_OF_PICKLE)
    try:
        json.loads(content)
    except ValueError:
        return False
    return True
