"""A conversion that was killed goes on to the same bytes, and never writes over something else."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trainables.data.index import open_index
from trainables.data.shards.convert import convert
from trainables.data.shards.format import WORK
from trainables.data.shards.plan import Settings
from trainables.data.shards.verify import verify
from trainables.errors import DataError

if TYPE_CHECKING:
    from tests.trainables.data.conftest import MakeShards, Rewrite

TinyImages = Callable[..., Path]
ROOT = Path(__file__).resolve().parents[3]

# Forks of one process that has done the imports; each kills itself at one of its calls of a function that the
# conversion makes before and after everything that it writes.
KILLED = """
import os, signal, sys
from trainables.data.shards import claim, convert, parquet, target, write

source, place = sys.argv[1:]
left = 0

def counted(function):
    def call(*args, **kwargs):
        global left
        for _ in range(2):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*args, **kwargs) if _ == 0 else result
        return result
    return call

os.fsync, os.replace = counted(os.fsync), counted(os.replace)
write.HashedFile.write = counted(write.HashedFile.write)
target.FolderTarget.take = counted(target.FolderTarget.take)
killed, moment = 0, 1
while True:
    child = os.fork()
    if child == 0:
        left = moment
        from trainables.data.shards.plan import Settings
        convert.convert(source, place, Settings(shard_size=20_000), threads=1, listener=lambda progress: None)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        print(killed, os.WEXITSTATUS(status))
        break
    killed, moment = killed + 1, moment + 3 + killed
"""


def files_of(folder: Path) -> dict[str, bytes]:
    """Content of every file in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def folder(tiny_images: TinyImages) -> Path:
    """Forty images for training: eight shards of 20 kB."""
    return tiny_images(train=20, val=3)


def test_the_same_input_gives_the_same_bytes(folder: Path, tmp_path: Path, make_shards: MakeShards) -> None:
    """Whatever the number of threads and the place; nothing but the shards and their index stays."""
    for name, threads in (("one", 1), ("four", 4)):
        make_shards(folder, tmp_path / name, threads=threads)
    one, four = files_of(tmp_path / "one"), files_of(tmp_path / "four")
    assert one == four
    assert all(name == "index.json" or name.endswith(".arrow") for name in one)


@pytest.mark.parametrize("layout", ["folder", "parquet"])
def test_killed_at_any_moment_it_goes_on(
    layout: str, folder: Path, tmp_path: Path, as_parquet: Rewrite, make_shards: MakeShards
) -> None:
    """SIGKILL after SIGKILL, before, in and after writes: the last run ends with the bytes of an undisturbed one."""
    source = folder if layout == "folder" else as_parquet(folder)
    make_shards(source, tmp_path / "expected", shard_size=20_000)
    command = [sys.executable, "-c", KILLED, str(source), str(tmp_path / "found")]
    ended = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    killed, code = map(int, ended.stdout.split())
    assert code == 0, ended.stderr
    assert killed >= 10
    assert files_of(tmp_path / "found") == files_of(tmp_path / "expected")


def test_finished_shards_are_kept(folder: Path, tmp_path: Path, make_shards: MakeShards) -> None:
    """After a failure in the middle only what is missing is written; until then the folder can't be opened."""
    target = tmp_path / "shards"
    calls = 0

    def stop(_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(str(folder), str(target), Settings(shard_size=20_000), threads=1, listener=stop)
    with pytest.raises(DataError, match=r"not finished.*remedy: run the same epoch14 shard command again"):
        open_index(str(target))
    times = {path.name: path.stat().st_mtime_ns for path in target.glob("*.arrow")}
    assert len(times) == 3
    outcome = make_shards(folder, target, shard_size=20_000)
    total = len(outcome.index.train.shards) + len(outcome.index.val.shards)
    assert outcome.written == total - 3
    assert all((target / name).stat().st_mtime_ns == before for name, before in times.items())
    assert not (target / WORK).exists()
    assert make_shards(folder, target, shard_size=20_000).written == 0


def test_a_finished_place_costs_nothing(
    folder: Path, tmp_path: Path, as_parquet: Rewrite, make_shards: MakeShards
) -> None:
    """The same command again copies nothing, even where an interrupted run's work folder is left."""
    source, target = as_parquet(folder), tmp_path / "shards"
    make_shards(source, target)
    before = files_of(target)
    (target / WORK / "records").mkdir(parents=True)

    def fail(progress: object) -> None:
        raise AssertionError(progress)

    assert convert(str(source), str(target), Settings(shard_size=10_000), threads=1, listener=fail).written == 0
    assert files_of(target) == before


def test_a_damaged_record_or_shard_is_written_again(folder: Path, tmp_path: Path, make_shards: MakeShards) -> None:
    """What an interrupted run left is believed only as far as it is whole."""
    make_shards(folder, tmp_path / "expected")
    target = tmp_path / "shards"
    outcome = make_shards(folder, target)
    removed = [target / file.name for file in outcome.index.train.shards[:2]]
    removed[0].unlink()
    removed[1].write_bytes(b"short")
    assert make_shards(folder, target).written == 2
    (target / "rows-val.arrow").write_bytes(b"damaged")
    assert make_shards(folder, target).written == len(outcome.index.val.shards)
    assert files_of(target) == files_of(tmp_path / "expected")


def test_an_image_that_changed_is_noticed_in_a_repair(
    tiny_images: TinyImages, tmp_path: Path, make_shards: MakeShards
) -> None:
    """A shard that is made again of other bytes is not let in."""
    folder = tiny_images(suffix=".jpg")
    make_shards(folder, tmp_path / "shards")
    for path in (tmp_path / "shards").glob("train-*.arrow"):
        path.unlink()
    image = folder / "train" / "cat" / "003.jpg"
    content = bytearray(image.read_bytes())
    content[-30] ^= 1
    image.write_bytes(content)
    with pytest.raises(DataError, match=r"^DST: .*an image changed at the same size.*; remedy: remove the folder"):
        make_shards(folder, tmp_path / "shards")


def test_another_plan_is_named(folder: Path, tmp_path: Path, make_shards: MakeShards) -> None:
    """Shards of another seed, finished or not, stay as they are; a plan without a finished shard gives way."""
    make_shards(folder, tmp_path / "done", seed=7)
    before = files_of(tmp_path / "done")
    with pytest.raises(DataError, match=r"^DST: .*it holds those of --seed 7 --shard-size 10000\); remedy: name a new"):
        make_shards(folder, tmp_path / "done", seed=8)
    assert files_of(tmp_path / "done") == before
    work = tmp_path / "begun" / WORK
    (work / "records").mkdir(parents=True)
    (work / "plan.json").write_text('{"plan": "other", "source": "elsewhere", "settings": "--seed 3"}')
    (work / "records" / "train-00000.arrow").write_bytes(b"")
    with pytest.raises(DataError, match=r"it holds those of elsewhere --seed 3"):
        make_shards(folder, tmp_path / "begun")
    (work / "records" / "train-00000.arrow").unlink()
    make_shards(folder, tmp_path / "begun")
    verify(str(tmp_path / "begun"), threads=1, listener=lambda progress: None)


def test_a_foreign_folder_is_left_alone(folder: Path, tmp_path: Path, make_shards: MakeShards) -> None:
    """A note, another program's index, a file, the source itself: one line, and nothing is written."""
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "note.txt").write_text("mine")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "index.json").write_text('{"what": "a web page"}')
    (tmp_path / "file").write_text("mine")
    before = files_of(tmp_path)
    for name, named in (
        ("notes", "it holds 'note.txt'"),
        ("foreign", "its index.json is foreign or damaged"),
        ("file", "remedy: name a folder, not a file"),
        ("images", "it holds 'train'"),
    ):
        with pytest.raises(DataError) as caught:
            make_shards(folder, tmp_path / name)
        assert str(caught.value).startswith("DST: ")
        assert named in str(caught.value)
    assert files_of(tmp_path) == before


def test_two_writers_do_not_meet(folder: Path, tmp_path: Path, make_shards: MakeShards) -> None:
    """The second one ends with a line."""
    work = tmp_path / "shards" / WORK
    work.mkdir(parents=True)
    with (work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DataError, match=r"^DST: .*another epoch14 shard is writing there"):
            make_shards(folder, tmp_path / "shards")
    make_shards(folder, tmp_path / "shards")


def test_a_full_disk_is_one_line_and_goes_on_with_space(folder: Path, tmp_path: Path, make_shards: MakeShards) -> None:
    """What was finished before stays."""
    if os.getuid() != 0:
        pytest.skip("only root can mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", disk], check=False).returncode:
        pytest.skip("this machine doesn't let root mount a small disk")
    try:
        (disk / "ballast").write_bytes(bytes(80_000))
        target = disk / "shards"
        with pytest.raises(DataError, match=r"^DST: .*\(No space left on device\); remedy: free space there"):
            make_shards(folder, target, shard_size=20_000)
        kept = len(list(target.glob("train-*.arrow")))
        assert kept > 0
        (disk / "ballast").unlink()
        subprocess.run(["mount", "-o", "remount,size=1m", disk], check=True)
        outcome = make_shards(folder, target, shard_size=20_000)
        assert outcome.written < len(outcome.index.train.shards) + len(outcome.index.val.shards)
    finally:
        subprocess.run(["umount", disk], check=True)
