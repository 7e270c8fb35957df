"""A data set that no disk has room for is read image by image, and trains as its copy would."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from trainables.data.images import ImageSource
from trainables.data.index import default_cache_dir, open_index
from trainables.data.staging.stream import STREAM
from trainables.errors import DataError, DecodeError

if TYPE_CHECKING:
    from tests.s3_proxy import Proxy
    from tests.trainables.data.staging.conftest import Bucket


def test_its_images_are_those_of_the_folder(bucket: Bucket) -> None:
    """Names, labels, moments, fingerprint and bytes, in threads and in another process's copy of the store."""
    expected, found = open_index(str(bucket.images)), open_index(STREAM + bucket.uri)
    assert found.fingerprint() == expected.fingerprint()
    assert (found.channel_mean, found.channel_std) == (expected.channel_mean, expected.channel_std)
    ids = np.arange(len(expected.train))
    batch = ImageSource(expected.train, 24, "crop_flip", 3).fetch(ids, 1)
    again = pickle.loads(pickle.dumps(found.train))  # noqa: S301 - our own
    for split in (found.train, again):
        assert np.array_equal(split.labels, expected.train.labels)
        with ThreadPoolExecutor(4) as pool:
            source = ImageSource(split, 24, "crop_flip", 3)
            parts = list(pool.map(lambda part, source=source: source.fetch(part, 1), np.array_split(ids, 8)))
        assert np.array_equal(np.concatenate(parts), batch)


def test_nothing_but_row_tables_is_copied(bucket: Bucket, proxy: Proxy) -> None:
    """An image costs one request for its own bytes; a later copy of the whole begins with what is there."""
    index = open_index(STREAM + bucket.uri)
    tables = {"rows-train.arrow": 1, "rows-val.arrow": 1}
    assert proxy.gets == {"index.json": 1, **tables}
    (folder,) = (path for path in (default_cache_dir() / "staged").iterdir() if path.is_dir())
    assert {path.name for path in folder.iterdir()} == set(tables)
    proxy.gets.clear()
    for place in (0, 1, 0):
        index.train.store.read(place)
    assert sum(proxy.gets.values()) == 3
    proxy.gets.clear()
    open_index(bucket.uri)
    assert set(proxy.gets) == {path.name for path in bucket.shards.iterdir()} - set(tables)


def test_a_disk_without_room_is_no_obstacle(bucket: Bucket, small_disk: Path) -> None:
    """The refusal of a copy names the way out, which works there."""
    (small_disk / "ballast").write_bytes(bytes(900_000))
    with pytest.raises(DataError, match=rf"or set data\.path to stream\+{bucket.uri}, which fetches each image"):
        open_index(bucket.uri)
    index = open_index(STREAM + bucket.uri)
    assert len(index.train.store.read(7)) > 0


@pytest.mark.usefixtures("quick_s3")
def test_a_lost_connection_is_tried_again_then_one_line(bucket: Bucket, proxy: Proxy) -> None:
    """An answer cut short is asked for again; a dead server is no image that doesn't decode."""
    index = open_index(STREAM + bucket.uri)
    expected = open_index(str(bucket.images)).train.store
    name = index.train.store.locate(3).removeprefix(f"{bucket.uri}/").partition(":")[0]
    proxy.cuts[name] = 1
    assert np.array_equal(index.train.store.read(3), expected.read(3))
    proxy.dead = True
    with pytest.raises(DataError, match=rf"{name}' is not allowed; allowed: objects that can be read") as caught:
        index.train.store.read(3)
    assert not isinstance(caught.value, DecodeError)
    assert "\n" not in str(caught.value)
