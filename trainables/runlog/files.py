"""A log file -> a table, by what is in the file rather than by its suffix."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainables.errors import DataError, complaint
from trainables.runlog.table import Column, Table, column_of
from trainables.runlog.text_files import read_text

MAX_BYTES = 1 << 30
"""Most bytes of text that are read: a log of steps is far smaller."""
PARQUET, GZIP = b"PAR1", b"\x1f\x8b"
UTF16 = (b"\xff\xfe", b"\xfe\xff")
READABLE = "CSV, JSON lines, JSON, Parquet (each also as .gz), TensorBoard event files or an MLflow run"


def read_file(path: Path) -> Table:
    """The table of one file. Raises DataError, naming the file, where it can't be read or holds none."""
    try:
        with path.open("rb") as file:
            head = file.read(4)
        if head == PARQUET:
            return _read_parquet(pa.OSFile(str(path)), path)
        if head.startswith(GZIP):
            with gzip.open(path) as unpacked:
                content = unpacked.read(MAX_BYTES + 1)
        else:
            with path.open("rb") as file:
                content = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(complaint("PATH", str(path), f"a file that can be read ({reason})", "name the log")) from None
    if len(content) > MAX_BYTES:
        raise DataError(complaint("PATH", str(path), "at most 1 GiB of text", "write it as Parquet, or thin it out"))
    if content.startswith(PARQUET):
        return _read_parquet(pa.BufferReader(content), path)
    return read_text(_decoded(content, path), str(path))


def _decoded(content: bytes, path: Path) -> str:
    try:
        text = content.decode("utf-16" if content.startswith(UTF16) else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise DataError(complaint("PATH", str(path), READABLE, "name the training's log"))
    return text


def _read_parquet(source: pa.NativeFile, path: Path) -> Table:
    try:
        table = pq.read_table(source)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0][:120]
        raise DataError(complaint("PATH", str(path), f"a whole Parquet file ({reason})", "write it again")) from None
    found = {name: _arrow_column(table[name]) for name in dict.fromkeys(table.column_names)}
    return Table(table.num_rows, {name: column for name, column in found.items() if column is not None})


def _arrow_column(cells: pa.ChunkedArray) -> Column | None:
    """Numbers without a detour over Python's objects; timestamps and nested values are left out."""
    rows = np.flatnonzero(cells.is_valid().to_numpy()).astype(np.int64)
    if not rows.size:
        return None
    kind = cells.type.value_type if pa.types.is_dictionary(cells.type) else cells.type
    if pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        return Column(rows, cells.drop_null().cast(pa.float64()).to_numpy().astype(np.float64))
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return column_of(rows, cells.drop_null().to_pylist())
    return None
