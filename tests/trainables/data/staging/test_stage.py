"""Shards at a URI are, to training, the folder that they were made of."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from trainables.data.images import ImageSource
from trainables.data.index import ImageIndex, default_cache_dir, list_images, open_index
from trainables.data.prefetch import Prefetcher
from trainables.data.sampler import EpochSampler
from trainables.data.shards.store import read_index
from trainables.errors import DataError
from trainables.ranks import Ranks

if TYPE_CHECKING:
    from tests.s3_proxy import Proxy
    from tests.trainables.data.conftest import MakeShards
    from tests.trainables.data.staging.conftest import Bucket

TinyImages = Callable[..., Path]


def copies() -> list[Path]:
    """Folders of the cache that hold a copy, finished or not."""
    return [path for path in (default_cache_dir() / "staged").iterdir() if path.is_dir()]


def refusal(path: str) -> str:
    """The one line that opening it ends with."""
    with pytest.raises(DataError) as caught:
        open_index(path)
    message = str(caught.value)
    assert "\n" not in message
    assert "; remedy: " in message
    return message


def test_the_copy_is_the_folder(bucket: Bucket) -> None:
    """Names, labels, bytes, moments and fingerprint; the copy holds the files of the bucket and nothing else."""
    expected, found = open_index(str(bucket.images)), open_index(bucket.uri)
    assert found.root == bucket.uri
    assert (found.classes, found.fingerprint()) == (expected.classes, expected.fingerprint())
    assert (found.channel_mean, found.channel_std) == (expected.channel_mean, expected.channel_std)
    for one, other in ((found.train, expected.train), (found.val, expected.val)):
        assert list(one.store.names) == list(other.store.names)
        assert np.array_equal(one.labels, other.labels)
        for place in range(len(one)):
            assert np.array_equal(one.store.read(place), other.store.read(place))
    (copy,) = copies()
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == {
        path.name: path.read_bytes() for path in bucket.shards.iterdir()
    }
    assert isinstance(list_images(bucket.uri), ImageIndex)


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("threads", [0, 1, 4])
def test_a_step_has_the_same_bytes_from_everywhere(threads: int, world: int, bucket: Bucket) -> None:
    """From the folder, its shards here and at s3://, on any share of ranks, however many threads load."""
    found = []
    for path in (str(bucket.images), str(bucket.shards), bucket.uri):
        index = open_index(path)
        source, sampler = ImageSource(index.train, 24, "crop_flip", 3), EpochSampler(len(index.train), 12, 3)
        batches: dict[int, bytes] = {}
        for rank in range(world):
            share = Ranks(rank, world).share(12)

            def fetch(
                step: int, share: slice = share, sampler: EpochSampler = sampler, source: ImageSource = source
            ) -> bytes:
                batch = source.fetch(sampler.sample_ids(step)[share], sampler.epochs(step)[share])
                return batch.numpy().tobytes()

            with Prefetcher(fetch, threads, stop_step=8) as loader:
                for step in range(8):
                    batches[step] = batches.get(step, b"") + loader.get(step)
        found.append(batches)
    assert len(set(found[0].values())) == 8
    assert found[0] == found[1] == found[2]


def test_a_second_opening_fetches_only_the_index(bucket: Bucket, proxy: Proxy) -> None:
    """A slash at the end of the URI is the same place."""
    open_index(bucket.uri)
    assert proxy.gets == {path.name: 1 for path in bucket.shards.iterdir()}
    proxy.gets.clear()
    open_index(bucket.uri)
    open_index(f"{bucket.uri}/")
    assert proxy.gets == {"index.json": 2}


def test_a_changed_data_set_has_a_folder_of_its_own(
    bucket: Bucket, tiny_images: TinyImages, tmp_path: Path, make_shards: MakeShards
) -> None:
    """It is noticed at the next opening, and the images of the former one stay readable for who has them open."""
    before = open_index(bucket.uri)
    images = tiny_images(train=21, val=3, name="more")
    make_shards(images, tmp_path / "more-shards")
    bucket.shards = tmp_path / "more-shards"
    bucket.put()
    assert len(open_index(bucket.uri).train) == 42
    assert len(copies()) == 2
    expected = open_index(str(bucket.images)).train.store
    assert all(np.array_equal(before.train.store.read(place), expected.read(place)) for place in range(40))


def test_a_copy_that_was_cut_or_damaged_is_mended(bucket: Bucket, proxy: Proxy) -> None:
    """A shard that is short or gone, a damaged row table, a lost index: only these are fetched again."""
    open_index(bucket.uri)
    (copy,) = copies()
    one, two = (copy / file.name for file in read_index(copy).train.shards[:2])
    one.write_bytes(b"short")
    two.unlink()
    rows = bytearray((copy / "rows-val.arrow").read_bytes())
    rows[len(rows) // 2] ^= 1
    (copy / "rows-val.arrow").write_bytes(rows)
    proxy.gets.clear()
    open_index(bucket.uri)
    assert proxy.gets == {"index.json": 1, one.name: 1, two.name: 1, "rows-val.arrow": 1}
    (copy / "index.json").unlink()
    open_index(bucket.uri)
    assert all((copy / path.name).read_bytes() == path.read_bytes() for path in bucket.shards.iterdir())


def test_a_file_uri_is_opened_in_place(bucket: Bucket) -> None:
    """Shards or an image folder: nothing is copied."""
    for folder in (bucket.shards, bucket.images):
        assert open_index(f"file://{folder}").root == str(folder)
    assert not (default_cache_dir() / "staged").exists()


def test_a_uri_without_shards_says_how_to_make_them(bucket: Bucket) -> None:
    """Nothing there, images, an unfinished conversion, or another program's index."""
    make = "remedy: make them with `epoch14 shard SRC DST`"
    assert f"(nothing is there); {make}" in refusal("s3://data/nothing")
    bucket.client.put_object(Bucket="data", Key="images/train/cat/1.png", Body=b"x")
    assert f"(it has no index.json); {make}" in refusal("s3://data/images")
    bucket.client.put_object(Bucket="data", Key="begun/.epoch14-shard/plan.json", Body=b"{}")
    assert "(they are not finished); remedy: run their epoch14 shard command again" in refusal("s3://data/begun")
    bucket.client.put_object(Bucket="data", Key="other/index.json", Body=b'{"format": "mine"}')
    assert "index.json is another program's" in refusal("s3://data/other")


@pytest.mark.parametrize("uri", ["s3://no-such-bucket/x", "s3://", "ftp://x/y", "hdfs://nowhere/x"])
def test_a_place_that_is_none_is_one_line(uri: str, s3_client: Any) -> None:
    """The URI is named as it was given."""
    del s3_client
    assert refusal(uri).startswith(f"data.path: {uri!r} is not allowed; allowed: ")


def test_a_data_set_that_the_disk_has_no_room_for_is_refused_at_once(
    bucket: Bucket, proxy: Proxy, small_disk: Path
) -> None:
    """Before anything is fetched, with both sizes; what a dead process left half-fetched gives way."""
    need = sum(path.stat().st_size for path in bucket.shards.glob("*.arrow")) / 1e6
    (small_disk / "ballast").write_bytes(bytes(900_000))
    line = refusal(bucket.uri)
    assert line.startswith(f"EPOCH14_CACHE: {str(small_disk)!r} is not allowed; allowed: a folder with {need:.1f} MB")
    assert "(it has 0.1 MB); remedy: set EPOCH14_CACHE to a folder on a larger local disk, remove older" in line
    assert proxy.gets == {"index.json": 1}
    (small_disk / "ballast").rename(copies()[0] / "train-00000.arrow.partial")
    assert len(open_index(bucket.uri).train) == 40


def test_a_disk_that_gets_full_is_one_line(bucket: Bucket, proxy: Proxy, small_disk: Path) -> None:
    """What was whole by then is not fetched again when there is room."""
    shards = [path.name for path in bucket.shards.glob("train-*.arrow")]

    def fill(name: str) -> None:
        if sum(proxy.gets[shard] for shard in shards) >= 4 and name in shards:
            proxy.before = lambda name: None
            free = subprocess.run(["df", "--output=avail", "-B1", small_disk], check=True, capture_output=True)
            (small_disk / "ballast").write_bytes(bytes(max(int(free.stdout.split()[1]) - 4096, 1)))

    proxy.before = fill
    line = refusal(bucket.uri)
    assert line.startswith("EPOCH14_CACHE: ")
    assert "(No space left on device); remedy: free space there, or set EPOCH14_CACHE to another" in line
    (small_disk / "ballast").unlink()
    (copy,) = copies()
    kept = {path.name for path in copy.iterdir()}
    assert len(kept) >= 2
    assert all(name.endswith(".arrow") for name in kept)
    proxy.gets.clear()
    open_index(bucket.uri)
    assert set(proxy.gets) == {path.name for path in bucket.shards.iterdir()} - kept


def test_a_cache_that_cannot_be_written_is_one_line(
    bucket: Bucket, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is read-only, or a file where the folder belongs."""
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert "(Read-only file system); remedy: mount it writable, or name another folder" in refusal(bucket.uri)
    monkeypatch.setenv("EPOCH14_CACHE", str(bucket.shards / "index.json"))
    assert refusal(bucket.uri).startswith(f"EPOCH14_CACHE: '{bucket.shards}/index.json/staged/")


def test_a_cache_of_another_user_is_one_line(bucket: Bucket, tmp_path: Path) -> None:
    """One that may not even be looked into, with a finished copy or none."""
    if os.getuid() != 0:
        pytest.skip("only root can act as another user")
    for _ in range(2):
        tmp_path.chmod(0o700)
        os.seteuid(65534)
        try:
            line = refusal(bucket.uri)
        finally:
            os.seteuid(0)
        assert line.startswith(f"EPOCH14_CACHE: '{default_cache_dir()}/staged/")
        assert "(Permission denied); remedy: let this user write there, or set EPOCH14_CACHE to another" in line
        open_index(bucket.uri)


def test_a_damaged_index_is_one_line(bucket: Bucket) -> None:
    """An edit by hand is found by the index's own checksum."""
    content = json.loads((bucket.shards / "index.json").read_text())
    bucket.client.put_object(Bucket="data", Key=f"{bucket.prefix}/index.json", Body=json.dumps({**content, "seed": 9}))
    assert "index.json is damaged or was edited" in refusal(bucket.uri)
