"""`epoch14 doctor`, for real."""

from __future__ import annotations

import base64
import io
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

from pipelines.cli import main
from pipelines.doctor import shown_progress

TinyImages = Callable[..., Path]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _cache(digits_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EPOCH14_CACHE", str(digits_cache))


@pytest.fixture
def leaky(tiny_images: TinyImages) -> Path:
    """A folder in which an image of train/ is in val/ too, and has a name with markup in it."""
    root = tiny_images(train=12, val=10)
    odd = root / "train" / "cat" / "<b>[red]000.png"
    (root / "train" / "cat" / "000.png").rename(odd)
    shutil.copy(odd, root / "val" / "cat" / "copy.png")
    return root


class Page(HTMLParser):
    """The text of a page, its tags, and what they refer to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text, self.tags = "", list[str]()
        self.references = list[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the tag and what it refers to."""
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        """Keep the text."""
        self.text += data


def test_the_digits_are_healthy(capfd: pytest.CaptureFixture[str]) -> None:
    """`epoch14 doctor digits` needs nothing else, finds nothing above info, and exits with 0."""
    assert main(["doctor", "digits"]) == 0
    captured = capfd.readouterr()
    assert "digits: 1500 of 1500 images of train/ and 297 of 297 images of val/ were read, 10 classes" in captured.out
    assert "Nothing above info was found." in captured.out
    assert captured.err == ""


def test_a_finding_is_shown_and_exits_with_1(leaky: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The table has severity, check, figures and remedy; below it stand the files as they are named."""
    assert main(["doctor", str(leaky)]) == 1
    shown = capfd.readouterr().out
    assert "warning" in shown
    assert "Found: 0 errors, 1 warning." in shown
    assert f"overlap: {leaky}/train/cat/<b>[red]000.png\n" in shown
    assert main(["doctor", str(leaky), "--fail-on", "error"]) == 0


def test_findings_as_json(leaky: Path, tmp_path: Path) -> None:
    """`--json` holds every finding with its files, for a program to read."""
    assert main(["doctor", str(leaky), "--json", str(tmp_path / "found.json")]) == 1
    content = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert content["images"] == {"train": {"read": 24, "listed": 24}, "val": {"read": 21, "listed": 21}}
    overlap = next(finding for finding in content["findings"] if finding["check"] == "overlap")
    assert (overlap["severity"], overlap["count"]) == ("warning", 2)
    assert [file["split"] for file in overlap["files"]] == ["train", "val"]
    assert all(Path(file["location"]).is_file() for file in overlap["files"])


def test_findings_as_html(leaky: Path, tmp_path: Path) -> None:
    """`--html` is one file without references to others; names are text in it, and thumbnails are images."""
    (leaky / "train" / "dog" / "000.png").write_text("no image")
    assert main(["doctor", str(leaky), "--html", str(tmp_path / "report.html")]) == 1
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "<b>[red]000.png" in page.text
    assert "b" not in page.tags
    assert "script" not in page.tags
    assert "does not decode" in page.text
    assert page.references
    for reference in page.references:
        kind, _, content = reference.partition(",")
        assert kind == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(content))) as image:
            assert max(image.size) == 112


def test_a_report_is_readable_in_light_and_dark(leaky: Path, tmp_path: Path) -> None:
    """Every text colour has a contrast of 4.5 or more with what it stands on, as WCAG asks."""
    assert main(["doctor", str(leaky), "--html", str(tmp_path / "report.html")]) == 1
    style = (tmp_path / "report.html").read_text(encoding="utf-8")
    themes = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    assert len(themes) == 2
    for theme in themes:
        colours = dict(re.findall(r"--(\w+): #(\w{6})", theme))
        for text in ("text", "quiet", "error", "warning", "info"):
            assert contrast(colours[text], colours["card"]) >= 4.5, text


def contrast(first: str, second: str) -> float:
    """Contrast of two colours by WCAG 2.2."""
    high, low = sorted(map(luminance, (first, second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    """Relative luminance of `rrggbb`."""
    values = [int(colour[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["no/such/folder"], ("data.path", "'no/such/folder'")),
        (["digits", "--normalization", "mean"], ("--normalization", "'mean'", "per_channel")),
        (["digits", "--image-size", "4"], ("--image-size",)),
        (["digits", "--limit", "0"], ("--limit",)),
        (["digits", "--fail-on", "info"], ("--fail-on", "'info'", "warning or error")),
        (["digits", "--json", "no/such/found.json"], ("--json", "'no/such/found.json'")),
        (["digits", "--html", "."], ("--html",)),
        (["digits", "--address", "auto"], ("--address", "'auto'", "of the installation", "leave DATA out")),
        (["--config", "scedule"], ("preset", "'scedule'", "remedy: write schedule")),
        (["--set", "storage=s3://b/c"], ("storage", "'s3://b/c'", "remedy: set storage=outputs")),
        (["--html", "x.html"], ("--html", "'x.html'", "of a data set", "epoch14 doctor DATA")),
        (["--image-size", "64"], ("--image-size", "64", "epoch14 doctor DATA")),
        (["--fail-on", "info"], ("--fail-on", "'info'", "warning or error")),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str],
    says: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Bad input exits with 2 before an image is read, or, without a data set, before the installation is examined."""
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", *arguments]) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("epoch14: error: ")
    assert [word for word in (*says, "remedy: ") if word not in line] == []


def test_ctrl_c_ends_in_one_line() -> None:
    """While the bar is shown, Ctrl-C ends the command with 130, and the bar gives way to one line."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "pipelines", "doctor", "digits"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        shown, told = b"", False
        # Read to the end: a terminal that nobody reads holds up who writes to it. At its end Linux gives an error.
        with suppress(OSError):
            while chunk := os.read(ours, 4096):
                shown += chunk
                if not told and b"images" in shown:
                    process.send_signal(signal.SIGINT)
                    told = True
        stdout, _ = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 130
    assert stdout == b""
    assert shown.endswith(b"epoch14: interrupted: nothing was written\r\n")
    assert b"Traceback" not in shown


def test_progress_in_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal a line with the time left comes every ten seconds, and none for a short pass."""
    times = iter([0.0, 1.0, 10.0, 12.0, 20.0])
    monkeypatch.setattr("time.monotonic", lambda: next(times))
    output = io.StringIO()
    with shown_progress(Console(file=output)) as tell:
        for done in (10, 100, 120, 200):
            tell(done, 400)
    assert output.getvalue() == "100 of 400 images; about 30 s left\n200 of 400 images; about 20 s left\n"
