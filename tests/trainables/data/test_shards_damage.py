"""Shards that are not as they were written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from trainables.data.decode import decode_rgb
from trainables.data.index import open_index
from trainables.data.shards.store import read_index
from trainables.data.shards.verify import verify
from trainables.errors import DataError
from trainables.rng import generator

if TYPE_CHECKING:
    from tests.trainables.data.conftest import MakeShards

TinyImages = Callable[..., Path]


@pytest.fixture
def shards(tiny_images: TinyImages, tmp_path: Path, make_shards: MakeShards) -> Path:
    """Four shards of training images, one or two of the others."""
    make_shards(tiny_images(train=5, val=2), tmp_path / "shards")
    return tmp_path / "shards"


def check(folder: Path) -> None:
    """Verify without a listener."""
    verify(str(folder), threads=2, listener=lambda progress: None)


def flip(path: Path, place: int) -> None:
    """Change one bit."""
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1 << (place % 8)
    path.write_bytes(content)


def test_a_flipped_bit_is_found(shards: Path) -> None:
    """In any file and at any place: by `verify` in a shard, at opening already in a row table and the index."""
    check(shards)
    index = read_index(shards)
    for number, file in enumerate(index.files):
        path = shards / file.name
        before = path.read_bytes()
        flip(path, int(generator("flip", number).integers(file.bytes)))
        with pytest.raises(DataError, match=rf"^DST: .*the checksum of {file.name} is wrong.*; remedy: remove"):
            check(shards)
        if file.name.startswith("rows-"):
            with pytest.raises(DataError, match=rf"^data.path: .*the checksum of {file.name} is wrong"):
                open_index(str(shards))
        path.write_bytes(before)
    check(shards)


def test_a_short_missing_or_foreign_shard_is_found_at_opening(shards: Path) -> None:
    """By its size, before training begins; the file and a remedy are named."""
    path = shards / read_index(shards).train.shards[1].name
    content = path.read_bytes()
    for wrong in (content[:-1], content + b"x", b"", b"of another data set"):
        path.write_bytes(wrong)
        with pytest.raises(DataError, match=rf"^data.path: .*{path.name} has {len(wrong)} of {len(content)} bytes"):
            open_index(str(shards))
    path.unlink()
    with pytest.raises(DataError, match=rf"^data.path: .*{path.name} is missing\); remedy: copy it again"):
        open_index(str(shards))


def test_a_shard_that_shrinks_later_is_an_error(shards: Path) -> None:
    """Cut or removed between opening and the first read, it gives a line that names it, not a crash."""
    for removed in (False, True):
        folder = Path(shutil.copytree(shards, shards.with_name(f"copy-{removed}")))
        store = open_index(str(folder)).train.store
        path = Path(store.locate(0).partition(": ")[0])
        path.write_bytes(b"x")
        if removed:
            path.unlink()
        with pytest.raises(DataError, match=path.name):
            store.read(0)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"version": 2}, "of format 1 (these are of format 2); remedy: make the shards again"),
        ({"format": "other"}, "index.json is another program's"),
        ({"seed": 5}, "index.json is damaged or was edited"),
        ({"classes": None}, "index.json is damaged or was edited"),
        ({"more": 1}, "index.json is damaged or was edited"),
    ],
)
def test_a_changed_index_is_one_line(changes: dict[str, object], named: str, shards: Path) -> None:
    """Another version, another program, an edit by hand."""
    path = shards / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(DataError) as caught:
        open_index(str(shards))
    assert str(caught.value).startswith("data.path: ")
    assert named in str(caught.value)
    assert "; remedy: " in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "3", "\x00", pytest.param("[" * 100_000, id="deep"), '{"format": "epoch14-shards"}'],
)
def test_a_broken_index_is_one_line(text: str, shards: Path) -> None:
    """Whatever it holds."""
    (shards / "index.json").write_text(text)
    with pytest.raises(DataError) as caught:
        open_index(str(shards))
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"^DST: "):
        check(shards)


def test_row_tables_of_other_shards_are_found(
    shards: Path, tiny_images: TinyImages, tmp_path: Path, make_shards: MakeShards
) -> None:
    """They are named with their checksum in the index."""
    make_shards(tiny_images(train=6, val=2, name="more"), tmp_path / "others")
    shutil.copy(tmp_path / "others" / "rows-train.arrow", shards)
    with pytest.raises(DataError, match=r"rows-train.arrow has \d+ of \d+ bytes"):
        open_index(str(shards))


@pytest.mark.parametrize("seed", range(40))
def test_no_damage_is_worse_than_an_error(seed: int, shards: Path) -> None:
    """A file with flipped bits, cut, or filled with noise: opening and reading give bytes or a DataError."""
    rng = generator("mutation", seed)
    index = read_index(shards)
    names = [*(file.name for file in index.files), "index.json"]
    path = shards / names[seed % len(names)]
    kind = seed // len(names) % 3
    if kind == 0:
        for place in rng.integers(0, path.stat().st_size, size=8).tolist():
            flip(path, place)
    elif kind == 1:
        path.write_bytes(path.read_bytes()[: int(rng.integers(0, path.stat().st_size))])
    else:
        path.write_bytes(rng.bytes(path.stat().st_size))
    with pytest.raises(DataError):
        check(shards)
    try:
        found = open_index(str(shards))
    except DataError:
        return
    for split in (found.train, found.val):
        for place in range(len(split)):
            data = split.store.read(place)
            assert data.dtype == np.uint8
            with suppress(DataError):
                decode_rgb(data, split.store.locate(place))
