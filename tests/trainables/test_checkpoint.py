"""A store on a folder: what comes back, what stays, what damage and dead writers leave. Elsewhere: test_..._places."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trainables.checkpoint import Checkpoint, CheckpointStore

META: dict[str, Any] = {
    "nan": math.nan,
    "infinite": [math.inf, -math.inf],
    "floats": [0.1, -0.0, 5e-324, 1.7976931348623157e308],
    "nested": {"none": None, "flag": True, "text": "ü\n", "empty": [[], {}], "big": 2**70},
}
STATE, MANIFEST = "state.safetensors", "manifest.json"


def some_tensors(seed: int) -> dict[str, Tensor]:
    """A little state: several dtypes, odd floats, other strides, nothing at all."""
    draw = torch.Generator().manual_seed(seed)
    filters = torch.randn(4, 3, 3, 3, generator=draw)
    return {
        "filters": filters.contiguous(memory_format=torch.channels_last),
        "half": filters.to(torch.bfloat16),
        "odd": torch.tensor([math.nan, math.inf, -0.0, 1e-45]),
        "count": torch.tensor(2**53 + 1 + seed),
        "none": torch.empty(0, 2),
    }


def bits(tensors: dict[str, Tensor]) -> dict[str, tuple[str, torch.Size, bytes]]:
    """Dtype, shape and bytes of each tensor."""
    plain = {name: t.clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    return {n: (str(t.dtype), t.shape, t.flatten().view(torch.uint8).numpy().tobytes()) for n, t in plain.items()}


def save(folder: Path, *steps: int, keep: int = 2, scores: dict[int, float] | None = None) -> None:
    """Save `steps` in this order, each with the tensors of its own seed."""
    with CheckpointStore(str(folder), keep=keep) as store:
        for step in steps:
            store.save(step, some_tensors(step), {"step": step}, score=(scores or {}).get(step, 0.0))
    assert store.failures == []


def latest(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint that a new process would find."""
    with CheckpointStore(str(folder), keep=2) as store:
        return store.latest()


def is_whole(checkpoint: Checkpoint | None, step: int) -> bool:
    """Whether it is what `save` saved at `step`."""
    return checkpoint is not None and (
        (checkpoint.step, checkpoint.meta, bits(checkpoint.tensors)) == (step, {"step": step}, bits(some_tensors(step)))
    )


def steps_in(folder: Path) -> list[int]:
    """Steps of the checkpoints that lie there."""
    return sorted(int(path.name[5:]) for path in folder.glob("step-*"))


def test_what_is_saved_comes_back_with_its_bits(tmp_path: Path) -> None:
    """Tensors and meta, nan included, to the store that saved them and to the next one."""
    with CheckpointStore(str(tmp_path / "not" / "there yet"), keep=2) as store:
        store.save(7, some_tensors(0), META, score=0.5)
        found = [store.latest(), store.best(), latest(tmp_path / "not" / "there yet")]
    for checkpoint in found:
        assert checkpoint is not None
        assert (checkpoint.step, checkpoint.uri) == (7, store.uri)
        assert bits(checkpoint.tensors) == bits(some_tensors(0))
        assert json.dumps(checkpoint.meta) == json.dumps(META)


def test_an_empty_store_has_none(tmp_path: Path) -> None:
    """A run that finds nothing starts anew."""
    with CheckpointStore(str(tmp_path), keep=2) as store:
        assert store.latest() is None
        assert store.best() is None


def test_a_file_uri_is_a_folder(tmp_path: Path) -> None:
    """file:///... and the path are one place."""
    save(tmp_path, 3)
    with CheckpointStore(tmp_path.as_uri(), keep=2) as store:
        assert is_whole(store.latest(), 3)


def test_meta_is_read_before_save_returns(tmp_path: Path) -> None:
    """The run goes on and changes what it gave; what JSON doesn't hold is the caller's error, at once."""
    losses = [1.0]
    with CheckpointStore(str(tmp_path), keep=2) as store:
        store.save(1, {}, {"losses": losses})
        losses.append(2.0)
        with pytest.raises(TypeError, match="not JSON serializable"):
            store.save(2, {}, {"tensor": torch.ones(1)})
        found = store.latest()
    assert found is not None
    assert (found.step, found.meta) == (1, {"losses": [1.0]})


@pytest.mark.parametrize(
    ("keep", "scores", "expected", "best"),
    [
        (2, {}, [40, 50], 50),
        (1, {10: 0.5}, [10, 50], 10),
        (2, {20: 0.5, 50: 0.4}, [20, 40, 50], 20),
        (2, {20: 0.5, 30: 0.5}, [30, 40, 50], 30),
        (2, {10: 0.1, 40: 0.9}, [40, 50], 40),
        (2, {10: math.nan, 20: -1.0, 30: math.nan, 40: math.nan, 50: math.nan}, [20, 40, 50], 20),
        (9, {10: 0.5}, [10, 20, 30, 40, 50], 10),
    ],
)
def test_the_last_ones_and_the_best_stay(
    tmp_path: Path, keep: int, scores: dict[int, float], expected: list[int], best: int
) -> None:
    """The last `keep`, and the best score; the newest among equals; nan is below all others."""
    save(tmp_path, 10, 20, 30, 40, 50, keep=keep, scores=scores)
    assert steps_in(tmp_path) == expected
    with CheckpointStore(str(tmp_path), keep=keep) as store:
        assert is_whole(store.latest(), 50)
        assert is_whole(store.best(), best)


def test_what_a_former_store_saved_counts(tmp_path: Path) -> None:
    """A resumed run keeps the best of all of its parts, and removes what has become old."""
    save(tmp_path, 10, 20, scores={10: 0.9})
    save(tmp_path, 30, 40)
    assert steps_in(tmp_path) == [10, 30, 40]


def test_the_newest_is_the_one_saved_last(tmp_path: Path) -> None:
    """A run that went back to an earlier step is resumed from there, and later ones become old in their turn."""
    save(tmp_path, 10, 20, 30)
    save(tmp_path, 15)
    assert is_whole(latest(tmp_path), 15)
    assert steps_in(tmp_path) == [15, 30]
    save(tmp_path, 18)
    assert is_whole(latest(tmp_path), 18)
    assert steps_in(tmp_path) == [15, 18]


def test_a_step_that_is_saved_again_is_replaced(tmp_path: Path) -> None:
    """One checkpoint a step: the later one, the newest."""
    save(tmp_path, 10, 20)
    with CheckpointStore(str(tmp_path), keep=2) as store:
        store.save(10, {"a": torch.ones(3)}, {"again": True})
        found = store.latest()
    assert found is not None
    assert (found.step, found.meta, found.tensors["a"].tolist()) == (10, {"again": True}, [1.0] * 3)
    assert steps_in(tmp_path) == [10, 20]
    assert store.failures == []


def flip_a_bit(name: str, seed: int) -> Callable[[Path], None]:
    """Damage: one bit of a file, at a random place."""

    def damage(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        place = random.Random(seed).randrange(8 * len(content))  # noqa: S311 - no secret
        content[place // 8] ^= 1 << place % 8
        (folder / name).write_bytes(content)

    return damage


def truncate(name: str, kept: float) -> Callable[[Path], None]:
    """Damage: a file ends after a share of its bytes."""

    def damage(folder: Path) -> None:
        os.truncate(folder / name, int(kept * (folder / name).stat().st_size))

    return damage


def unlink(name: str) -> Callable[[Path], None]:
    """Damage: a file is gone."""
    return lambda folder: (folder / name).unlink()


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    **{f"state bit {seed}": (flip_a_bit(STATE, seed), f"the hash of {STATE} is wrong") for seed in range(4)},
    **{f"manifest bit {seed}": (flip_a_bit(MANIFEST, seed), MANIFEST) for seed in range(4)},
    "state of half": (truncate(STATE, 0.5), f"{STATE} has "),
    "state of nothing": (truncate(STATE, 0), f"{STATE} has 0 bytes, not "),
    "manifest of half": (truncate(MANIFEST, 0.5), f"{MANIFEST} is no JSON"),
    "manifest of nothing": (truncate(MANIFEST, 0), f"{MANIFEST} is no JSON"),
    "no state": (unlink(STATE), f"{STATE} is missing"),
    "no manifest": (unlink(MANIFEST), f"{MANIFEST} is missing"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """One line with step, place and reason; its bytes are set aside, not lost, and never looked at again."""
    save(tmp_path, 10, 20)
    damage, reason = DAMAGES[name]
    damage(tmp_path / "step-000000020")
    left = {path.name: path.read_bytes() for path in (tmp_path / "step-000000020").iterdir()}
    assert is_whole(latest(tmp_path), 10)
    (record,) = caplog.records
    line = record.getMessage()
    assert line.startswith(f"the checkpoint of step 20 in {tmp_path} is damaged: ")
    assert reason in line
    (aside,) = tmp_path.glob("damaged-*")
    assert str(aside) in line
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == left
    assert is_whole(latest(tmp_path), 10)
    assert len(caplog.records) == 1


def test_all_damaged_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each is named and set aside, and the run starts anew."""
    save(tmp_path, 10, 20, 30, keep=3)
    for step, name in ((10, "no manifest"), (20, "state bit 0"), (30, "manifest of half")):
        DAMAGES[name][0](tmp_path / f"step-{step:09d}")
    assert latest(tmp_path) is None
    assert sorted(record.getMessage().split(" in ")[0] for record in caplog.records) == [
        f"the checkpoint of step {step}" for step in (10, 20, 30)
    ]
    assert len(list(tmp_path.glob("damaged-*"))) == 3


def test_a_damaged_best_gives_way_to_the_next_best(tmp_path: Path) -> None:
    """The best among the whole ones; the latest is untouched."""
    save(tmp_path, 10, 20, 30, keep=3, scores={10: 0.9, 20: 0.5, 30: 0.1})
    DAMAGES["state bit 1"][0](tmp_path / "step-000000010")
    with CheckpointStore(str(tmp_path), keep=3) as store:
        assert is_whole(store.best(), 20)
        assert is_whole(store.latest(), 30)


def test_a_store_that_met_damage_saves_on(tmp_path: Path) -> None:
    """What was set aside isn't removed a second time: no failure, and the last two are there."""
    with CheckpointStore(str(tmp_path), keep=2) as store:
        for step in (10, 20):
            store.save(step, some_tensors(step), {"step": step})
        store.wait()
        DAMAGES["state bit 2"][0](tmp_path / "step-000000020")
        assert is_whole(store.latest(), 10)
        for step in (20, 30, 40):
            store.save(step, some_tensors(step), {"step": step})
            store.wait()
        assert store.failures == []
        DAMAGES["state bit 3"][0](tmp_path / "step-000000040")
        assert is_whole(store.latest(), 30)
        for step in (50, 60):
            store.save(step, some_tensors(step), {"step": step})
    assert store.failures == []
    assert steps_in(tmp_path) == [50, 60]


@pytest.mark.parametrize("replaced", [False, True])
def test_what_a_dead_writer_left_never_counts(tmp_path: Path, *, replaced: bool) -> None:
    """A half-written folder, or a whole one that was not renamed, is cleaned; a replaced one comes back.

    The writer died before its last rename, or between the two renames of a step that it saved again.
    """
    save(tmp_path, 10, 20)
    half = tmp_path / ".step-000000030.tmp-0123456789abcdef"
    half.mkdir()
    (half / STATE).write_bytes(b"half of a sta")
    if replaced:
        (tmp_path / "step-000000020").rename(tmp_path / ".step-000000020.old-0123456789abcdef")
    assert is_whole(latest(tmp_path), 20)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "step-000000010", "step-000000020"]


def test_a_living_writers_folder_is_left_alone(tmp_path: Path) -> None:
    """Whoever opens the place meanwhile, to read it, takes nothing away."""
    save(tmp_path, 10)
    half = tmp_path / ".step-000000020.tmp-0123456789abcdef"
    with CheckpointStore(str(tmp_path), keep=2) as writer, writer._files._locked():  # type: ignore[attr-defined] # a folder
        half.mkdir()
        assert is_whole(latest(tmp_path), 10)
        assert half.is_dir()
    assert is_whole(latest(tmp_path), 10)
    assert not half.exists()


WRITER = """
import os, signal, sys, time
import torch
from trainables.checkpoint import CheckpointStore

def write(folder, pipe):
    with CheckpointStore(folder, keep=2) as store:
        for i in range(10**6):
            store.save(i % 3, {"a": torch.full((1_000_000,), float(i))}, {"i": i})
            store.wait()
            os.write(pipe, b"%d\\n" % i)

for folder, delay in zip(sys.argv[1::2], map(float, sys.argv[2::2])):
    reader, pipe = os.pipe()
    child = os.fork()
    if child == 0:
        write(folder, pipe)
    os.close(pipe)
    told = os.read(reader, 100)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(reader, 100_000):
        told += more
    print(told.split()[-1].decode())
"""


def test_kill_9_amid_writes_leaves_the_former_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """At whatever moment: the last one that was committed is there, whole; leftovers are cleaned, none is damaged."""
    folders = [tmp_path / str(number) for number in range(5)]
    delays = random.Random(0).sample(range(10, 150), len(folders))  # noqa: S311 - no secret
    arguments = [text for folder, delay in zip(folders, delays, strict=True) for text in (folder, str(delay / 1000))]
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", WRITER, *arguments]
    done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    for folder, committed in zip(folders, map(int, done.stdout.split()), strict=True):
        found = latest(folder)
        assert found is not None
        # The writer may have died after the commit, before it told of it.
        assert found.meta["i"] in (committed, committed + 1)
        assert found.step == found.meta["i"] % 3
        assert torch.equal(found.tensors["a"], torch.full((1_000_000,), float(found.meta["i"])))
        assert not list(folder.glob(".step-*"))
        assert len(steps_in(folder)) <= 3
    assert caplog.records == []
