"""The reference page: it is what `make reference` writes, and leaves out no key and no command."""

from __future__ import annotations

import re

import pytest

from pipelines.cli import COMMANDS
from pipelines.config import SweepConfig
from pipelines.reference import FILE, reference
from trainables.config import TrialConfig
from trainables.section import Section


@pytest.fixture(scope="module")
def page() -> str:
    """What is generated now."""
    return reference()


def test_the_committed_page_is_what_is_generated(page: str) -> None:
    """Whoever changes a key, a docstring or an option runs `make reference`."""
    assert FILE.read_text(encoding="utf-8") == page, "run `make reference` and commit what it writes"


@pytest.mark.parametrize("root", [SweepConfig, TrialConfig])
def test_every_key_is_explained(root: type[Section], page: str) -> None:
    """Each key that `--set` takes has a row with something in every cell, or, if a section, a table of its own."""
    rows = dict(re.findall(r"^\| `([^`]+)` \| (.+) \|$", page, re.MULTILINE))
    titles = re.findall(r"^### `(.+)`$", page, re.MULTILINE)
    assert [key for key in root.dotted_keys() if key not in rows and key not in titles] == []
    assert [key for key in root.dotted_keys() if "" in map(str.strip, rows.get(key, "-").split(" | "))] == []


def test_every_command_is_there(page: str) -> None:
    """Each command, and each of those of `job`, has a title."""
    titles = {title.split()[1] for title in re.findall(r"^### `(epoch14 .+)`$", page, re.MULTILINE)}
    assert titles == set(COMMANDS)
