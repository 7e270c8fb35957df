"""Tar shards and Parquet files at S3 that throttles, drops connections, or no longer knows the credentials."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.s3_proxy import Proxy, proxy_before
from tests.trainables.data.test_shards_sources import upload
from trainables import places, retries
from trainables.data.shards.store import read_index
from trainables.errors import DataError

if TYPE_CHECKING:
    from tests.trainables.data.conftest import MakeShards, Rewrite

NEVER_S = 3600.0
"""A pause that no test would outlive."""
LAYOUTS = {"tars": "first.tar", "parquet": "train-00000-of-00002.parquet"}
"""Each with the name of one of its files."""


@pytest.fixture(params=LAYOUTS)
def source(
    request: pytest.FixtureRequest,
    tiny_images: Callable[..., Path],
    as_tars: Rewrite,
    as_parquet: Rewrite,
    s3_client: Any,
    tmp_path: Path,
) -> Path:
    """A data set here, which lies in the bucket too, under the name of its test's folder."""
    found = {"tars": as_tars, "parquet": as_parquet}[request.param](tiny_images(train=7, val=3))
    if request.param == "tars":
        # val/ has a file of that name too.
        (found / "train/0000.tar").rename(found / "train" / LAYOUTS["tars"])
    upload(s3_client, found, tmp_path.name)
    return found


@pytest.fixture
def proxy(s3_server: str, source: Path, quick_s3: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The server that pyarrow finds instead of the bucket's own."""
    del source, quick_s3
    with proxy_before(s3_server) as found:
        monkeypatch.setenv("AWS_ENDPOINT_URL", found.url)
        yield found


def fail_later(proxy: Proxy, name: str, kind: str, times: int, *, after: int) -> None:
    """Let a file's requests fail once so many of them were answered."""
    answered = 0

    def count(asked: str) -> None:
        nonlocal answered
        if asked == name:
            answered += 1
            if answered == after + 1:
                proxy.fail(kind, times, name=name)

    proxy.before = count


@pytest.mark.parametrize(
    ("source", "after"), [("tars", 0), ("tars", 1), ("parquet", 0), ("parquet", 4)], indirect=["source"]
)
def test_throttling_is_waited_out(
    after: int, source: Path, proxy: Proxy, make_shards: MakeShards, tmp_path: Path
) -> None:
    """Where a file is opened, and in its middle, under more failures than the file system bears by itself."""
    fail_later(proxy, LAYOUTS[source.name], "SlowDown", places.S3_ATTEMPTS + 1, after=after)
    outcome = make_shards(f"s3://data/{tmp_path.name}", tmp_path / "shards")
    assert proxy.fault is not None
    assert proxy.fault.seen == places.S3_ATTEMPTS + 1
    make_shards(source, tmp_path / "expected")
    assert outcome.index == read_index(tmp_path / "expected")


@pytest.mark.parametrize("source", ["tars"], indirect=True)
def test_a_source_is_found_under_throttling(proxy: Proxy, make_shards: MakeShards, tmp_path: Path) -> None:
    """The first question, whether it is there, waits too."""
    throttled = proxy.fail("SlowDown", places.S3_ATTEMPTS + 1)
    make_shards(f"s3://data/{tmp_path.name}", tmp_path / "shards")
    assert throttled.seen == places.S3_ATTEMPTS + 1


def test_throttling_without_end_is_one_line(
    source: Path, proxy: Proxy, make_shards: MakeShards, tmp_path: Path
) -> None:
    """It names the file and blames the store, and the number of requests is bounded."""
    fail_later(proxy, LAYOUTS[source.name], "SlowDown", 10**9, after=1)
    with pytest.raises(DataError, match="the store throttles") as caught:
        make_shards(f"s3://data/{tmp_path.name}", tmp_path / "shards")
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"SRC: 's3://data/{tmp_path.name}/")
    assert f"/{LAYOUTS[source.name]}' is not allowed" in line
    assert line.endswith("with fewer readers and writers at a time: the store throttles")
    assert proxy.fault is not None
    assert proxy.fault.seen == places.S3_ATTEMPTS * (len(retries.PAUSES_S) + 1)


@pytest.mark.parametrize(
    ("kind", "remedy"), [("ExpiredToken", "renew the credentials"), ("AccessDenied", "let these credentials list")]
)
def test_what_will_not_pass_is_told_at_once(
    kind: str,
    remedy: str,
    source: Path,
    proxy: Proxy,
    make_shards: MakeShards,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Credentials that expire or are too weak: no pause, one line that doesn't blame the file."""
    monkeypatch.setattr(retries, "PAUSES_S", (NEVER_S,))
    fail_later(proxy, LAYOUTS[source.name], kind, 10**9, after=1)
    with pytest.raises(DataError, match=f"{LAYOUTS[source.name]}' is not .*; remedy: {remedy}") as caught:
        make_shards(f"s3://data/{tmp_path.name}", tmp_path / "shards")
    assert len(str(caught.value).splitlines()) == 1
    assert proxy.fault is not None
    assert proxy.fault.seen == 1


@pytest.mark.parametrize("source", ["tars"], indirect=True)
def test_a_missing_bucket_is_told_at_once(proxy: Proxy, make_shards: MakeShards, tmp_path: Path) -> None:
    """Its name may be a slip of the pen."""
    del proxy
    with pytest.raises(DataError, match=r"^SRC: .*remedy: make the bucket, or correct its name"):
        make_shards("s3://no-such-bucket/images", tmp_path / "shards")
