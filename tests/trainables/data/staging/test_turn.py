"""Several processes of a machine, and processes that are killed."""

from __future__ import annotations

import hashlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trainables.data.index import default_cache_dir, open_index

if TYPE_CHECKING:
    from tests.s3_proxy import Proxy
    from tests.trainables.data.staging.conftest import Bucket

ROOT = Path(__file__).resolve().parents[4]
# Forks of one process that has done the imports, so that they meet.
OPEN = """
import hashlib, os, sys
from trainables.data.index import open_index
from trainables.data.staging import stage

for _ in range(int(sys.argv[2])):
    if os.fork() == 0:
        digest = hashlib.blake2b()
        store = open_index(sys.argv[1]).train.store
        for place in range(len(store.names)):
            digest.update(store.read(place))
        os.write(1, f"{digest.hexdigest()}\\n".encode())
        os._exit(0)
print(*(os.wait()[1] for _ in range(int(sys.argv[2]))))
"""
# Each fork lives a little longer than the one before.
KILLED = """
import os, signal, sys, time
from trainables.data.index import open_index
from trainables.data.staging import stage

killed, life = 0, 0.1
while True:
    child = os.fork()
    if child == 0:
        open_index(sys.argv[1])
        os._exit(0)
    time.sleep(life)
    os.kill(child, signal.SIGKILL)
    status = os.wait()[1]
    if os.WIFEXITED(status):
        print(killed, os.WEXITSTATUS(status))
        break
    killed, life = killed + 1, life * 1.4
"""


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes, which don't outlive the test."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def start(started: list[subprocess.Popen[str]], *command: str) -> subprocess.Popen[str]:
    """Start Python."""
    words = [sys.executable, *command]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    started.append(process)
    return process


def digest_of(images: Path) -> str:
    """What OPEN prints."""
    digest = hashlib.blake2b()
    store = open_index(str(images)).train.store
    for place in range(len(store.names)):
        digest.update(store.read(place).data)
    return digest.hexdigest()


def wait_for(proxy: Proxy, names: Sequence[str], count: int) -> None:
    """Until so many of these objects were fetched."""
    end = time.monotonic() + 60
    while sum(proxy.gets[name] for name in names) < count:
        assert time.monotonic() < end
        time.sleep(0.02)


def files_of(folder: Path) -> dict[str, bytes]:
    """Content of every file."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def shards_of(bucket: Bucket) -> list[str]:
    """Names of the shards for training."""
    return sorted(path.name for path in bucket.shards.glob("train-*.arrow"))


def test_eight_processes_fetch_once(bucket: Bucket, proxy: Proxy, started: list[subprocess.Popen[str]]) -> None:
    """One fetches, and says how far it is; seven wait, and say what for; all read the same right bytes."""
    proxy.delay_s = 0.8
    out, err = start(started, "-c", OPEN, bucket.uri, "8").communicate()
    assert out.split() == [digest_of(bucket.images)] * 8 + ["0"] * 8, err
    assert proxy.gets == {path.name: 8 if path.name == "index.json" else 1 for path in bucket.shards.iterdir()}
    lines = err.splitlines()
    telling = [line for line in lines if line.startswith(f"epoch14: staging {bucket.uri}: ")]
    waiting = [line for line in lines if line.startswith(f"epoch14: waiting for the process that stages {bucket.uri}:")]
    assert len(telling) + len(waiting) == len(lines)
    for said in (telling, waiting):
        assert any(re.search(r": \d+ % of 0\.2 MB, 0\.\d MB/s, about \d+ s left$", line) for line in said), err


def test_after_sigkill_who_waits_goes_on(bucket: Bucket, proxy: Proxy, started: list[subprocess.Popen[str]]) -> None:
    """The system frees the turn of a dead process; what was whole is not fetched again."""
    proxy.delay_s = 0.4
    first = start(started, "-c", f"from trainables.data.index import open_index; open_index({bucket.uri!r})")
    wait_for(proxy, shards_of(bucket), 5)
    second = start(started, "-c", OPEN, bucket.uri, "1")
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    (copy,) = (path for path in (default_cache_dir() / "staged").iterdir() if path.is_dir())
    kept = {path.name for path in copy.glob("*.arrow")}
    assert kept
    assert not (copy / "index.json").exists()
    out, err = second.communicate()
    assert out.split() == [digest_of(bucket.images), "0"], err
    assert all(proxy.gets[name] == 1 for name in kept)
    assert files_of(copy) == files_of(bucket.shards)


def test_killed_at_any_moment_it_goes_on(bucket: Bucket, proxy: Proxy, started: list[subprocess.Popen[str]]) -> None:
    """SIGKILL after SIGKILL: the last process ends with the files of an undisturbed one."""
    proxy.delay_s = 0.2
    out, err = start(started, "-c", KILLED, bucket.uri).communicate()
    killed, code = map(int, out.split())
    assert code == 0, err
    assert killed >= 3
    (copy,) = (path for path in (default_cache_dir() / "staged").iterdir() if path.is_dir())
    assert files_of(copy) == files_of(bucket.shards)


def test_ctrl_c_ends_who_fetches_and_who_waits(
    bucket: Bucket, proxy: Proxy, started: list[subprocess.Popen[str]]
) -> None:
    """With the exit code and the one line of the command; no half-fetched file is left, and whole ones stay."""
    proxy.delay_s = 1.0
    doctors = [start(started, "-m", "pipelines", "doctor", bucket.uri) for _ in range(2)]
    wait_for(proxy, shards_of(bucket), 1)
    wait_for(proxy, ["index.json"], 2)
    time.sleep(0.5)
    for process in doctors:
        process.send_signal(signal.SIGINT)
    for process in doctors:
        _, err = process.communicate(timeout=30)
        assert process.returncode == 130, err
        lines = [line for line in err.splitlines() if "staging" not in line and "waiting" not in line]
        assert lines == ["epoch14: interrupted: nothing was written"]
    assert not list(default_cache_dir().rglob("*.partial"))
    assert list(default_cache_dir().rglob("rows-train.arrow"))
