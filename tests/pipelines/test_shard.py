"""`epoch14 shard`: its options, its lines, Ctrl-C and SIGKILL, its memory."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipelines.cli import main
from pipelines.shard import Lines, parse_size
from trainables.data.index import open_index
from trainables.data.shards.format import WORK
from trainables.data.shards.meter import Progress

TinyImages = Callable[..., Path]
ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "pipelines", "shard"]


def start(*arguments: object, cache: Path | None = None) -> subprocess.Popen[str]:
    """Run the real command."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **({"EPOCH14_CACHE": str(cache)} if cache else {})}
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        env=environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def files_of(folder: Path) -> dict[str, bytes]:
    """Content of every file in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_it_says_what_it_did(tiny_images: TinyImages, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Images, MB and MB/s in the last line; again, it says that all was there; `--verify` counts what it read."""
    folder, target = tiny_images(), tmp_path / "shards"
    assert main(["shard", str(folder), str(target), "--shard-size", "10KB", "--seed", "3", "--threads", "2"]) == 0
    line = capfd.readouterr().out
    head = f"shards: {target}: train 8 and val 4 images of 2 classes; 5 of 5 shards written: 12 images, 0.0 MB in 1 s, "
    assert line.startswith(head)
    assert line.endswith(" MB/s\n")
    assert main(["shard", str(folder), str(target), "--shard-size", "10KB", "--seed", "3"]) == 0
    assert capfd.readouterr().out.endswith("; all 5 shards were there\n")
    assert main(["shard", "--verify", str(target)]) == 0
    assert capfd.readouterr().out.startswith(f"shards: {target}: 7 files as they were written, ")
    assert open_index(str(target)).fingerprint() == open_index(str(folder), cache_dir=tmp_path).fingerprint()


def test_a_damaged_shard_exits_with_2(
    tiny_images: TinyImages, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One line that names the file and how to repair it; the repair works."""
    command = ["shard", str(tiny_images()), str(tmp_path / "shards")]
    assert main(command) == 0
    shard = tmp_path / "shards" / "val-00000.arrow"
    content = shard.read_bytes()
    shard.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    capfd.readouterr()
    assert main(["shard", "--verify", str(tmp_path / "shards")]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("epoch14: error: DST: ")
    assert "(the checksum of val-00000.arrow is wrong); remedy: remove these files and run " in line
    shard.unlink()
    assert main(command) == 0
    assert shard.read_bytes() == content


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--shard-size", "lots"], "--shard-size: 'lots'"),
        (["--shard-size", "192"], "--shard-size: '192'"),
        (["--shard-size", "0MB"], "--shard-size: '0MB'"),
        (["--shard-size", "9GB"], "--shard-size: '9GB'"),
        (["--reencode", "352"], "--reencode: '352'"),
        (["--reencode", "short=352"], "--reencode: 'short=352'"),
        (["--reencode", "short=352,quality=101"], "quality of 1 to 100"),
        (["--reencode", "short=352,quality=90,short=1"], "--reencode"),
        (["--reencode", "short=352,quality=90,side=1"], "--reencode"),
        (["--threads", "0"], "--threads: 0"),
        (["--seed", "x"], "--seed"),
        (["--verify", "elsewhere"], "give either SRC and DST, or --verify DST"),
    ],
)
def test_a_wrong_option_is_one_line(
    options: list[str], named: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Before any work, with exit code 2 and a remedy."""
    assert main(["shard", "digits", str(tmp_path / "shards"), *options]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("epoch14: error: ")
    assert named in line
    assert "; remedy: " in line
    assert not (tmp_path / "shards").exists()


@pytest.mark.parametrize("arguments", [[], ["digits"]])
def test_a_missing_place_is_one_line(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    """Neither or only one of SRC and DST."""
    assert main(["shard", *arguments]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "give either SRC and DST, or --verify DST; remedy: see epoch14 shard --help" in line


@pytest.mark.parametrize(("text", "size"), [("192MB", 192_000_000), ("64 kb", 64_000), ("1.5GB", 1_500_000_000)])
def test_sizes_are_decimal(text: str, size: int) -> None:
    """As disks and networks have them."""
    assert parse_size(text) == size


def test_progress_has_an_estimate(capfd: pytest.CaptureFixture[str]) -> None:
    """A line every five seconds on stderr, with what is left."""
    now = 0.0
    lines = Lines(lambda: now)
    for now in (1.0, 6.0, 7.0, 12.0):  # the clock reads it
        lines(Progress("writing", int(now), int(now * 10**6), 60 * 10**6, now))
    assert capfd.readouterr().err.splitlines() == [
        "epoch14: writing: 10 %, 6 images, 1.0 MB/s; about 54 s left",
        "epoch14: writing: 20 %, 12 images, 1.0 MB/s; about 48 s left",
    ]


def wait_for_records(process: subprocess.Popen[str], target: Path, count: int) -> None:
    """Return when that many shards are finished."""
    deadline = time.monotonic() + 60
    while len(list((target / WORK / "records").glob("*"))) < count:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_interrupted_and_killed_it_goes_on(digits_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C is one line and 130, SIGKILL is what it is; the same command ends with the bytes of an undisturbed run."""
    target, options = tmp_path / "shards", ["--shard-size", "10KB", "--threads", "2"]
    with start("digits", target, *options, cache=digits_cache) as process:
        wait_for_records(process, target, 5)
        os.killpg(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (130, "epoch14: interrupted: the same command goes on\n")
    assert list((target / WORK / "partial").iterdir()) == []
    with start("digits", target, *options, cache=digits_cache) as process:
        wait_for_records(process, target, 40)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    with start("digits", target, *options, cache=digits_cache) as process:
        stdout, stderr = process.communicate(timeout=120)
    assert (process.returncode, stderr) == (0, "")
    counted = re.search(r"; (\d+) of (\d+) shards written", stdout)
    assert counted is not None
    assert int(counted.group(1)) <= int(counted.group(2)) - 40
    monkeypatch.setenv("EPOCH14_CACHE", str(digits_cache))
    assert main(["shard", "digits", str(tmp_path / "expected"), *options]) == 0
    assert files_of(target) == files_of(tmp_path / "expected")


def padded_jpegs(count: int) -> Iterator[bytes]:
    """Images of 100 kB that decode fast: what follows the end of a JPEG is passed over."""
    pixels = np.random.Generator(np.random.Philox(1)).integers(0, 255, size=(16, 16, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    for number in range(count):
        yield buffer.getvalue() + number.to_bytes(4) * 25_000


def write_images(root: Path, layout: str, count: int) -> None:
    """A source with that many training images."""
    if layout == "folder":
        for split, images in (("train", count), ("val", 2)):
            (root / split / "a").mkdir(parents=True)
            for number, data in enumerate(padded_jpegs(images)):
                (root / split / "a" / f"{number:05d}.jpg").write_bytes(data)
        return
    root.mkdir(parents=True)
    schema = pa.schema([("image", pa.binary()), ("label", pa.int64())])
    for split, images in (("train", count), ("val", 2)):
        table = pa.table({"image": list(padded_jpegs(images)), "label": [0] * images}, schema=schema)
        # One row group, in pages of 64 rows.
        pq.write_table(table, root / f"{split}-0.parquet", compression="none", write_batch_size=64)


# The peak that getrusage has would count this process too, which was the other one before its exec.
MEASURED = """
import re, sys
from pathlib import Path
from pipelines.cli import main
code = main(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text()).group(1))
sys.exit(code)
"""


@pytest.mark.parametrize("layout", ["folder", "parquet"])
def test_memory_does_not_grow_with_the_data(layout: str, tmp_path: Path) -> None:
    """Five times the images, 250 MB instead of 50, take at most 40 MB more at the peak."""
    peaks = []
    for count in (500, 2500):
        source, target = tmp_path / str(count), tmp_path / f"shards-{count}"
        write_images(source, layout, count)
        options = ["shard", source, target, "--shard-size", "16MB", "--threads", "2"]
        command = [sys.executable, "-c", MEASURED, *map(str, options)]
        ended = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        peaks.append(int(ended.stdout.splitlines()[-1]) / 1024)
    assert peaks[1] - peaks[0] < 40, peaks
