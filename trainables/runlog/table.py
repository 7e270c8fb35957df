"""A log as it was found: named columns of cells, most of which may be missing.

A cell that holds NaN or an infinity is a value; an empty one is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MISSING = frozenset({"", "null", "none", "na", "n/a", "-", "<na>"})
"""Words for an empty cell, in lower case; NaN is none of them."""
TEXT_SHARE = 0.5
"""Share of cells that are no numbers from which a column is text."""


@dataclass(frozen=True)
class Column:
    """The cells of one column that hold something."""

    rows: NDArray[np.int64]
    """Their row numbers, rising."""
    numbers: NDArray[np.float64]
    """Their values; empty for a column of text."""
    texts: tuple[str, ...] = ()
    """Their words; empty for a column of numbers."""


@dataclass(frozen=True)
class Table:
    """Columns by name, as the log spells them, over `height` rows."""

    height: int
    columns: Mapping[str, Column]
    source: str = ""
    """Name of a run of which the log itself says nothing."""


def column_of(rows: Sequence[int] | NDArray[np.int64], cells: Iterable[Any], *, comma: bool = False) -> Column | None:
    """The column that holds `cells` at `rows`; None where all of them are empty.

    `comma`: 0,5 is a half.
    """
    kept, words = [], []
    for row, cell in zip(rows, cells, strict=True):
        if cell is not None and (not isinstance(cell, str) or cell.strip().lower() not in MISSING):
            kept.append(int(row))
            words.append(cell)
    if not kept:
        return None
    numbers = [_number(word, comma=comma) for word in words]
    good = [number is not None for number in numbers]
    if good.count(False) > TEXT_SHARE * len(good):
        return Column(np.asarray(kept, np.int64), np.empty(0), tuple(str(word) for word in words))
    pairs = [(row, number) for row, number in zip(kept, numbers, strict=True) if number is not None]
    return Column(np.array([row for row, _ in pairs], np.int64), np.array([number for _, number in pairs], np.float64))


def table_of_rows(rows: Iterable[Mapping[str, Any]], source: str = "") -> Table:
    """The table of mappings of which each has only some of the keys; `{"train": {"loss": 1}}` is `train/loss`."""
    places: dict[str, list[int]] = {}
    cells: dict[str, list[Any]] = {}
    height = 0
    for height, row in enumerate(rows, 1):
        for name, cell in _flat(row):
            places.setdefault(name, []).append(height - 1)
            cells.setdefault(name, []).append(cell)
    found = {name: column_of(places[name], cells[name]) for name in cells}
    return Table(height, {name: column for name, column in found.items() if column is not None}, source)


def _flat(row: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in row.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}/")
        elif isinstance(value, list | tuple):
            yield from _flat({str(index): item for index, item in enumerate(value)}, f"{name}.")
        else:
            yield name, value


def _number(word: object, *, comma: bool) -> float | None:
    try:
        if isinstance(word, str):
            return float(word.strip().replace(",", ".") if comma else word.strip())
        return float(word)  # type: ignore[arg-type] # what is no number raises
    except (TypeError, ValueError, OverflowError):
        return None
