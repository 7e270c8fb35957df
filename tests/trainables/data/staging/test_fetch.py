"""What a network, a server and an object do wrong ends in the right bytes or in one line."""

from __future__ import annotations

import urllib.request
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from trainables import places
from trainables.data.index import default_cache_dir, open_index
from trainables.data.staging import fetch
from trainables.errors import DataError

if TYPE_CHECKING:
    from tests.s3_proxy import Proxy
    from tests.trainables.data.staging.conftest import Bucket

SHARD = "train-00002.arrow"
OFTEN = 100


pytestmark = pytest.mark.usefixtures("quick_s3")


def assert_whole(bucket: Bucket) -> None:
    """Opened from the URI, every image has its bytes."""
    found, expected = open_index(bucket.uri), open_index(str(bucket.images))
    for one, other in ((found.train.store, expected.train.store), (found.val.store, expected.val.store)):
        assert all(np.array_equal(one.read(place), other.read(place)) for place in range(len(other.names)))


def refusal(uri: str) -> str:
    """The one line that opening it ends with; nothing half-fetched is left."""
    with pytest.raises(DataError) as caught:
        open_index(uri)
    assert "\n" not in str(caught.value)
    assert not list(default_cache_dir().rglob("*.partial"))
    return str(caught.value)


def staged() -> set[str]:
    """Names of the files in the copy."""
    return {path.name for path in default_cache_dir().glob("staged/*/*")}


def allow_without_check(server: str, requests: str) -> None:
    """Tell moto after how many requests it begins to check the credentials."""
    text = {"Content-Type": "text/plain"}
    request = urllib.request.Request(f"{server}/moto-api/reset-auth", requests.encode(), text, method="POST")  # noqa: S310
    urllib.request.urlopen(request).close()  # noqa: S310 - our own server


def test_large_files_come_in_parts(bucket: Bucket, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges of an object, fetched side by side, make up its bytes, the short last one too."""
    monkeypatch.setattr(fetch, "PART_BYTES", 3000)
    assert_whole(bucket)
    for path in bucket.shards.glob("*.arrow"):
        assert proxy.gets[path.name] == -(-path.stat().st_size // 3000)
    assert proxy.gets[SHARD] > 1


def test_an_object_damaged_on_the_way_is_fetched_again(bucket: Bucket, proxy: Proxy) -> None:
    """Once: the second answer is right."""
    proxy.flips = Counter({SHARD: 1, "rows-val.arrow": 1})
    assert_whole(bucket)
    assert (proxy.gets[SHARD], proxy.gets["rows-val.arrow"], proxy.gets["train-00001.arrow"]) == (2, 2, 1)


def test_a_damaged_object_is_one_line(bucket: Bucket, proxy: Proxy) -> None:
    """It names the object and what mends it, after two fetches; what was fetched before stays."""
    content = bytearray((bucket.shards / SHARD).read_bytes())
    content[len(content) // 3] ^= 4
    bucket.client.put_object(Bucket="data", Key=f"{bucket.prefix}/{SHARD}", Body=bytes(content))
    line = refusal(bucket.uri)
    assert line.startswith(f"data.path: '{bucket.uri}/{SHARD}' is not allowed; allowed: objects as they were written (")
    assert "its checksum is wrong, twice); remedy: remove this object and run the epoch14 shard command that" in line
    assert proxy.gets[SHARD] == 2
    assert SHARD not in staged()
    assert "index.json" not in staged()
    kept = staged()
    assert kept
    bucket.put()
    proxy.gets.clear()
    assert_whole(bucket)
    assert not kept & set(proxy.gets)


def test_a_missing_or_short_object_is_one_line(bucket: Bucket) -> None:
    """It is named."""
    size = (bucket.shards / SHARD).stat().st_size
    bucket.client.put_object(Bucket="data", Key=f"{bucket.prefix}/{SHARD}", Body=b"short")
    assert f"{SHARD}' is not allowed; allowed: objects as they were written (it has 5 of {size} bytes)" in refusal(
        bucket.uri
    )
    bucket.client.delete_object(Bucket="data", Key=f"{bucket.prefix}/{SHARD}")
    assert f"{SHARD}' is not allowed; allowed: objects that can be read (it is missing); remedy: write it" in refusal(
        bucket.uri
    )


def test_a_cut_connection_is_tried_again(bucket: Bucket, proxy: Proxy) -> None:
    """More often than the file system tries by itself; then the bytes are right, and counted once."""
    proxy.cuts = Counter({SHARD: places.S3_ATTEMPTS + 1, "train-00004.arrow": 1})
    assert_whole(bucket)
    assert (proxy.gets[SHARD], proxy.gets["train-00004.arrow"]) == (1, 1)


def test_a_connection_that_is_always_cut_is_one_line(bucket: Bucket, proxy: Proxy) -> None:
    """It names the object."""
    proxy.cuts = Counter({SHARD: OFTEN})
    line = refusal(bucket.uri)
    assert line.startswith(f"data.path: '{bucket.uri}/{SHARD}' is not allowed; allowed: objects that can be read (")
    assert OFTEN - proxy.cuts[SHARD] == places.S3_ATTEMPTS * 3


def test_a_server_that_dies_is_one_line_and_the_next_goes_on(bucket: Bucket, proxy: Proxy) -> None:
    """In the middle or from the start; what came before it died stays."""

    def die(name: str) -> None:
        proxy.dead |= name == "train-00008.arrow"

    proxy.before = die
    assert "objects that can be read (" in refusal(bucket.uri)
    assert "remedy: check the network, and AWS_ENDPOINT_URL" in refusal(bucket.uri)
    kept = staged()
    assert len(kept) >= 2
    proxy.before, proxy.dead = (lambda name: None), False
    proxy.gets.clear()
    assert_whole(bucket)
    assert not kept & set(proxy.gets)


def test_wrong_credentials_are_one_line(bucket: Bucket, s3_server: str) -> None:
    """The server's reason is told."""
    allow_without_check(s3_server, "0")
    try:
        line = refusal(bucket.uri)
    finally:
        allow_without_check(s3_server, "inf")
    assert line.startswith(f"data.path: '{bucket.uri}' is not allowed; allowed: a folder or s3://bucket/prefix that")
    assert "ACCESS_DENIED" in line
    assert "remedy: let these credentials" in line
    assert Path(default_cache_dir(), "staged").exists() is False
