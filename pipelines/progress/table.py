"""A sweep's trials as a table that fits the terminal, with what is of most interest in it, and a summary below."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from infra.explanation import plain
from pipelines.progress.lines import time_left
from pipelines.sparkline import sparkline

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from pipelines.progress.state import ShownTrial, SweepState

WIDE = 100
"""Columns from which on symptom and cause have a column each."""
SPARKS, FEW_SPARKS = 16, 8
"""Width of a loss curve, on many columns and on few."""
OTHER_LINES = 5
"""Of the terminal's, that trials can't have: the head, the summary's, the cursor's."""
STYLES = {"failed": "bold red", "diagnosing": "bold yellow", "stopped": "yellow", "finished": "dim", "pruned": "dim"}
STOPPING = "stopping; Ctrl-C again quits at once"


def render(state: SweepState, width: int, height: int) -> Group:
    """The table and its summary, at most `height` lines of `width` columns."""
    from rich.console import Group
    from rich.text import Text

    shown = chosen(state, max(height - OTHER_LINES, 1))
    lines = [Text(line, no_wrap=True, overflow="ellipsis") for line in summary(state, shown)]
    if state.stopping:
        lines[-1].stylize("bold")
    return Group(_table(shown, width), *lines) if shown else Group(*lines)


def chosen(state: SweepState, room: int) -> list[ShownTrial]:
    """At most `room` trials by number: those that run before all, then those that failed, then what changed last.

    An ill one takes the place of a healthy one that ended later, but leaves a third of the room to these.
    """
    trials = sorted(state.trials.values(), key=lambda trial: (trial.state == "diagnosing", trial.changed), reverse=True)
    running = [trial for trial in trials if not trial.is_over]
    ill = [trial for trial in trials if trial.is_over and trial.is_ill]
    healthy = [trial for trial in trials if trial.is_over and not trial.is_ill]
    left = max(room - len(running), 0)
    most = max(left - len(healthy), left - left // 3)
    ended = ill[:most] + healthy
    return sorted((running + ended)[:room], key=lambda trial: trial.number)


def summary(state: SweepState, shown: list[ShownTrial]) -> list[str]:
    """What is not shown, if anything, and the whole sweep in a line."""
    seen = {trial.number for trial in shown}
    hidden = Counter[str](trial.state for trial in state.trials.values() if trial.number not in seen)
    hidden["waiting"] = state.total_trials - len(state.trials)
    more = ", ".join(f"{count} {name}" for name, count in hidden.most_common() if count > 0)
    speed = f"; {state.images_per_s:.0f} images/s" if state.images_per_s else ""
    whole = f"{state.over} of {state.total_trials} trials over{time_left(state)}{speed}; {state.compute}"
    return [*([f"more: {more}"] if more else []), *([STOPPING] if state.stopping else [whole])]


def _table(shown: list[ShownTrial], width: int) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    wide = width >= WIDE
    heads = ["#", "state", "step", "loss", *(("symptom", "cause") if wide else ("symptom: cause",))]
    rows = [[plain(cell) for cell in _cells(trial, wide=wide)] for trial in shown]
    *widths, found = (max(map(len, column)) for column in zip(heads, *rows, strict=True))
    gap = 2 if wide else 1
    room = width - sum(widths) - gap * len(heads)
    names = short_names([trial.name for trial in shown], room - found)
    name = max(min(max(map(len, names)), max(room - found, room // 2)), 1)
    # The box has a column of each gap.
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap - 1, 0, 0))
    limits = [widths[0], name, *widths[1:], max(room - name, 1)]
    for head, limit in zip((heads[0], "trial", *heads[1:]), limits, strict=True):
        right = head in ("#", "step")
        table.add_column(head, no_wrap=True, overflow="ellipsis", justify="right" if right else "left", max_width=limit)
    for trial, short, (number, *cells) in zip(shown, names, rows, strict=True):
        table.add_row(*map(Text, (number, short, *cells)), style=STYLES.get(trial.state, ""))
    return table


def short_names(names: list[str], room: int) -> list[str]:
    """The names, without the words that all of them have where not each has room.

    >>> short_names(["resnet50 bn lr0.1", "resnet50 gn lr0.1"], 12)
    ['bn', 'gn']
    """
    names = [plain(name) for name in names]
    if len(names) < 2 or max(map(len, names)) <= room:
        return names
    common = set[str].intersection(*(set(name.split()) for name in names))
    return [" ".join(word for word in name.split() if word not in common) or name for name in names]


def _cells(trial: ShownTrial, *, wide: bool) -> list[str]:
    """Number, state, step, losses, symptom and cause."""
    curve = sparkline(trial.losses.values, (), SPARKS if wide else FEW_SPARKS)[0]
    cause = f"replay: {trial.replay}" if trial.replay else trial.cause
    found = [trial.symptom, cause] if wide else [": ".join(filter(None, [trial.symptom, cause]))]
    return [str(trial.number), trial.state, f"{trial.step}/{trial.total}", curve, *found]
