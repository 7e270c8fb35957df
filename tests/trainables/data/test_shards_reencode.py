"""Smaller JPEGs, and how rows are cut into shards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from trainables.data.decode import read_rgb
from trainables.data.index import list_images, open_index
from trainables.data.shards.format import Reencode
from trainables.data.shards.plan import Settings, plan_shards
from trainables.data.shards.store import read_index
from trainables.errors import DataError

if TYPE_CHECKING:
    from tests.trainables.data.conftest import MakeShards

TinyImages = Callable[..., Path]


def test_short_sides_shrink_and_never_grow(tiny_images: TinyImages, tmp_path: Path, make_shards: MakeShards) -> None:
    """64x80 to 32x40, antialiased; 24x40 stays; ids, names and labels are the source's; the index says how."""
    small = tiny_images(("a",), train=2, val=1, size=(40, 24))
    large = tiny_images(("b",), train=3, val=1, size=(80, 64), name="large")
    for split in ("train", "val"):
        (large / split / "b").rename(small / split / "b")
    make_shards(small, tmp_path / "shards", reencode=Reencode(short=32, quality=90))
    before, after = list_images(str(small)), open_index(str(tmp_path / "shards"))
    assert after.fingerprint() == before.fingerprint()
    shapes = [tuple(read_rgb(after.train.store, place).shape) for place in range(5)]
    assert shapes == [(3, 24, 40)] * 2 + [(3, 32, 40)] * 3
    for place in range(5):
        expected = read_rgb(before.train.store, place)
        if place >= 2:
            expected = functional.resize(expected, [32], antialias=True)
        jpeg = torch.ops.image.encode_jpeg(expected, 90)
        assert np.array_equal(after.train.store.read(place), jpeg.numpy())
    assert read_index(tmp_path / "shards").reencode == Reencode(short=32, quality=90)


def test_moments_are_of_the_new_pixels(tiny_images: TinyImages, tmp_path: Path, make_shards: MakeShards) -> None:
    """As they would be counted from a folder of the new images."""
    folder = tiny_images(size=(80, 64))
    make_shards(folder, tmp_path / "shards", reencode=Reencode(short=16, quality=80))
    found = open_index(str(tmp_path / "shards"))
    pixels = (
        torch.cat([read_rgb(found.train.store, place).reshape(3, -1) for place in range(len(found.train))], dim=1) / 255
    )
    assert found.channel_mean == pytest.approx(pixels.double().mean(1).tolist(), abs=1e-6)
    assert found.channel_std == pytest.approx(pixels.double().std(1, correction=0).tolist(), abs=1e-6)
    make_shards(tmp_path / "shards", tmp_path / "again")
    again = open_index(str(tmp_path / "again"))
    assert (again.channel_mean, again.channel_std) == (found.channel_mean, found.channel_std)


def test_shards_have_their_size_after_it(clothing: Path, tmp_path: Path, make_shards: MakeShards) -> None:
    """The size that was asked for bounds the new images' within a tenth, though it is estimated from few of them."""
    outcome = make_shards(clothing, tmp_path / "shards", shard_size=2_000_000, reencode=Reencode(short=64, quality=90))
    sizes = [file.bytes for file in outcome.index.train.shards]
    assert max(sizes) < 1.1 * min(sizes)
    assert 1_500_000 < min(sizes) < max(sizes) < 2_200_000


def test_an_image_that_does_not_decode_is_named(
    tiny_images: TinyImages, tmp_path: Path, make_shards: MakeShards
) -> None:
    """Bytes are copied as they are, but what doesn't decode can't be encoded anew."""
    folder = tiny_images()
    (folder / "val" / "dog" / "001.png").write_bytes(b"no image")
    make_shards(folder, tmp_path / "copied")
    with pytest.raises(DataError, match=r"val/dog/001.png"):
        make_shards(folder, tmp_path / "encoded", reencode=Reencode(short=32, quality=90))


@pytest.mark.parametrize("size", [1, 500, 10_000, 10**9])
def test_every_image_is_in_one_shard(size: int) -> None:
    """Shards share the images without overlap, are numbered, and have nearly equal sizes below the one asked for."""
    lengths = np.random.Generator(np.random.Philox(1)).integers(0, 300, size=997)
    shards = plan_shards("train", lengths, Settings(shard_size=size))
    assert sorted(place for shard in shards for place in shard.places.tolist()) == list(range(997))
    assert [shard.number for shard in shards] == list(range(len(shards)))
    assert all(len(shard.places) for shard in shards)
    sizes = [int(lengths[shard.places].sum()) for shard in shards]
    assert max(sizes) <= size + 300
    if size >= 10_000:
        assert max(sizes) - min(sizes) <= 600


def test_a_split_of_empty_images_is_one_shard() -> None:
    """Nothing is divided by zero."""
    (shard,) = plan_shards("val", np.zeros(3, dtype=np.int64), Settings())
    assert sorted(shard.places.tolist()) == [0, 1, 2]
    assert shard.name == "val-00000.arrow"
