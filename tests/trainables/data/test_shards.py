"""A data set and its Arrow shards are the same to training."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from trainables.data.images import ImageSource
from trainables.data.index import ImageIndex, list_images, open_index
from trainables.data.shards.store import ShardStore, check_file, open_shards, read_index
from trainables.trial import run_trial

if TYPE_CHECKING:
    from tests.trainables.conftest import Tiny
    from tests.trainables.data.conftest import MakeShards

TinyImages = Callable[..., Path]


def assert_same(found: ImageIndex, expected: ImageIndex) -> None:
    """Names, labels, bytes, moments and fingerprint."""
    assert found.classes == expected.classes
    for one, other in ((found.train, expected.train), (found.val, expected.val)):
        assert list(one.store.names) == list(other.store.names)
        assert one.labels.dtype == other.labels.dtype
        assert np.array_equal(one.labels, other.labels)
        for place in range(len(one)):
            assert np.array_equal(one.store.read(place), other.store.read(place))
    assert found.fingerprint() == expected.fingerprint()
    assert (found.channel_mean, found.channel_std) == (expected.channel_mean, expected.channel_std)


@pytest.fixture
def folder(tiny_images: TinyImages) -> Path:
    """Images of about 4 kB, 150 for training: several record batches and many shards."""
    return tiny_images(train=75, val=5)


@pytest.fixture
def shards(folder: Path, tmp_path: Path, make_shards: MakeShards) -> Path:
    """Shards of them."""
    make_shards(folder, tmp_path / "shards", shard_size=200_000)
    return tmp_path / "shards"


def read_shard(path: Path) -> list[pa.RecordBatch]:
    """Record batches of a file."""
    with pa.OSFile(str(path)) as file:
        reader = pa.ipc.open_file(file)
        return [reader.get_batch(number) for number in range(reader.num_record_batches)]


def test_shards_hold_what_the_folder_holds(folder: Path, shards: Path, tmp_path: Path) -> None:
    """Ids, labels, bytes, channel moments and fingerprint; `list_images` gives the same as `open_index`."""
    expected = open_index(str(folder), cache_dir=tmp_path / "cache")
    assert_same(open_index(str(shards)), expected)
    listed = list_images(str(shards))
    assert isinstance(listed, ImageIndex)
    assert_same(listed, expected)
    assert listed.root == str(shards)


def test_photos_train_on_the_same_bits(clothing: Path, tmp_path: Path, make_shards: MakeShards) -> None:
    """Batches of an augmenting source are equal, for real photos, from a folder and from its shards."""
    make_shards(clothing, tmp_path / "shards", shard_size=2_000_000)
    one = open_index(str(clothing), cache_dir=tmp_path / "cache")
    two = open_index(str(tmp_path / "shards"))
    assert_same(two, one)
    ids = np.arange(0, 3000, 60)
    for augment in ("none", "crop_flip"):
        batches = [ImageSource(index.train, 64, augment, 3, rand_augment_ops=1).fetch(ids, 2) for index in (one, two)]
        assert torch.equal(*batches)


def test_a_trial_has_the_same_losses(folder: Path, shards: Path, tiny: Tiny) -> None:
    """A run that names the shards as its data is the run on the folder, bit for bit."""
    histories = []
    for path in (folder, shards):
        rows: list[dict[str, Any]] = []
        config = tiny(max_steps=4, data={"path": str(path), "augment": "crop_flip"})
        assert run_trial(config, rows.append).phase == "finished"
        histories.append([step["loss"] for row in rows for step in row["history"]])
    assert len(histories[0]) == 4
    assert histories[0] == histories[1]


def test_a_shard_is_plain_arrow(folder: Path, shards: Path) -> None:
    """Any reader of Arrow finds image, label, sample_id and name, in batches of at most 128 rows, uncompressed."""
    listing = list_images(str(folder))
    index = read_index(shards)
    assert [file.name for file in index.train.shards] == ["train-00000.arrow", "train-00001.arrow", "train-00002.arrow"]
    seen = []
    for file in index.train.shards:
        batches = read_shard(shards / file.name)
        assert sum(batch.num_rows for batch in batches) == file.rows
        assert [batch.num_rows for batch in batches[:-1]] == [128] * (len(batches) - 1)
        for row in (row for batch in batches for row in batch.to_pylist()):
            place = row["sample_id"]
            seen.append(place)
            assert row["image"] == listing.train.store.read(place).tobytes()
            assert (row["label"], row["name"]) == (listing.train.labels[place], listing.train.store.names[place])
    assert sorted(seen) == list(range(150))
    assert seen != sorted(seen)
    assert (index.train.images, index.train.images_per_class) == (150, (75, 75))
    total = sum(path.stat().st_size for path in folder.glob("train/*/*"))
    assert index.train.image_bytes == total


def test_batches_of_many_rows_are_cut(digits_cache: Path, tmp_path: Path, make_shards: MakeShards) -> None:
    """One large shard has record batches of 128 rows."""
    make_shards(digits_cache / "digits-v1", tmp_path / "shards", shard_size=10**8)
    batches = read_shard(tmp_path / "shards" / "train-00000.arrow")
    assert [batch.num_rows for batch in batches] == [128] * 11 + [92]


def test_the_seed_keys_the_order(folder: Path, tmp_path: Path, make_shards: MakeShards) -> None:
    """Another seed mixes the rows another way; ids, names and bytes stay."""
    for seed in (1, 2):
        make_shards(folder, tmp_path / str(seed), seed=seed)
    one, two = (open_index(str(tmp_path / str(seed))) for seed in (1, 2))
    assert_same(one, two)
    assert isinstance(one.train.store, ShardStore)
    assert isinstance(two.train.store, ShardStore)
    assert not np.array_equal(one.train.store.offset, two.train.store.offset)


def test_a_read_copies_nothing(shards: Path) -> None:
    """Two reads are views of one map, which torch takes without a warning; a change of one never reaches the file."""
    store = open_index(str(shards)).train.store
    before = store.read(3).copy()
    assert np.shares_memory(store.read(3), store.read(3))
    torch.from_numpy(store.read(3))[0] = 0
    assert np.array_equal(open_index(str(shards)).train.store.read(3), before)


def test_it_says_where_an_image_is(shards: Path) -> None:
    """The shard and the name of the file in it."""
    store = open_index(str(shards)).train.store
    path, _, name = store.locate(80).partition(": ")
    assert Path(path).parent == shards
    assert Path(path).is_file()
    assert name == store.names[80] == "train/dog/005.png"


def test_many_threads_read_at_once(folder: Path, tmp_path: Path, make_shards: MakeShards) -> None:
    """Maps are made at the first use of each file, by whichever thread comes first."""
    make_shards(folder, tmp_path / "shards")
    expected = list_images(str(folder)).train.store
    for _ in range(5):
        store = open_index(str(tmp_path / "shards")).train.store
        with ThreadPoolExecutor(8) as pool:
            for place, data in enumerate(pool.map(store.read, range(150))):
                assert np.array_equal(data, expected.read(place))


def test_it_survives_pickling(shards: Path) -> None:
    """An index travels to another process without the maps, and makes its own there."""
    index = open_index(str(shards))
    data = index.train.store.read(5)
    packed = pickle.dumps(index)
    assert len(packed) < 30_000
    again = pickle.loads(packed)  # noqa: S301
    assert np.array_equal(again.train.store.read(5), data)
    assert again.fingerprint() == index.fingerprint()


def test_what_a_copy_needs_to_be_proved_whole(shards: Path) -> None:
    """Each file is named with size and checksum, the folder holds nothing else, and one file can be checked alone."""
    index = read_index(shards)
    names = [file.name for file in index.files]
    assert sorted([*names, "index.json"]) == sorted(path.name for path in shards.iterdir())
    assert [check_file(shards, file) for file in index.files] == [None] * len(names)
    data = bytearray((shards / names[2]).read_bytes())
    data[1000] ^= 1
    (shards / names[2]).write_bytes(data)
    assert check_file(shards, index.files[2]) == f"the checksum of {names[2]} is wrong"
    assert open_shards(shards).root == str(shards)
