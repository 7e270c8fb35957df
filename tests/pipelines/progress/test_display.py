"""Where a sweep is shown as a table, and where as lines."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from pipelines.progress.display import displayed, takes_table
from pipelines.progress.state import SweepState


class Tty(StringIO):
    """A file that says that it is a terminal."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override] # read-only here
        """Of the characters that it takes."""
        return self._encoding

    def isatty(self) -> bool:
        """Yes."""
        return True


@pytest.mark.parametrize(
    ("term", "encoding", "shown"),
    [("xterm-256color", "utf-8", "table"), ("dumb", "utf-8", "lines"), ("xterm", "iso8859-1", "lines")],
)
def test_a_table_needs_a_terminal_that_can_draw_it(
    term: str,
    encoding: str,
    shown: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that moves its cursor and has the characters of a curve."""
    monkeypatch.setenv("TERM", term)
    assert shown == ("table" if takes_table(Console(file=Tty(encoding))) else "lines")


def test_a_file_gets_lines_even_if_colours_are_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many a CI sets FORCE_COLOR."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert not takes_table(Console(file=StringIO()))


def test_being_told_to_stop_is_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    """Where there is no table; the handler of the signal doesn't write itself."""
    state = SweepState(1, steps=lambda _: 1, name=lambda _: "x")
    with displayed(state, lambda: "MLflow: here", None, "results: there") as display:
        thread = display.stopping()
        thread.join()
    assert capfd.readouterr().out.splitlines() == ["results: there", "stopping; Ctrl-C again quits at once"]
