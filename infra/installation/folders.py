"""Whether a folder can hold what a sweep writes."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from infra.installation.findings import ok
from trainables.data.doctor.finding import Finding
from trainables.places import explain

GB = 1e9
ROOM = 1e9
"""Bytes: four checkpoints of a ResNet-50 with the momentum of SGD, each 25.6 million weights twice at 4 bytes."""
PROBE = b"can be written\n" * 70_000
"""A megabyte: a file system takes an empty file where it has no room for a byte."""


def probe_folder(check: str, folder: Path, otherwise: str) -> list[Finding]:
    """Write, flush, read and remove a file in the folder, or where it will be made; `otherwise` is a way out."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        _try(there)
        free = shutil.disk_usage(there).free
    except OSError as error:
        reason, remedy = explain(error)
        return [Finding(check, "error", f"{folder} can't be written: {reason}", f"{remedy}, or {otherwise}")]
    if free < ROOM:
        summary = f"{folder} has {free / 1e6:.0f} MB free: less than four checkpoints of a ResNet-50"
        return [Finding(check, "warning", summary, f"free space there, or {otherwise}")]
    return [ok(check, f"{folder} can be written, {free / GB:.0f} GB free")]


def _try(folder: Path) -> None:
    """Write, flush, read and remove PROBE; raises OSError."""
    with tempfile.TemporaryFile(dir=folder, prefix=".epoch14-doctor-") as file:
        file.write(PROBE)
        file.flush()
        os.fsync(file.fileno())
        file.seek(0)
        if file.read() != PROBE:
            raise OSError("what was read is not what was written")
