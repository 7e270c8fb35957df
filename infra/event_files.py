"""TensorBoard's event files -> a table of (run, tag, step, value, wall time).

A file is a row of records, each `length, checksum of the length, bytes, checksum of the bytes` (TFRecord), and each
record an `Event` message. The messages come with tensorboardX; tensorboard itself, which has a reader, is no
dependency.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trainables.errors import DataError, complaint
from trainables.runlog.names import EVALUATED, TRAINED
from trainables.runlog.table import Table, column_of

if TYPE_CHECKING:
    from tensorboardX.proto.summary_pb2 import Summary

MARK = "tfevents"
"""Part of every event file's name."""
MAX_RECORD = 1 << 28
"""Bytes of a record from which on the file counts as damaged."""
FLOAT, DOUBLE = 1, 2
"""Types of a tensor, from TensorFlow's types.proto."""


@dataclass
class Scalars:
    """The scalars of several files, row by row."""

    runs: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def table(self) -> Table:
        """The rows as a table in the long format."""
        cells: dict[str, list[Any]] = {"run": self.runs, "tag": self.tags, "step": self.steps}
        cells |= {"value": self.values, "wall_time": self.times}
        rows = range(len(self.runs))
        found = {name: column_of(rows, column) for name, column in cells.items()}
        return Table(len(self.runs), {name: column for name, column in found.items() if column is not None})


def event_files(path: Path) -> list[Path]:
    """The event files at or below `path`, in the order in which they were begun."""
    if path.is_file():
        return [path] if MARK in path.name else []
    return sorted(file for file in path.rglob(f"*{MARK}*") if file.is_file())


def read_event_files(path: Path) -> Table:
    """Each folder's scalars, a folder a run; `train` and `validation` side by side are one run.

    A file that is still written may end in the middle of a record. Raises DataError for a damaged one.
    """
    scalars = Scalars()
    base = path if path.is_dir() else path.parent
    for file in event_files(path):
        folder = file.parent.relative_to(base)
        split = folder.name.lower() if folder.name.lower() in EVALUATED | TRAINED else ""
        run = str(folder.parent if split else folder)
        for event in _events(file):
            for value in event.summary.value:
                number = _scalar(value)
                if number is not None:
                    scalars.runs.append(base.resolve().name if run == "." else run)
                    scalars.tags.append(f"{split}/{value.tag}" if split else value.tag)
                    scalars.steps.append(int(event.step))
                    scalars.values.append(number)
                    scalars.times.append(float(event.wall_time))
    return scalars.table()


def _events(file: Path) -> Iterator[Any]:
    from google.protobuf.message import DecodeError
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    with file.open("rb") as records:
        while len(head := records.read(12)) == 12:
            (length,), (checksum,) = struct.unpack("<Q", head[:8]), struct.unpack("<I", head[8:])
            if length > MAX_RECORD or masked_crc32c(head[:8]) != checksum:
                raise DataError(_damaged(file, records.tell()))
            content = records.read(length)
            if len(content) < length or len(records.read(4)) < 4:
                return
            try:
                yield Event.FromString(content)
            except DecodeError:
                raise DataError(_damaged(file, records.tell())) from None


def _scalar(value: Summary.Value) -> float | None:
    """A scalar of TensorBoard's first format, or of its second, where it is a tensor of one number."""
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        return float(value.simple_value)
    if kind != "tensor" or value.metadata.plugin_data.plugin_name not in ("", "scalars"):
        return None
    tensor = value.tensor
    if tensor.dtype not in (FLOAT, DOUBLE) or any(dim.size != 1 for dim in tensor.tensor_shape.dim):
        return None
    listed = tensor.float_val or tensor.double_val
    if listed:
        return float(listed[0])
    numbers = np.frombuffer(tensor.tensor_content, "<f4" if tensor.dtype == FLOAT else "<f8")
    return float(numbers[0]) if numbers.size == 1 else None


def _damaged(file: Path, place: int) -> str:
    allowed = f"whole event files (damaged before byte {place})"
    return complaint("PATH", str(file), allowed, "move the file out of the folder")
