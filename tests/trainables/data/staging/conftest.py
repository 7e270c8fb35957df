"""Shards in a bucket, and a server in front of it that counts, delays, damages and cuts what is fetched."""

from __future__ import annotations

import http.client
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

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


@dataclass
class Proxy:
    """What the server in front of the bucket has done, and is to do."""

    url: str
    gets: Counter[str] = field(default_factory=Counter)
    """Answered GETs of objects, by the last part of their key."""
    delay_s: float = 0.0
    """Before each answer to a GET of a file of shards."""
    flips: Counter[str] = field(default_factory=Counter)
    """How many answers with an object are still to have a flipped bit."""
    cuts: Counter[str] = field(default_factory=Counter)
    """How many answers with an object are still to end in their middle."""
    dead: bool = False
    """Whether every connection is closed without an answer."""
    before: Callable[[str], None] = lambda name: None
    """Called with the name of each object that is asked for."""

    def take(self, what: Counter[str], name: str) -> bool:
        """Count one of `what` down; whether there was one."""
        what[name] -= 1
        return what[name] >= 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy
    behind: str

    def do_HEAD(self) -> None:
        self._forward()

    def do_GET(self) -> None:
        self._forward()

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def _forward(self) -> None:
        proxy, name = self.proxy, self.path.partition("?")[0].rpartition("/")[2]
        getting = self.command == "GET"
        proxy.before(name)
        if getting and name.endswith(".arrow"):
            time.sleep(proxy.delay_s)
        if proxy.dead:
            self.close_connection = True
            return
        connection = http.client.HTTPConnection(self.behind)
        connection.request(self.command, self.path, headers=dict(self.headers.items()))
        answer = connection.getresponse()
        body = bytearray(answer.read())
        connection.close()
        cut = bool(getting and body) and proxy.take(proxy.cuts, name)
        if getting and body and proxy.take(proxy.flips, name):
            body[len(body) // 2] ^= 1
        self._answer(answer, bytes(body[: len(body) // 2] if cut else body))
        self.close_connection |= cut
        if getting and not cut and name.endswith((".arrow", ".json")):
            proxy.gets[name] += 1

    def _answer(self, answer: http.client.HTTPResponse, body: bytes) -> None:
        self.send_response_only(answer.status)
        for key, value in answer.getheaders():
            if key.lower() not in ("connection", "transfer-encoding"):
                self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


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
    settings = {"behind": s3_server.removeprefix("http://")}
    handler = type("Handler", (_Handler,), settings)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        found = Proxy(f"http://127.0.0.1:{server.server_address[1]}")
        handler.proxy = found  # type: ignore[attr-defined] # of the class just made
        monkeypatch.setenv("AWS_ENDPOINT_URL", found.url)
        # A killed client leaves a connection that nobody answers.
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield found
        server.shutdown()


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
