"""Parquet files with the columns image and label, as the Hugging Face Hub has them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trainables.data.shards.format import Where
from trainables.data.shards.labels import is_text
from trainables.data.shards.meter import Meter, run_jobs
from trainables.data.shards.ranges import Ranges, join
from trainables.data.shards.remote import PatientFile, Sleep
from trainables.data.shards.source import SourceData, SourceFile, file_errors, hash_of, where_of

BATCH_ROWS = 64
"""Rows that are in memory at once, for each thread."""
_BUFFER = 1 << 20
"""Bytes of a column that are read ahead."""


@dataclass(frozen=True)
class ParquetSource:
    """Parquet files of both splits."""

    where: Where
    files: Mapping[str, Sequence[SourceFile]]
    declared: tuple[str, ...] | None
    """Class names of the Hugging Face metadata."""

    @property
    def identity(self) -> str:
        """Hash of the files' names and sizes."""
        return hash_of("parquet", {split: [(f.name, f.size) for f in found] for split, found in self.files.items()})

    def load(self, spool: Path, threads: int, meter: Meter) -> SourceData:
        """Copy the images to plain files: a random row of Parquet costs a whole page."""
        flat = [file for found in self.files.values() for file in found]
        meter.begin("copying", sum(file.size for file in flat))
        jobs = [partial(_copy, self.where, file, spool / f"{n:05d}", meter) for n, file in enumerate(flat)]
        ranges = iter(run_jobs(jobs, threads, meter))
        splits = {split: [next(ranges) for _ in found] for split, found in self.files.items()}
        return join(self.where, splits, self.declared)


def open_parquet(where: Where, files: Mapping[str, Sequence[SourceFile]]) -> ParquetSource:
    """Check the columns of all files.

    Raises:
        DataError: a file is damaged, or lacks the column image (bytes, or a struct with bytes) or label.

    """
    declared = None
    for found in files.values():
        for file in found:
            with _opened(where, file, time.sleep) as table:
                schema = table.schema_arrow
            _check_columns(where_of(where, file), schema)
            declared = declared or _class_names(schema)
    return ParquetSource(where, files, declared)


@contextmanager
def _opened(where: Where, file: SourceFile, sleep: Sleep) -> Iterator[Any]:
    with ExitStack() as stack:
        with file_errors(where_of(where, file), "a whole Parquet file"):
            stream = stack.enter_context(PatientFile(file.filesystem, file.path, sleep))
            # With `pre_buffer` the whole file comes to memory.
            table = stack.enter_context(pq.ParquetFile(stream, buffer_size=_BUFFER, pre_buffer=False))
        yield table


def _batches(where: Where, table: Any) -> Iterator[pa.RecordBatch]:
    with file_errors(where, "a whole Parquet file"):
        # Threads of its own would hold a row group in memory: often the whole file.
        yield from table.iter_batches(BATCH_ROWS, columns=["image", "label"], use_threads=False)


def _check_columns(where: Where, schema: pa.Schema) -> None:
    for name in ("image", "label"):
        if name not in schema.names:
            have = ", ".join(schema.names)[:200]
            raise where.error(
                f"the columns image and label ({name} is missing, there are: {have})", f"rename one to {name}"
            )
    image, label = schema.field("image").type, schema.field("label").type
    if pa.types.is_struct(image):
        image = image.field("bytes").type if image.get_field_index("bytes") >= 0 else image
    if not (pa.types.is_binary(image) or pa.types.is_large_binary(image)):
        remedy = "write the encoded files' bytes into it"
        raise where.error(f"encoded images as bytes (the column image holds {str(image)[:80]})", remedy)
    label = label.value_type if pa.types.is_dictionary(label) else label
    if not (pa.types.is_integer(label) or pa.types.is_string(label) or pa.types.is_large_string(label)):
        raise where.error(f"labels as integers or strings (they are {str(label)[:80]})", "cast the column label")


def _class_names(schema: pa.Schema) -> tuple[str, ...] | None:
    """Names of the feature `label` in the metadata that Hugging Face's `datasets` writes."""
    try:
        info = json.loads((schema.metadata or {})[b"huggingface"])
        names = info["info"]["features"]["label"]["names"]
    except (KeyError, ValueError, TypeError, RecursionError):
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) and is_text(name) for name in names):
        return None
    return tuple(names) or None


def _copy(where: Where, file: SourceFile, copy: Path, meter: Meter) -> Ranges:
    """Copy the images of a file, one after the other, to `copy`.bin, and their lengths and labels to `copy`.arrow."""
    done = copy.with_suffix(".arrow")
    if not done.exists():
        unfinished = copy.with_suffix(".partial")
        with _opened(where, file, meter.wait) as table, copy.with_suffix(".bin").open("wb") as out:
            batches = list(_copied(where_of(where, file), table, out, file.size, meter))
            os.fsync(out.fileno())
        with unfinished.open("wb") as sink:
            with pa.ipc.new_file(sink, batches[0].schema) as writer:
                for batch in batches:
                    writer.write_batch(batch)
            os.fsync(sink.fileno())
        unfinished.rename(done)
    rows = pa.ipc.open_file(pa.py_buffer(done.read_bytes())).read_all().combine_chunks()
    length = rows["length"].to_numpy()
    return Ranges(
        str(copy.with_suffix(".bin")),
        where_of(where, file).value,
        [f"{file.name}/{row:07d}" for row in range(len(length))],
        pa.concat_arrays(rows["label"].chunks) if len(length) else pa.array([], rows["label"].type),
        np.cumsum(length) - length,
        length,
    )


def _copied(where: Where, table: Any, out: BinaryIO, size: int, meter: Meter) -> Iterator[pa.RecordBatch]:
    """Write the images and give their lengths and labels; counts `size` bytes in all."""
    row, total = 0, max(table.metadata.num_rows, 1)
    label_type = table.schema_arrow.field("label").type
    kind = pa.int64() if pa.types.is_integer(label_type) else pa.string()
    for batch in _batches(where, table):
        image, label = batch.column("image"), batch.column("label")
        if pa.types.is_struct(image.type):
            image = pc.struct_field(image, "bytes")
        for name, column in (("image", image), ("label", label)):
            if column.null_count:
                bad = row + pc.index(pc.is_null(column), value=True).as_py()
                raise where.error(f"rows with bytes and a label (row {bad} has no {name})", "remove that row")
        image = image.cast(pa.large_binary())
        ends = np.frombuffer(image.buffers()[1], dtype=np.int64)[image.offset : image.offset + len(image) + 1]
        if ends[-1] > ends[0]:
            out.write(memoryview(image.buffers()[2])[ends[0] : ends[-1]])
        yield pa.record_batch([pa.array(np.diff(ends)), label.cast(kind)], names=["length", "label"])
        meter.add(len(batch), size * (row + len(batch)) // total - size * row // total)
        row += len(batch)
    if row == 0:
        yield pa.record_batch([pa.array([], pa.int64()), pa.array([], kind)], names=["length", "label"])
