"""A sweep's progress where it belongs: a table in place on a terminal, else lines."""

from __future__ import annotations

import functools
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipelines.progress.lines import end_line, report_line
from pipelines.progress.table import STOPPING, render

if TYPE_CHECKING:
    from rich.console import Console, Group

    from infra.ray_events import TrialOutcome
    from pipelines.progress.state import SweepState

Write = Callable[[str], None]
REFRESHES_PER_S = 1.0
"""The trials want the cores."""
SHOW_CURSOR = "\x1b[?25h\n"


def takes_table(console: Console) -> bool:
    """Whether lines can be drawn anew there: a terminal that knows how to, in an encoding that has the curves."""
    return console.file.isatty() and not console.is_dumb_terminal and console.encoding.startswith("utf")


class Display:
    """Listens to the trials of a sweep, and shows them.

    Args:
        state: what is known of them.
        write: takes a line.
        place: where the sweep is recorded, which is known when the first trial is heard of.
        table: whether a table shows the trials; then only errors are lines.

    """

    def __init__(self, state: SweepState, write: Write, place: Callable[[], str], *, table: bool) -> None:
        self.state = state
        self.write = write
        self.table = table
        self._place: Callable[[], str] | None = place
        self.refresh: Callable[[], None] = lambda: None
        """Draws the table anew, at once."""
        # A table is drawn by a thread of its own.
        self._lock = threading.RLock()

    def trial_known(self, outcome: TrialOutcome) -> None:
        """A trial was over before."""
        with self._lock:
            self.state.known(outcome)

    def trial_started(self, outcome: TrialOutcome) -> None:
        """Its process begins."""
        with self._lock:
            self.state.started(outcome)
        if self._place is not None:
            self.write(self._place())
            self._place = None

    def trial_reported(self, outcome: TrialOutcome, losses: Iterable[float]) -> None:
        """A row came in."""
        with self._lock:
            line = report_line(self.state, self.state.reported(outcome, losses), outcome.row)
        if line and not self.table:
            self.write(line)

    def trial_ended(self, outcome: TrialOutcome) -> None:
        """It is over."""
        with self._lock:
            line = end_line(self.state, self.state.ended(outcome), outcome)
        if outcome.status == "failed" or not self.table:
            self.write(line)

    def stopping(self) -> threading.Thread:
        """The sweep was told to stop: called from a handler of signals, which must leave the writing to a thread."""
        self.state.stopping = True
        tell = self.refresh if self.table else functools.partial(self.write, STOPPING)
        thread = threading.Thread(target=tell, daemon=True)
        thread.start()
        return thread

    def leave(self) -> None:
        """The process is about to end at once: give the terminal back as it was."""
        if self.table:
            os.write(sys.__stdout__.fileno(), SHOW_CURSOR.encode())  # type: ignore[union-attr] # it is a terminal

    def draw(self, console: Console) -> Group:
        """The table of the moment."""
        with self._lock:
            return render(self.state, console.width, console.height)


@contextmanager
def displayed(
    state: SweepState, place: Callable[[], str], write: Write | None, head: str, *, lines: bool = False
) -> Iterator[Display]:
    """Show a sweep while it runs: on a terminal as a table, else, or where `lines` are wanted, as lines.

    `head`: the first line; `write`: takes every line, so that there is no table; None: they are printed.
    """
    from rich.console import Console
    from rich.live import Live

    console = Console()
    table = write is None and not lines and takes_table(console)
    if not table:
        write = write or functools.partial(print, flush=True)
        write(head)
        yield Display(state, write, place, table=False)
        return
    show = functools.partial(console.print, markup=False, highlight=False, soft_wrap=True)
    show(head)
    display = Display(state, show, place, table=True)
    draw = functools.partial(display.draw, console)
    with Live(get_renderable=draw, console=console, refresh_per_second=REFRESHES_PER_S, transient=True) as live:
        display.refresh = live.refresh
        yield display
