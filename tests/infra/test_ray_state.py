"""A sweep whose state was torn by a kill, or lost with its machine, goes on from a copy."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from infra.ray_state import fetch, keep_state, mend_state, put_away

STATE, TUNER, SEARCH = "experiment_state-1.json", "tuner.pkl", "search_gen_state-1.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What Tune leaves of a sweep, as far as it matters here."""
    (tmp_path / STATE).write_text(json.dumps({"trial_data": [1, 2]}), encoding="utf-8")
    (tmp_path / TUNER).write_bytes(pickle.dumps({"trainable": "a"}))
    (tmp_path / SEARCH).write_bytes(pickle.dumps({"counter": 2}))
    keep_state(tmp_path)
    return tmp_path


@pytest.mark.parametrize("left", [0.0, 0.5, 0.99])
@pytest.mark.parametrize("name", [STATE, TUNER, SEARCH])
def test_what_is_torn_is_put_back(folder: Path, name: str, left: float) -> None:
    """Cut off anywhere, and nothing else is touched."""
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(left * len(content))])
    assert mend_state(folder) == [name]
    assert (folder / name).read_bytes() == content
    assert mend_state(folder) == []


def test_what_is_newer_and_whole_stays(folder: Path) -> None:
    """A copy is for a torn file alone."""
    (folder / STATE).write_text(json.dumps({"trial_data": [1, 2, 3]}), encoding="utf-8")
    assert mend_state(folder) == []
    assert json.loads((folder / STATE).read_text())["trial_data"] == [1, 2, 3]


def test_a_torn_file_does_not_replace_its_copy(folder: Path) -> None:
    """Kept is what was whole."""
    whole = (folder / TUNER).read_bytes()
    (folder / TUNER).write_bytes(b"")
    keep_state(folder)
    assert mend_state(folder) == [TUNER]
    assert (folder / TUNER).read_bytes() == whole
    assert not list(folder.glob("*.partial"))


def test_state_is_found_again_on_another_machine(folder: Path, tmp_path: Path) -> None:
    """The archive has the copies that are whole, under their names, and the sweep's config; the newest one counts."""
    place, elsewhere = str(tmp_path / "kept" / "sweep-1"), tmp_path / "other" / "sweep-1"
    assert not fetch(place, elsewhere)
    assert not elsewhere.exists()
    put_away(folder, place)
    (folder / "sweep.yaml").write_text("name: sweep\n", encoding="utf-8")
    (folder / STATE).write_bytes(b"{")
    put_away(folder, place)
    assert fetch(place, elsewhere)
    content = {file.name: file.read_bytes() for file in elsewhere.iterdir()}
    assert sorted(content) == [STATE, SEARCH, "sweep.yaml", TUNER]
    assert json.loads(content[STATE]) == {"trial_data": [1, 2]}


def test_a_place_that_fails_ends_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is one line in the log, with a remedy; the sweep goes on."""
    put_away(folder, str(folder / TUNER))
    (line,) = caplog.messages
    assert line.startswith(f"the sweep's state was not written to {folder / TUNER}: ")
    assert line.endswith("remedy: name a folder, not a file")
