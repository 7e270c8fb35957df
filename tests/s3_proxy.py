"""A server in front of an S3 server: it counts what is fetched, and delays, damages, cuts, refuses or stays silent."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HANG_S = 60.0
"""How long a silent answer holds its connection, unless its client leaves sooner or the server ends."""
METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE")
REFUSALS = {
    "SlowDown": (503, "Please reduce your request rate."),
    "InternalError": (500, "We encountered an internal error. Please try again."),
    "ExpiredToken": (400, "The provided token has expired."),
    "AccessDenied": (403, "Access Denied"),
}
"""S3's error codes: status and message, as Amazon's own."""


@dataclass
class Fault:
    """What befalls the next requests."""

    kind: str
    """A key of REFUSALS, `hang` or `drop`."""
    times: int
    methods: tuple[str, ...] = METHODS
    name: str = ""
    """The last part of the key ends with it."""
    seen: int = 0
    """Requests that met it."""

    def meets(self, method: str, name: str) -> bool:
        """Count a request; whether it is one that fails."""
        if method not in self.methods or not name.endswith(self.name) or self.seen >= self.times:
            return False
        self.seen += 1
        return True


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
    fault: Fault | None = None
    ended: threading.Event = field(default_factory=threading.Event)
    """Set when the server ends: nobody hangs any longer."""

    def take(self, what: Counter[str], name: str) -> bool:
        """Count one of `what` down; whether there was one."""
        what[name] -= 1
        return what[name] >= 0

    def fail(self, kind: str, times: int = 10**9, *, methods: tuple[str, ...] = METHODS, name: str = "") -> Fault:
        """Let the next requests fail; returns their counter."""
        self.fault = Fault(kind, times, methods, name)
        return self.fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy
    behind: str

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def forward(self) -> None:
        proxy, name = self.proxy, self.path.partition("?")[0].rpartition("/")[2]
        sent = self._body()
        getting = self.command == "GET"
        proxy.before(name)
        if proxy.fault is not None and proxy.fault.meets(self.command, name):
            self._fail(proxy.fault.kind)
            return
        if getting and name.endswith(".arrow"):
            time.sleep(proxy.delay_s)
        if proxy.dead:
            self.close_connection = True
            return
        connection = http.client.HTTPConnection(self.behind)
        connection.request(self.command, self.path, sent, dict(self.headers.items()))
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

    def _body(self) -> bytes | None:
        """What came with the request, chunks as they came; None: nothing."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0)) or None
        parts = []
        while size := int((head := self.rfile.readline()).partition(b";")[0], 16):
            parts += [head, self.rfile.read(size + 2)]
        return b"".join([*parts, head, self.rfile.readline()])

    def _answer(self, answer: http.client.HTTPResponse, body: bytes) -> None:
        self.send_response_only(answer.status)
        for key, value in answer.getheaders():
            if key.lower() not in ("connection", "transfer-encoding"):
                self.send_header(key, value)
        if self.command != "HEAD" and answer.getheader("Content-Length") is None:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _fail(self, kind: str) -> None:
        if kind in ("hang", "drop"):
            self.proxy.ended.wait(HANG_S if kind == "hang" else 0)
            self.close_connection = True
            return
        status, message = REFUSALS[kind]
        body = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{kind}</Code><Message>{message}</Message></Error>"
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(0 if self.command == "HEAD" else len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body.encode())


@contextmanager
def proxy_before(server: str) -> Iterator[Proxy]:
    """Run a proxy of the server at a URL."""
    answers = dict.fromkeys((f"do_{method}" for method in METHODS), _Handler.forward)
    handler = type("Handler", (_Handler,), {"behind": server.removeprefix("http://"), **answers})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listening:
        found = Proxy(f"http://127.0.0.1:{listening.server_address[1]}")
        handler.proxy = found  # type: ignore[attr-defined] # of the class just made
        # A killed client leaves a connection that nobody answers.
        listening.handle_error = lambda *_: None  # type: ignore[method-assign]
        listening.daemon_threads = True
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        try:
            yield found
        finally:
            found.ended.set()
            listening.shutdown()
