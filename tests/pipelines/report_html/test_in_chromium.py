"""A report in a real browser: its script, the links into it, and that it opens without a fault."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipelines.report_html.page import to_html

if TYPE_CHECKING:
    from tests.pipelines.report_html.conftest import MakeSweep


@pytest.fixture
def browser(chromium: str, tmp_path: Path) -> list[str]:
    """The command of a headless Chromium with a profile of its own."""
    return [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]


def opened(browser: list[str], address: str) -> tuple[str, str]:
    """(the page after its script has run, what the browser complains of)."""
    command = [*browser, "--enable-logging=stderr", "--dump-dom", address]
    ended = subprocess.run(command, check=True, capture_output=True, text=True, timeout=200)
    return ended.stdout, "\n".join(line for line in ended.stderr.splitlines() if "CONSOLE" in line)


def test_a_link_opens_its_trial(browser: list[str], make_sweep: MakeSweep, tmp_path: Path) -> None:
    """The filter shows all lines; a trial deep in a closed part is opened by a link to it; the console stays empty."""
    file = tmp_path / "report.html"
    file.write_text(to_html(make_sweep(80)), encoding="utf-8")
    page, complaints = opened(browser, f"{file.as_uri()}#t-madeup_00066")
    assert "80 of 80 trials" in page
    assert '<details class="story" id="t-madeup_00066" open="">' in page
    assert '<details class="story" id="t-madeup_00067">' in page
    assert '<details open="">\n<summary>' in page.replace("\r", "")
    assert complaints == ""


def test_the_table_sorts_and_filters(browser: list[str], make_sweep: MakeSweep, tmp_path: Path) -> None:
    """A head that is pressed sorts by its numbers and says so; words and an ending leave the lines that have them."""
    presses = """<script>
    const press = (place) => document.querySelectorAll("#all-trials thead button")[place].click();
    press(8); press(8);
    const lines = [...document.querySelectorAll("#all-trials tbody tr")];
    document.title = "steps " + lines.map((row) => row.cells[8].textContent).join(" ");
    words.value = "lr_jump MULTI"; words.dispatchEvent(new Event("input"));
    </script>"""
    file = tmp_path / "report.html"
    sweep = make_sweep(12)
    file.write_text(to_html(sweep) + presses, encoding="utf-8")
    page, complaints = opened(browser, file.as_uri())
    steps = sorted((trial.steps for trial in sweep.trials), reverse=True)
    assert f"<title>steps {' '.join(map(str, steps))}</title>" in page
    assert page.count('<th scope="col" aria-sort="descending">') == 1
    assert 'role="status">5 of 12 trials' in page
    assert page.count('<tr hidden="">') == 7
    assert complaints == ""
