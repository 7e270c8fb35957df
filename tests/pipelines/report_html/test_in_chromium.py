"""A report in a real browser: its script, the links into it, and that it opens without a fault."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipelines.report_html.page import to_html

if TYPE_CHECKING:
    from tests.pipelines.report_html.conftest import MakeSweep

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture
def browser(tmp_path: Path) -> list[str]:
    """The command of a headless Chromium with a profile of its own."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser ({', '.join(BROWSERS)}) is installed")
    return [found, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]


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
