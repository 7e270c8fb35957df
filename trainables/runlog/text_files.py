"""Tables out of text: CSV in its dialects, JSON lines, and the JSON documents that trainers leave."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from typing import Any

from trainables.errors import DataError, complaint
from trainables.runlog.table import Table, column_of, table_of_rows

DELIMITERS = (",", ";", "\t", "|")
NESTED = ("log_history", "history", "logs", "records", "data", "metrics")
"""Keys under which a JSON document keeps its rows: `log_history` is that of trainer_state.json."""
csv.field_size_limit(1 << 24)


def read_text(text: str, name: str) -> Table:
    """The table of a file called `name`; raises DataError for text that is none.

    A file that is still written may end in the middle of a line, which is left out.
    """
    stripped = text.lstrip()
    if stripped[:1] in ("{", "["):
        return _read_json(stripped, name)
    return _read_csv(text, name)


def _read_csv(text: str, name: str) -> Table:
    lines = [line for line in io.StringIO(text, newline="") if line.strip() and not line.startswith("#")]
    if not lines:
        raise DataError(complaint("PATH", name, "a log with rows (this one is empty)", "name the training's log"))
    delimiter = max(DELIMITERS, key=lines[0].count)
    if delimiter not in lines[0]:
        delimiter = ","
    try:
        head, *rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    except csv.Error as error:
        raise DataError(complaint("PATH", name, f"CSV ({error})", "export the log again")) from None
    places = range(len(rows))
    names = [word.strip() or f"column {index}" for index, word in enumerate(head)]
    columns = {}
    for index, column_name in enumerate(names):
        cells = (row[index] if index < len(row) else None for row in rows)
        column = column_of(places, cells, comma=delimiter == ";")
        if column is not None and column_name not in columns:
            columns[column_name] = column
    return Table(len(rows), columns)


def _read_json(text: str, name: str) -> Table:
    try:
        document = json.loads(text)
    except ValueError:
        return table_of_rows(_json_lines(text, name))
    if isinstance(document, Mapping):
        return _read_document(document, name)
    if isinstance(document, list):
        return table_of_rows(_mappings(document, name))
    raise DataError(_no_rows(name))


def _read_document(document: Mapping[str, Any], name: str) -> Table:
    for key in NESTED:
        inner = document.get(key)
        if isinstance(inner, list) and inner and isinstance(inner[0], Mapping):
            return table_of_rows(_mappings(inner, name))
        if isinstance(inner, Mapping) and any(isinstance(value, list) for value in inner.values()):
            return _read_document(inner, name)
    lists = {key: value for key, value in document.items() if isinstance(value, list)}
    if not lists:
        return table_of_rows([document])
    found = {key: column_of(range(len(value)), value) for key, value in lists.items() if _is_flat(value)}
    height = max(map(len, lists.values()))
    return Table(height, {key: column for key, column in found.items() if column is not None})


def _is_flat(values: list[Any]) -> bool:
    return not any(isinstance(value, list | Mapping) for value in values)


def _json_lines(text: str, name: str) -> Iterable[Mapping[str, Any]]:
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    for number, line in lines:
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == lines[-1][0] and len(lines) > 1:
                return
            allowed = f"JSON lines (line {number}: {error})"
            raise DataError(complaint("PATH", name, allowed, "mend or delete that line")) from None
        yield from _mappings([row], name)


def _mappings(rows: list[Any], name: str) -> Iterable[Mapping[str, Any]]:
    for row in rows:
        if not isinstance(row, Mapping):
            raise DataError(_no_rows(name))
        yield row


def _no_rows(name: str) -> str:
    return complaint("PATH", name, "JSON objects, one a row", "write one object with step and loss a line")
