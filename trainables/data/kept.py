"""Small results that take long to find, kept in the cache folder."""

from __future__ import annotations

import uuid
from contextlib import suppress
from pathlib import Path


def keep_text(path: Path, text: str) -> None:
    """Write a file as a whole where its folder can be written; a read-only cache costs time, not the run."""
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
