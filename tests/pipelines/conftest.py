"""A real Ray cluster of one head node with a token, and a proxy before it that can be cut."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAPTOP = str(python if (python := ROOT / ".venv" / "bin" / "python").exists() else sys.executable)
"""Python of who submits: that of the default lock, also where `make test-newest-ray` starts a head of a newer Ray."""
MARK = "EPOCH14_TEST_HEAD"
"""Variable of the environment that a head's processes inherit."""


@dataclass
class RunningCluster:
    """A cluster of one head node on this machine."""

    environment: dict[str, str]
    """Of a client that holds the token."""
    scratch: Path
    """Ray's sockets lie below it, and a socket's path has 107 characters at most."""
    ports: list[str] = field(default_factory=lambda: free_ports(4))
    head: subprocess.Popen[bytes] | None = None
    laptop: str = LAPTOP

    @property
    def address(self) -> str:
        """URL of the dashboard."""
        return f"http://127.0.0.1:{self.ports[1]}"

    def start(self) -> None:
        """Start the head and wait until it answers, if only to ask for the token."""
        port, dashboard, agent, client = self.ports
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        command += ["--temp-dir", str(self.scratch), "--num-cpus", "2", "--object-store-memory", str(128 * 2**20)]
        command += ["--port", port, "--dashboard-host", "127.0.0.1", "--dashboard-port", dashboard]
        command += ["--dashboard-agent-listen-port", agent, "--ray-client-server-port", client]
        log = Path(self.environment["HOME"]) / "ray-start.log"
        with log.open("ab") as output:
            environment = self.environment | {MARK: str(self.scratch)}
            self.head = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
        wait_for_dashboard(self.address, self.head, log)

    def stop(self) -> None:
        """End the head as `ray stop` does, and its processes whatever they do."""
        if self.head is None:
            return
        self.head.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.head.wait(timeout=30)
        self.kill()

    def kill(self) -> None:
        """End the head and all of its processes at once."""
        import psutil

        assert self.head is not None
        mine = [process for process in psutil.process_iter() if self._is_mine(process)]
        for process in mine:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(mine, timeout=30)
        self.head.wait()

    def _is_mine(self, process: object) -> bool:
        """Whether a process descends from the head."""
        import psutil

        assert isinstance(process, psutil.Process)
        try:
            return bool(process.environ().get(MARK) == str(self.scratch))
        except (psutil.Error, OSError):
            return False

    def epoch14(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run the command as a user would, with changes to the environment (an empty value takes a variable away)."""
        environment = {name: value for name, value in (self.environment | changes).items() if value}
        command = [self.laptop, "-m", "pipelines", *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True, timeout=240
        )

    def start_epoch14(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the command as a user would; its output comes line by line."""
        command = [self.laptop, "-u", "-m", "pipelines", *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=pipe, stderr=pipe, text=True)

    def submit(self, shell_command: str, folder: Path) -> str:
        """Start a job that is no sweep, in `folder`; its id."""
        code = (
            "import sys; from pathlib import Path; from infra.jobs import submit_job; "
            "print(submit_job(sys.argv[1], sys.argv[2], working_dir=Path(sys.argv[3])).job_id)"
        )
        command = [self.laptop, "-c", code, self.address, shell_command, str(folder)]
        ended = subprocess.run(
            command, cwd=ROOT, env=self.environment, check=True, capture_output=True, text=True, timeout=120
        )
        return ended.stdout.split()[-1]


def free_ports(count: int) -> list[str]:
    """Ports that nothing listens on now.

    They lie below those that the kernel hands out: Ray takes half a minute to bind them, and one that is gone by then
    ends the whole cluster.
    """
    found: list[str] = []
    for port in secrets.SystemRandom().sample(range(20_000, 32_000), 100):
        with contextlib.suppress(OSError):
            socket.create_server(("127.0.0.1", port)).close()
            found.append(str(port))
    return found[:count]


def wait_for_dashboard(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when the dashboard answers, if only to ask for the token."""
    for _ in range(2000):
        assert process.poll() is None, log.read_text(encoding="utf-8")
        try:
            urllib.request.urlopen(f"{address}/api/version", timeout=2).close()  # noqa: S310 - our own address
        except urllib.error.HTTPError as error:
            error.close()
            return
        except OSError:
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"no dashboard at {address}: {log.read_text(encoding='utf-8')}")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, digits_cache: Path) -> Iterator[RunningCluster]:
    """`ray start --head` with a token, on free ports and in a folder of its own."""
    home = tmp_path_factory.mktemp("home")
    token = home / "auth_token"
    token.write_text(secrets.token_hex(32), encoding="utf-8")
    token.chmod(0o600)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        "EPOCH14_CACHE": str(digits_cache),
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    running = RunningCluster(environment, Path(tempfile.mkdtemp(prefix="e14-", dir="/tmp")))
    try:
        running.start()
        yield running
    finally:
        running.stop()
        shutil.rmtree(running.scratch, ignore_errors=True)


class Proxy:
    """A TCP proxy between a client and a port of this machine, as a tunnel that is cut and comes back."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = []
        self.connections = 0
        self._accept()

    @property
    def address(self) -> str:
        """URL of what lies behind it."""
        return f"http://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """Break every connection and take no new one."""
        # Else the thread that waits in accept() would take one more.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.break_all()

    def restore(self) -> None:
        """Take connections again, at the same port."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._accept()

    def break_all(self) -> None:
        """Break every connection."""
        while self._open:
            end = self._open.pop()
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def _serve(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(self._target)
                self.connections += 1
                self._open += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=_pump, args=(source, sink), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while part := source.recv(65_536):
            sink.sendall(part)
        sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def proxy(cluster: RunningCluster) -> Iterator[Proxy]:
    """A way to the cluster's dashboard that can be cut."""
    between = Proxy(int(cluster.ports[1]))
    yield between
    between.cut()
