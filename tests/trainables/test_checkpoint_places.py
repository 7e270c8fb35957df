"""Places of checkpoints: a full disk, a folder without permission, a file, S3, a missing bucket, a dead server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
import torch
from moto.server import ThreadedMotoServer

from trainables.checkpoint import CheckpointStore
from trainables.errors import CheckpointError
from trainables.places import S3_ATTEMPTS
from trainables.trial import run_trial

if TYPE_CHECKING:
    from tests.trainables.conftest import Tiny

STATE, MANIFEST = "state.safetensors", "manifest.json"
ROOT = Path(__file__).resolve().parents[2]
UseEndpoint = Callable[[str], None]


def refusal(uri: str) -> str:
    """The message of a place that can't be used."""
    with pytest.raises(CheckpointError) as caught:
        CheckpointStore(uri, keep=2)
    return str(caught.value)


def is_one_line(message: str, uri: object) -> bool:
    """Whether it names the value, what is allowed and a remedy, on one line."""
    start = f"checkpoint: {str(uri)!r} is not allowed; allowed: a folder or s3://bucket/prefix that can be written ("
    return message.startswith(start) and "; remedy: " in message and len(message.splitlines()) == 1


def read_back(store: CheckpointStore) -> tuple[int, list[float]] | None:
    """Step and tensor `a` of the latest checkpoint."""
    found = store.latest()
    return None if found is None else (found.step, found.tensors["a"].unique().tolist())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    if os.getuid() != 0:
        pytest.skip("only root can mount a small disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False)
    if mounted.returncode != 0:
        pytest.skip("this machine doesn't let root mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_save_that_does_not_fit_leaves_the_former_one(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One line in `failures` and the log, with the remedy; nothing half-written stays; with space the next works."""
    with CheckpointStore(str(small_disk), keep=2) as store:
        store.save(1, {"a": torch.full((100_000,), 1.0)}, {})
        store.wait()
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(400_000))
        store.save(2, {"a": torch.full((100_000,), 2.0)}, {})
        store.wait()
        expected = (
            f"the checkpoint of step 2 was not written to {small_disk}: No space left on device; "
            "the former ones stay, the next save tries again; remedy: free space there"
        )
        assert store.failures == [expected]
        assert [record.getMessage() for record in caplog.records] == [expected]
        assert sorted(path.name for path in small_disk.iterdir()) == [".lock", "ballast", "step-000000001"]
        assert read_back(store) == (1, [1.0])
        ballast.unlink()
        store.save(3, {"a": torch.full((100_000,), 3.0)}, {})
        assert read_back(store) == (3, [3.0])
        assert len(store.failures) == 1


def test_a_run_on_a_full_disk_goes_on_to_its_end(
    small_disk: Path, tiny: Tiny, digits_cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It keeps what was there and says so at each save; training is not the disk's affair."""
    monkeypatch.setenv("EPOCH14_CACHE", str(digits_cache))
    rows: list[dict[str, Any]] = []
    result = run_trial(tiny(max_steps=4, checkpoint={"every": 2}), rows.append, checkpoints=str(small_disk))
    assert (result.phase, result.steps) == ("finished", 4)
    assert [step["step"] for row in rows for step in row["history"]] == [0, 1, 2, 3]
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(f" to {small_disk}: ")[0] for line in lines] == [
        f"the checkpoint of step {step} was not written" for step in (2, 4)
    ]
    assert [path.name for path in small_disk.iterdir()] == [".lock"]


NOBODY = """
import json, os, sys
from trainables import retries
from trainables.checkpoint import CheckpointStore
from trainables.config import TrialConfig
from trainables.errors import CheckpointError
from trainables.trial import run_trial

os.setgroups([]); os.setgid(65534); os.setuid(65534)
rows, messages = [], []
for uri in sys.argv[1:]:
    try:
        run_trial(TrialConfig.parse({"device": "cpu"}), rows.append, checkpoints=uri)
    except CheckpointError as error:
        messages.append(str(error))
print(json.dumps([rows, messages]))
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach, which pytest's own is not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_a_folder_without_permission_is_one_line_before_work(open_folder: Path) -> None:
    """A foreign folder, one to be made in a foreign one, a closed one, a store of another user."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    folders = [open_folder / name for name in ("foreign", "foreign/new/one", "closed", "closed/inside", "store")]
    for name, mode in (("foreign", 0o755), ("closed", 0o700), ("closed/inside", 0o700)):
        (open_folder / name).mkdir(mode=mode)
    with CheckpointStore(str(folders[-1]), keep=2) as store:
        store.save(1, {"a": torch.ones(1)}, {})
    command = [sys.executable, "-c", NOBODY, *map(str, folders)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    rows, messages = json.loads(done.stdout)
    assert rows == []
    assert len(messages) == len(folders)
    for folder, message in zip(folders, messages, strict=True):
        assert is_one_line(message, folder)
        assert message.endswith("(Permission denied); remedy: let this user write there")
    with CheckpointStore(str(folders[-1]), keep=2) as store:
        assert read_back(store) == (1, [1.0])


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    """Neither the file itself nor a path below it; the file stays as it is."""
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    for place in (file, file / "checkpoints"):
        message = refusal(str(place))
        assert is_one_line(message, place)
        assert message.endswith("remedy: name a folder, not a file")
    assert file.read_text() == "mine"


@pytest.mark.parametrize("uri", ["ftp://server/folder", "S4://bucket/prefix", "s3://", "~nosuchuser14/checkpoints"])
def test_a_place_of_no_known_kind_is_one_line(uri: str) -> None:
    """An unknown scheme, a bucket without a name, a home that nobody has."""
    assert is_one_line(refusal(uri), uri)


@dataclass(frozen=True)
class Bucket:
    """A bucket of a local S3 server."""

    client: Any
    name: str

    @property
    def uri(self) -> str:
        """A prefix in it."""
        return f"s3://{self.name}/runs/one"

    def keys(self) -> list[str]:
        """Names of the objects below the prefix."""
        listed = self.client.list_objects_v2(Bucket=self.name, Prefix="runs/one/").get("Contents", [])
        return sorted(entry["Key"].removeprefix("runs/one/") for entry in listed if not entry["Key"].endswith("/"))

    def read(self, key: str) -> bytes:
        """Content of an object."""
        return bytes(self.client.get_object(Bucket=self.name, Key=f"runs/one/{key}")["Body"].read())

    def write(self, key: str, content: bytes) -> None:
        """Put an object."""
        self.client.put_object(Bucket=self.name, Key=f"runs/one/{key}", Body=content)


@pytest.fixture
def bucket(s3_server: str, use_endpoint: UseEndpoint, request: pytest.FixtureRequest) -> Bucket:
    """A fresh bucket of the test's own."""
    use_endpoint(s3_server)
    client = boto3.client("s3")
    name = request.node.name.replace("_", "-")[:60].rstrip("-")
    client.create_bucket(Bucket=name)
    return Bucket(client, name)


def files_of(*steps: int) -> list[str]:
    """Objects of these checkpoints."""
    return [f"step-{step:09d}/{name}" for step in steps for name in (MANIFEST, STATE)]


def test_s3_keeps_the_last_ones_and_the_best(bucket: Bucket) -> None:
    """The same bits come back, by the same rules as from a folder; nothing else stays."""
    odd = torch.tensor([float("nan"), -0.0, 1e-45])
    with CheckpointStore(bucket.uri, keep=2) as store:
        assert store.latest() is None
        for step, score in ((10, 0.9), (20, 0.5), (30, 0.1), (40, 0.2)):
            store.save(step, {"a": torch.full((5,), float(step)), "odd": odd}, {"nan": float("nan")}, score=score)
    assert store.failures == []
    assert bucket.keys() == files_of(10, 30, 40)
    with CheckpointStore(bucket.uri, keep=2) as store:
        found, best = store.latest(), store.best()
        store.save(15, {"a": torch.full((5,), 15.0)}, {})
        assert read_back(store) == (15, [15.0])
    assert store.failures == []
    assert found is not None
    assert best is not None
    assert (found.step, best.step, found.uri) == (40, 10, bucket.uri)
    assert found.tensors["a"].tolist() == [40.0] * 5
    assert torch.equal(found.tensors["odd"].view(torch.int32), odd.view(torch.int32))
    assert json.dumps(found.meta) == '{"nan": NaN}'
    assert bucket.keys() == files_of(10, 15, 40)


def test_a_damaged_object_is_set_aside(bucket: Bucket, caplog: pytest.LogCaptureFixture) -> None:
    """A flipped bit and a missing state are named, their bytes stay, and the one before is used, then and later."""
    with CheckpointStore(bucket.uri, keep=3) as store:
        for step in (10, 20, 30):
            store.save(step, {"a": torch.full((5,), float(step))}, {})
    state = bytearray(bucket.read(f"step-000000030/{STATE}"))
    state[-1] ^= 1
    bucket.write(f"step-000000030/{STATE}", bytes(state))
    bucket.client.delete_object(Bucket=bucket.name, Key=f"runs/one/step-000000020/{STATE}")
    with CheckpointStore(bucket.uri, keep=3) as store:
        assert read_back(store) == (10, [10.0])
        assert read_back(store) == (10, [10.0])
        later, former = (r.getMessage() for r in caplog.records if r.name == "trainables.checkpoint")
        assert later.startswith(f"the checkpoint of step 30 in {bucket.uri} is damaged: the hash of {STATE} is wrong")
        assert former.startswith(f"the checkpoint of step 20 in {bucket.uri} is damaged: {STATE} is missing")
        store.save(40, {"a": torch.full((5,), 40.0)}, {})
        assert read_back(store) == (40, [40.0])
    assert store.failures == []
    assert bucket.read(f"step-000000030/{STATE}") == bytes(state)
    assert bucket.read("step-000000020/manifest.damaged.json")


def test_what_a_dead_writer_left_in_s3_never_counts(bucket: Bucket) -> None:
    """Without its manifest it is no checkpoint; the next save removes it."""
    with CheckpointStore(bucket.uri, keep=2) as store:
        store.save(10, {"a": torch.full((5,), 10.0)}, {})
        store.wait()
        bucket.write(f"step-000000020/{STATE}", b"a whole state, or not")
        assert read_back(store) == (10, [10.0])
        store.save(30, {"a": torch.full((5,), 30.0)}, {})
    assert store.failures == []
    assert bucket.keys() == files_of(10, 30)


def test_a_run_goes_on_from_s3(bucket: Bucket, tiny: Tiny, digits_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step once over both parts."""
    monkeypatch.setenv("EPOCH14_CACHE", str(digits_cache))
    rows: list[dict[str, Any]] = []
    config = tiny(max_steps=4)
    phases = [run_trial(config, rows.append, checkpoints=bucket.uri, stop_after=stop).phase for stop in (2, None)]
    assert phases == ["interrupted", "finished"]
    assert [step["step"] for row in rows for step in row["history"]] == [0, 1, 2, 3]
    assert bucket.keys() == files_of(2)


def test_a_missing_bucket_is_one_line(s3_server: str, use_endpoint: UseEndpoint) -> None:
    """It is not made on the way: its name may be a slip of the pen."""
    use_endpoint(s3_server)
    message = refusal("s3://no-such-bucket/runs")
    assert is_one_line(message, "s3://no-such-bucket/runs")
    assert message.endswith("remedy: make the bucket, or correct its name")


@pytest.mark.usefixtures("quick_s3")
def test_a_server_that_goes_away_ends_no_run(use_endpoint: UseEndpoint) -> None:
    """A save fails with a line; reading raises, as a run must not start anew."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    use_endpoint(f"http://{host}:{port}")
    boto3.client("s3").create_bucket(Bucket="short-lived")
    with CheckpointStore("s3://short-lived/run", keep=2) as store:
        server.stop()
        store.save(1, {"a": torch.ones(1)}, {})
        store.wait()
        (failure,) = store.failures
        assert failure.startswith("the checkpoint of step 1 was not written to s3://short-lived/run: ")
        assert failure.endswith("remedy: check the network, and AWS_ENDPOINT_URL where one is set")
        with pytest.raises(CheckpointError, match=r"a place that can be read .* remedy: check the network"):
            store.latest()


@pytest.mark.parametrize("answers", [False, True])
def test_a_dead_endpoint_is_one_line_after_few_attempts(use_endpoint: UseEndpoint, *, answers: bool) -> None:
    """A server that hangs up, or that hears and says nothing, holds a run for seconds, not minutes."""
    attempts: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    attempts.append(server.accept()[0])
                except OSError:
                    return
                if answers:
                    attempts[-1].close()

        thread = threading.Thread(target=accept)
        thread.start()
        use_endpoint(f"http://127.0.0.1:{server.getsockname()[1]}")
        message = refusal("s3://bucket/runs")
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    for attempt in attempts:
        attempt.close()
    assert is_one_line(message, "s3://bucket/runs")
    assert message.endswith("remedy: check the network, and AWS_ENDPOINT_URL where one is set")
    assert len(attempts) in range(1, S3_ATTEMPTS + 1)
