"""Images that don't decode are named, counted and replaced in a way that depends on the files alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from trainables.data.decode import DecodedPicture, Picture, decode_rgb
from trainables.data.images import TOGETHER, ImageSource
from trainables.data.index import ImageIndex, Split, open_index
from trainables.data.quarantine import Quarantine
from trainables.data.store import Encoded
from trainables.errors import DataError, DecodeError

if TYPE_CHECKING:
    from tests.conftest import TinyImages


@pytest.fixture
def folder(tiny_images: TinyImages) -> Path:
    """A fresh folder of a few images."""
    return tiny_images()


@pytest.fixture
def index(folder: Path, tmp_path: Path) -> ImageIndex:
    """The folder as it is before it is damaged."""
    return open_index(str(folder), cache_dir=tmp_path / "cache")


def damage(split: Split, *places: int) -> list[str]:
    """Cut files in half; returns where they are."""
    files = [Path(split.store.locate(place)) for place in places]
    for file in files:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return [str(file) for file in files]


def source(split: Split, limit: int = 16) -> ImageSource:
    """Random crops, with a quarantine of its own."""
    return ImageSource(split, 16, "crop_flip", seed=0, quarantine=Quarantine(split, limit))


def same_class(split: Split, label: int) -> list[int]:
    """Ids of a class."""
    return np.flatnonzero(split.labels == label).tolist()


def test_the_next_image_of_the_class_takes_the_place(index: ImageIndex) -> None:
    """The label stays right; past the last of a class its first is next; other samples keep their pixels."""
    first, second, *_, last = same_class(index.train, 1)
    before = ImageSource(index.train, 16, "none", 0).fetch(np.arange(len(index.train)), 0)
    files = damage(index.train, first, last)
    plain = ImageSource(index.train, 16, "none", 0, quarantine=Quarantine(index.train, 16))
    after = plain.fetch(np.arange(len(index.train)), 0)
    assert torch.equal(after[first], before[second])
    assert torch.equal(after[last], before[second])
    sound = [place for place in range(len(index.train)) if place not in (first, last)]
    assert torch.equal(after[sound], before[sound])
    assert plain.quarantine is not None
    assert plain.quarantine.files() == files


def test_damaged_images_among_many_are_replaced_alone(tiny_images: TinyImages, tmp_path: Path) -> None:
    """Cut files and files that aren't images, where a batch is made in parts: as if each were fetched alone."""
    index = open_index(str(tiny_images(train=25)), cache_dir=tmp_path / "cache")
    ids = np.roll(np.arange(len(index.train)), 1)
    assert len(ids) > 2 * TOGETHER
    files = damage(index.train, 0, 7, int(ids[TOGETHER]))
    Path(index.train.store.locate(int(ids[2 * TOGETHER]))).write_bytes(b"no image")
    several, alone = source(index.train), source(index.train)
    found = several.fetch(ids, 1)
    assert torch.equal(found, torch.cat([alone.fetch(ids[place : place + 1], 1) for place in range(len(ids))]))
    assert several.quarantine is not None
    assert set(files) < set(several.quarantine.files())
    assert len(several.quarantine.files()) == 4


def test_pixels_do_not_depend_on_who_met_it_first(index: ImageIndex) -> None:
    """In any order of samples, in any number of threads, met for the first time or again: the same batch."""
    ids = np.array(same_class(index.train, 0))
    damage(index.train, *ids[:2].tolist())
    forward, backward, threaded = (source(index.train) for _ in range(3))
    expected = forward.fetch(ids, 3)
    assert torch.equal(forward.fetch(ids, 3), expected)
    assert torch.equal(backward.fetch(ids[::-1], 3), expected.flip(0))
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: threaded.fetch(ids, 3), range(8)):
            assert torch.equal(found, expected)


def test_beyond_the_limit_the_run_stops_with_the_list(index: ImageIndex) -> None:
    """One image more than data.max_quarantined is an error that names them all."""
    ids = np.arange(len(index.train))
    files = damage(index.train, *same_class(index.train, 0)[:2])
    source(index.train, limit=2).fetch(ids, 0)
    with pytest.raises(DataError, match=r"^data\.max_quarantined: 1 is not allowed; allowed: at least 2, ") as caught:
        source(index.train, limit=1).fetch(ids, 0)
    assert all(file in str(caught.value) for file in files)


def test_a_class_without_a_sound_image_is_an_error(index: ImageIndex) -> None:
    """There is nothing to put in their place."""
    ids = same_class(index.train, 0)
    damage(index.train, *ids)
    with pytest.raises(DataError, match="a class with at least one image that decodes"):
        source(index.train).fetch(np.array(ids), 0)


def test_an_image_that_cannot_be_read_is_no_case_for_it(index: ImageIndex) -> None:
    """A missing file may be a failing disk: replacing it would make the batch depend on the hour."""
    Path(index.train.store.locate(0)).unlink()
    with pytest.raises(DataError, match="files that can be read") as caught:
        source(index.train).fetch(np.array([0]), 0)
    assert not isinstance(caught.value, DecodeError)


def test_evaluation_leaves_it_out(index: ImageIndex) -> None:
    """Scores are those of the images that decode, each once."""
    ids = np.arange(len(index.val))
    before, everyone = source(index.val).fetch_sound(ids)
    assert everyone.tolist() == ids.tolist()
    damage(index.val, 1)
    after, kept = source(index.val).fetch_sound(ids)
    assert kept.tolist() == [place for place in ids.tolist() if place != 1]
    assert torch.equal(after, before[torch.from_numpy(kept)])


def test_statistics_are_those_of_the_images_that_decode(
    folder: Path, index: ImageIndex, tiny_images: TinyImages, tmp_path: Path
) -> None:
    """A damaged image moves no channel's mean."""
    damaged = tiny_images(name="damaged")
    assert damaged != folder
    first = Path(open_index(str(damaged), cache_dir=tmp_path / "cache").train.store.locate(0))
    first.write_bytes(b"no image")
    found = open_index(str(damaged), cache_dir=tmp_path / "cache")
    Path(index.train.store.locate(0)).unlink()
    expected = open_index(str(folder), cache_dir=tmp_path / "cache")
    assert (found.channel_mean, found.channel_std) == (expected.channel_mean, expected.channel_std)


def test_what_an_earlier_crop_met_plays_no_part(index: ImageIndex) -> None:
    """Where a decoder sees only some crops of an image as damaged, a run that starts later takes the same pixels."""
    damaged = same_class(index.train, 1)[0]
    name = index.train.store.locate(damaged)

    class HalfDamaged(DecodedPicture):
        def region(self, top: int, left: int, height: int, width: int) -> torch.Tensor:
            if top + height > self.height // 2 + 8:
                raise DecodeError(f"{name}: damaged below")
            return super().region(top, left, height, width)

    def decoder(encoded: Encoded, where: str) -> Picture:
        pixels = decode_rgb(encoded, where)
        return HalfDamaged(pixels) if where == name else DecodedPicture(pixels)

    def crops() -> ImageSource:
        quarantine = Quarantine(index.train, 16)
        return ImageSource(index.train, 16, "crop", 0, crop_min_area=0.1, decoder=decoder, quarantine=quarantine)

    ids = np.array([damaged])
    whole = ImageSource(index.train, 16, "crop", 0, crop_min_area=0.1)
    through = crops()
    found = [through.fetch(ids, epoch) for epoch in range(12)]
    own = [torch.equal(batch, whole.fetch(ids, epoch)) for epoch, batch in enumerate(found)]
    assert 0 < sum(own) < 12
    assert own[own.index(False) :].count(True) > 0
    for epoch, batch in enumerate(found):
        assert torch.equal(crops().fetch(ids, epoch), batch)
