"""Rows of the benchmark as lines of JSON, which may be gzipped; the last one of a case counts."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def append(path: Path, row: Row) -> None:
    """One more line, whole or not there."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read(path: Path) -> list[Row]:
    """The rows by case, in the order of their first coming; a line that a kill cut short is left out."""
    rows: dict[str, Row] = {}
    content = path.read_bytes() if path.exists() else b""
    text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows[row["case"]] = row
    return list(rows.values())
