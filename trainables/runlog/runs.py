"""Tables -> runs: which columns hold what, wide or long, one run or several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from trainables.errors import ConfigError, DataError, complaint
from trainables.runlog.attempts import Floats, Ints, Points, in_order
from trainables.runlog.names import ALLOWED, EPOCHS, RUNS, STEPS, TAGS, TIMES, VALUES, choose, named
from trainables.runlog.table import Column, Table

MOST_STEPS = 1e15
"""From here on a number is no count of steps."""
SHOWN = 12
"""Columns that an error names."""


@dataclass(frozen=True)
class RunLog:
    """What one run's log holds."""

    name: str
    points: Mapping[str, Points]
    """By quantity; `loss` is always there."""
    columns: Mapping[str, str]
    """The column that each quantity came from."""
    notes: tuple[str, ...] = ()
    in_epochs: bool = False
    """Whether its steps are epochs."""


@dataclass(frozen=True)
class Cells:
    """Numbers with the rows that they stand in, by quantity."""

    rows: Ints
    values: Floats


@dataclass(frozen=True)
class Layout:
    """Where the parts of a table are."""

    steps: Floats
    """Of each row; nan where the run has none yet."""
    order: Floats
    """Of each row: its number, or its wall time in the long format."""
    runs: tuple[str, ...]
    run_of: Ints
    by_hand: Mapping[str, str]
    notes: tuple[str, ...]
    in_epochs: bool


def runs_of(table: Table, by_hand: Mapping[str, str], name: str) -> list[RunLog]:
    """The runs of a table in the order in which they come; `name` is that of a table of one run.

    `by_hand`: role or quantity -> column. Raises ConfigError for a name of `by_hand` that isn't there, DataError where
    no column holds a loss.
    """
    _check(by_hand, table)
    tag, value = _column(table, by_hand, "tag", TAGS), _column(table, by_hand, "value", VALUES)
    long = _is_long(table, tag, value) and "loss" not in by_hand.keys() - _tags(table, str(tag), by_hand)
    layout = _layout(table, by_hand, name, long=long)
    cells = _long(table, str(tag), str(value)) if long else {n: Cells(c.rows, c.numbers) for n, c in _numbers(table)}
    found = [_run(layout, cells, index) for index in range(len(layout.runs))]
    logs = [log for log in found if log is not None]
    if not logs:
        raise DataError(_no_loss(cells, table))
    return logs


def _run(layout: Layout, cells: Mapping[str, Cells], index: int) -> RunLog | None:
    """One run; None where nothing in it is a loss."""
    own = {}
    for column, cell in cells.items():
        mine = (layout.run_of[cell.rows] == index) & np.isfinite(layout.steps[cell.rows])
        if mine.any():
            own[column] = Cells(cell.rows[mine], cell.values[mine])
    chosen = {**choose({column: len(cell.rows) for column, cell in own.items()}), **layout.by_hand}
    notes = list(layout.notes)
    if "loss" not in chosen and "val_loss" in chosen:
        chosen["loss"] = chosen["val_loss"]
        notes.append(f"no training loss: the evaluations' {chosen['loss']!r} stands in for it")
    points = {}
    for quantity, column in chosen.items():
        if column in own:
            rows = own[column].rows
            points[quantity] = in_order(layout.order[rows], layout.steps[rows].astype(np.int64), own[column].values)
    if "loss" not in points:
        return None
    return RunLog(layout.runs[index], points, {key: chosen[key] for key in points}, tuple(notes), layout.in_epochs)


def _layout(table: Table, by_hand: Mapping[str, str], name: str, *, long: bool) -> Layout:
    names, run_of = _run_labels(table, _column(table, by_hand, "run", RUNS), table.source or name)
    notes: list[str] = []
    step = _column(table, by_hand, "step", STEPS) or _column(table, by_hand, "epoch", EPOCHS)
    order = np.arange(table.height, dtype=np.float64)
    if step is None or not table.columns[step].numbers.size:
        notes.append("no column of steps: rows are counted from 0")
        steps = order.copy()
    else:
        steps = _filled(table, step, run_of)
        epoch = _column(table, by_hand, "epoch", EPOCHS)
        if epoch is not None and epoch != step and not long:
            steps = _unrolled(steps, _filled(table, epoch, run_of), run_of)
        if not np.all(np.mod(steps[np.isfinite(steps)], 1) == 0):
            notes.append(f"{step!r} has fractions: rows are counted from 0 instead")
            steps = order.copy()
    in_epochs = step is not None and step == _column(table, by_hand, "epoch", EPOCHS) and not notes
    time = _column(table, by_hand, "time", TIMES)
    if long and time is not None and table.columns[time].numbers.size == table.height:
        order = table.columns[time].numbers
    hand = {key: column for key, column in by_hand.items() if key not in ("step", "run", "tag", "value", "time")}
    return Layout(steps, order, names, run_of, hand, tuple(notes), in_epochs)


def _filled(table: Table, name: str, run_of: Ints) -> Floats:
    """A column's value in each row, that of the run's last row where the row has none."""
    column = table.columns[name]
    dense = np.full(table.height, np.nan)
    if not column.numbers.size:
        return dense
    dense[column.rows] = np.where(np.abs(column.numbers) < MOST_STEPS, column.numbers, np.nan)
    if np.isnan(dense).any():
        for run in range(int(run_of.max(initial=0)) + 1):
            mine = np.flatnonzero(run_of == run)
            last = np.maximum.accumulate(np.where(np.isnan(dense[mine]), -1, np.arange(len(mine))))
            dense[mine] = np.where(last >= 0, dense[mine][last], np.nan)
    return dense


def _unrolled(steps: Floats, epochs: Floats, run_of: Ints) -> Floats:
    """Steps that begin anew with each epoch, counted through."""
    inside = (np.diff(run_of) == 0) if len(run_of) > 1 else np.zeros(0, bool)
    backs = (np.diff(steps) < 0) & inside
    if not backs.any() or not np.all(np.diff(epochs)[backs] > 0):
        return steps
    return np.asarray(epochs * (np.nanmax(steps) + 1) + steps)


def _run_labels(table: Table, column: str | None, name: str) -> tuple[tuple[str, ...], Ints]:
    run_of = np.zeros(table.height, np.int64)
    if column is None:
        return (name,), run_of
    cells = table.columns[column]
    words = cells.texts or tuple(f"{number:g}" for number in cells.numbers)
    numbers = {word: index for index, word in enumerate(dict.fromkeys(words))}
    run_of[:] = len(numbers)
    run_of[cells.rows] = [numbers[word] for word in words]
    rest = (name,) if len(cells.rows) < table.height else ()
    return (*numbers, *rest), run_of


def _is_long(table: Table, tag: str | None, value: str | None) -> bool:
    """Whether rows name in words what their number is."""
    if tag is None or value is None or tag not in table.columns or value not in table.columns:
        return False
    return bool(table.columns[tag].texts) and table.columns[value].numbers.size > 0


def _long(table: Table, tag: str, value: str) -> dict[str, Cells]:
    tags, values = table.columns[tag], table.columns[value]
    dense = np.zeros(table.height)
    there = np.zeros(table.height, bool)
    dense[values.rows], there[values.rows] = values.numbers, True
    codes = {word: index for index, word in enumerate(dict.fromkeys(tags.texts))}
    code_of = np.array([codes[word] for word in tags.texts], np.int64)
    found = {}
    for word, code in codes.items():
        rows = tags.rows[code_of == code]
        rows = rows[there[rows]]
        found[word] = Cells(rows, dense[rows])
    return found


def _numbers(table: Table) -> list[tuple[str, Column]]:
    return [(name, column) for name, column in table.columns.items() if column.numbers.size]


def _column(table: Table, by_hand: Mapping[str, str], role: str, spellings: tuple[str, ...]) -> str | None:
    column = by_hand.get(role)
    return column if column in table.columns else named(table.columns, spellings)


def _tags(table: Table, tag: str, by_hand: Mapping[str, str]) -> set[str]:
    """The quantities of `by_hand` that are given by a tag of the long format rather than by a column."""
    words = set(table.columns[tag].texts)
    return {key for key, column in by_hand.items() if column in words}


def _check(by_hand: Mapping[str, str], table: Table) -> None:
    tag = by_hand.get("tag") or named(table.columns, TAGS)
    there = {*table.columns, *(table.columns[tag].texts if tag is not None and tag in table.columns else ())}
    for role, column in by_hand.items():
        if role not in ALLOWED:
            raise ConfigError(complaint("--column", role, ", ".join(ALLOWED), "write --column NAME=COLUMN"))
        if column not in there:
            raise ConfigError(complaint(f"--column {role}", column, _shown(there), "name one of these"))


def _no_loss(cells: Mapping[str, Cells], table: Table) -> str:
    names = list(cells) or list(table.columns)
    remedy = "name the one that is the loss: --column loss=COLUMN"
    return complaint("columns", _shown(names), "one that holds a loss, such as loss or train_loss", remedy)


def _shown(names: object) -> str:
    listed = sorted(map(str, names)) if isinstance(names, set) else list(map(str, names))  # type: ignore[call-overload]
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return (", ".join(listed[:SHOWN]) or "no column of numbers") + more
