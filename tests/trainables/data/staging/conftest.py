"""Shards in a bucket, and a proxy in front of it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.s3_proxy import Proxy, proxy_before

if TYPE_CHECKING:
    from tests.trainables.data.conftest import MakeShards

TinyImages = Callable[..., Path]


@dataclass
class Bucket:
    """Shards here and at a URI, and the images that they were made of."""

    images: Path
    shards: Path
    client: Any
    prefix: str

    @property
    def uri(self) -> str:
        """Of the shards."""
        return f"s3://data/{self.prefix}"

    def put(self) -> None:
        """Write every file of `shards` to the bucket."""
        for path in self.shards.iterdir():
            self.client.put_object(Bucket="data", Key=f"{self.prefix}/{path.name}", Body=path.read_bytes())


@pytest.fixture
def bucket(tiny_images: TinyImages, tmp_path: Path, make_shards: MakeShards, s3_client: Any) -> Bucket:
    """Forty images for training in about sixteen shards."""
    images = tiny_images(train=20, val=3)
    make_shards(images, tmp_path / "shards")
    # What moto holds outlives its server, so each test has a prefix of its own.
    found = Bucket(images, tmp_path / "shards", s3_client, tmp_path.name)
    found.put()
    return found


@pytest.fixture
def proxy(s3_server: str, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The server that pyarrow finds instead of the bucket's own."""
    del bucket
    with proxy_before(s3_server) as found:
        monkeypatch.setenv("AWS_ENDPOINT_URL", found.url)
        yield found


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A disk of 1 MB, which is the cache."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False).returncode:
        pytest.skip("this machine doesn't let this user mount a small disk")
    monkeypatch.setenv("EPOCH14_CACHE", str(disk))
    yield disk
    subprocess.run(["umount", disk], check=True)
