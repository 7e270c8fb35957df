"""Shards at S3 that throttles, fails, drops connections, falls silent or no longer knows the credentials."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.s3_proxy import Proxy
from trainables import places, retries
from trainables.data.index import open_index
from trainables.data.staging.stage import FILES_AT_ONCE
from trainables.data.staging.stream import STREAM
from trainables.errors import DataError

if TYPE_CHECKING:
    from tests.trainables.data.conftest import MakeShards
    from tests.trainables.data.staging.conftest import Bucket

NEVER_S = 3600.0
"""A pause that no test would outlive."""


def assert_whole(bucket: Bucket, uri: str) -> None:
    """Opened from the URI, every image has its bytes."""
    found, expected = open_index(uri), open_index(str(bucket.images))
    for one, other in ((found.train.store, expected.train.store), (found.val.store, expected.val.store)):
        assert all(np.array_equal(one.read(place), other.read(place)) for place in range(len(other.names)))


@pytest.mark.parametrize(("kind", "times"), [("SlowDown", 5), ("drop", 5), ("hang", 1)])
def test_what_passes_is_waited_out(
    bucket: Bucket, proxy: Proxy, kind: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy under failures of a shard, more than the file system bears by its three attempts, has every byte."""
    monkeypatch.setattr(retries, "PAUSES_S", (0.1, 0.2))
    trouble = proxy.fail(kind, times, name="train-00003.arrow")
    assert_whole(bucket, bucket.uri)
    assert trouble.seen == times


@pytest.mark.usefixtures("quick_s3")
def test_an_index_and_a_stream_under_throttling(bucket: Bucket, proxy: Proxy) -> None:
    """Opening waits too, and so does each image that is read when it is needed."""
    throttled = proxy.fail("SlowDown", places.S3_ATTEMPTS + 1, name="index.json")
    index = open_index(STREAM + bucket.uri)
    assert throttled.seen == places.S3_ATTEMPTS + 1
    expected = open_index(str(bucket.images)).train.store
    for place in (0, 7):
        throttled = proxy.fail("SlowDown", places.S3_ATTEMPTS + 1)
        assert np.array_equal(index.train.store.read(place), expected.read(place))
        assert throttled.seen == places.S3_ATTEMPTS + 1


@pytest.mark.usefixtures("quick_s3")
def test_throttling_without_end_is_one_line(bucket: Bucket, proxy: Proxy) -> None:
    """It names the object, and the number of requests is bounded."""
    throttled = proxy.fail("SlowDown", name="train-00003.arrow")
    with pytest.raises(DataError) as caught:
        open_index(bucket.uri)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"data.path: '{bucket.uri}/train-00003.arrow' is not allowed; allowed: objects that can be")
    assert line.endswith("with fewer readers and writers at a time: the store throttles")
    assert throttled.seen == places.S3_ATTEMPTS * 3


@pytest.mark.parametrize("name", ["index.json", ".arrow"])
def test_expired_credentials_are_told_at_once(
    bucket: Bucket, proxy: Proxy, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the start, or in the middle of a copy: no pause, one line, and the way to new ones."""
    monkeypatch.setattr(retries, "PAUSES_S", (NEVER_S,))
    expired = proxy.fail("ExpiredToken", name=name)
    with pytest.raises(DataError, match="remedy: renew the credentials") as caught:
        open_index(bucket.uri)
    assert len(str(caught.value).splitlines()) == 1
    assert expired.seen <= 2 * FILES_AT_ONCE


def test_a_missing_bucket_is_told_at_once(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its name may be a slip of the pen."""
    del bucket
    monkeypatch.setattr(retries, "PAUSES_S", (NEVER_S,))
    for scheme in ("", STREAM):
        with pytest.raises(DataError, match="remedy: make the bucket, or correct its name"):
            open_index(f"{scheme}s3://no-such-bucket/shards")


@pytest.mark.usefixtures("quick_s3")
def test_shards_are_written_under_throttling(bucket: Bucket, proxy: Proxy, make_shards: MakeShards) -> None:
    """What `epoch14 shard` puts into a bucket that throttles is what it puts into a quiet one."""
    throttled = proxy.fail("SlowDown", 2 * places.S3_ATTEMPTS, methods=("PUT", "POST"))
    make_shards(bucket.images, f"{bucket.uri}-written")
    assert throttled.seen == 2 * places.S3_ATTEMPTS
    assert_whole(bucket, f"{bucket.uri}-written")
