"""A process beside the trainer makes the same batches, and neither outlives the other unseen."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
import torch
from torch.multiprocessing.spawn import ProcessExitedException

from trainables.data.decode import DecodedPicture, Picture, open_whole
from trainables.data.decode_region import open_decoder
from trainables.data.images import ImageSource
from trainables.data.index import ImageIndex, open_index
from trainables.data.loader_process import LoaderProcess
from trainables.data.prefetch import Prefetcher
from trainables.data.quarantine import Quarantine
from trainables.data.sampler import EpochSampler
from trainables.data.store import Encoded
from trainables.errors import DataError, LoaderError

if TYPE_CHECKING:
    from tests.conftest import TinyImages
    from tests.trainables.conftest import RunRanks

pytestmark = pytest.mark.skipif("sys.platform != 'linux'", reason="the process shares memory files of Linux")
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"image_size": 8, "augment": "none"},
    {"image_size": 40, "augment": "crop", "crop_min_area": 0.08},
    {"color_jitter": 0.4, "hue_jitter": 0.1, "rand_augment_ops": 2},
    {"trivial_augment": True, "eval_crop_ratio": 0.8},
)
SOON_S = 5.0
"""Seconds within which an end must be noticed."""


@pytest.fixture(scope="module")
def plain(digits_index: ImageIndex) -> ImageSource:
    """The digits, decoded here."""
    return ImageSource(digits_index.train, 24, "crop_flip", 3, quarantine=Quarantine(digits_index.train, 4))


@pytest.fixture(scope="module")
def helped(plain: ImageSource) -> Iterator[ImageSource]:
    """The same, made by a process of two threads."""
    with LoaderProcess({"train": plain}, 2) as helper:
        yield replace(plain, helper=helper)


def helper_of(source: ImageSource) -> LoaderProcess:
    """The process that a source is made by."""
    assert isinstance(source.helper, LoaderProcess)
    return source.helper


def gone(pid: int) -> bool:
    """Whether a process ends within SOON_S."""
    last = time.monotonic() + SOON_S
    while time.monotonic() < last:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "-".join(settings) or "plain")
def test_batches_are_the_same_bytes(settings: dict[str, Any], plain: ImageSource, helped: ImageSource) -> None:
    """Of any source that differs in settings, over epoch borders, in training and in evaluation, for any number."""
    one, other = replace(plain, **settings), replace(helped, **settings)
    ids = np.array([5, 700, 5, 1, 1196])
    for epoch in (0, np.array([3, 3, 4, 4, 4]), None):
        assert torch.equal(one.fetch(ids, epoch), other.fetch(ids, epoch))
    assert torch.equal(one.fetch(ids[:0], 0), other.fetch(ids[:0], 0))
    (images, kept), (found, found_kept) = one.fetch_sound(ids), other.fetch_sound(ids)
    assert torch.equal(images, found)
    np.testing.assert_array_equal(kept, found_kept)


def test_many_threads_may_ask_at_once(plain: ImageSource, helped: ImageSource) -> None:
    """More than the process has; each gets its own batch, which stays as it is when the next one comes."""
    parts = np.arange(480).reshape(24, 20)
    with ThreadPoolExecutor(6) as pool:
        batches = list(pool.map(lambda ids: helped.fetch(ids, 1), parts))
    assert torch.equal(torch.cat(batches), plain.fetch(parts.ravel(), 1))


def test_a_rollback_gets_the_same_steps_again(plain: ImageSource, helped: ImageSource) -> None:
    """Batches in the making when they are dropped are nobody's: what comes after is right."""
    sampler = EpochSampler(len(plain.split), 16, 3)
    expected = [plain.fetch(sampler.sample_ids(step), sampler.epochs(step)) for step in range(8)]
    with Prefetcher(lambda step: helped.fetch(sampler.sample_ids(step), sampler.epochs(step)), 2) as prefetcher:
        for step in (0, 1, 2, 3, 4, 5):
            assert torch.equal(prefetcher.get(step), expected[step])
        prefetcher.drop()
        for step in (2, 3, 7, 4):
            assert torch.equal(prefetcher.get(step), expected[step])


def test_its_memory_is_that_of_the_largest_batch_of_each_thread(helped: ImageSource) -> None:
    """A hundred batches take no more than one a thread."""
    helper = helper_of(helped)
    helped.fetch(np.arange(100), 0)
    for _ in range(100):
        helped.fetch(np.arange(50), 0)
    lines = [helper._free.get() for _ in range(2)]
    for line in lines:
        helper._free.put(line)
    sizes = sorted(os.fstat(line.buffer.file).st_size for line in lines)
    assert sizes == [images * 24 * 24 * 3 for images in (50, 100)]


def test_what_it_was_not_made_for_is_made_here(plain: ImageSource, helped: ImageSource) -> None:
    """Another decoder, such as a fault's own function, works as without a process."""

    def upside_down(encoded: Encoded, where: str) -> Picture:
        picture = open_whole(encoded, where)
        return DecodedPicture(picture.whole().flip(1))

    ids = np.arange(6)
    expected = replace(plain, augment="none").fetch(ids, 0).flip(1)
    assert torch.equal(replace(helped, augment="none", decoder=upside_down).fetch(ids, 0), expected)


def test_quarantined_files_are_known_here(tiny_images: TinyImages, tmp_path: Path) -> None:
    """The same stand-ins, the same list and, beyond the limit, the same line as in threads; so is a missing file's."""
    split = open_index(str(tiny_images(suffix=".jpg")), cache_dir=tmp_path / "cache").train
    files = [Path(split.store.locate(place)) for place in range(3)]
    files[0].write_bytes(b"no image")
    decoder = open_decoder("nvimgcodec")
    plain = ImageSource(split, 16, "crop", 0, decoder=decoder, quarantine=Quarantine(split, 1))
    with LoaderProcess({"train": replace(plain, quarantine=Quarantine(split, 1))}, 1) as helper:
        helped = replace(helper._sources["train"], helper=helper)
        ids = np.arange(len(split))
        assert torch.equal(helped.fetch(ids, 0), plain.fetch(ids, 0))
        assert helped.fetch_sound(ids)[1].tolist() == ids[1:].tolist()
        assert helped.quarantine is not None
        assert helped.quarantine.files() == [str(files[0])]
        files[1].write_bytes(b"no image either")
        lines = []
        for source in (plain, helped):
            with pytest.raises(DataError, match=r"^data\.max_quarantined: 1 ") as caught:
                source.fetch(ids, 1)
            lines.append(str(caught.value))
        assert lines[0] == lines[1]
        assert helped.quarantine.files() == [str(file) for file in files[:2]]
        files[2].unlink()
        with pytest.raises(DataError, match=f"files that can be read .*; remedy: check {files[2]}$"):
            helped.fetch(ids[2:], 1)


def test_a_killed_process_is_one_line_and_no_hang(plain: ImageSource) -> None:
    """In the fetch that waits for it, in those after it, and within seconds."""
    with LoaderProcess({"train": plain}, 1) as helper, ThreadPoolExecutor(1) as pool:
        helped = replace(plain, helper=helper)
        helped.fetch(np.arange(2), 0)
        waiting = pool.submit(helped.fetch, np.arange(1000).repeat(100), 0)
        time.sleep(0.3)
        assert not waiting.done()
        assert helper.pid is not None
        os.kill(helper.pid, signal.SIGKILL)
        began = time.monotonic()
        for fetch in (waiting, pool.submit(helped.fetch, np.arange(2), 0)):
            with pytest.raises(LoaderError, match=r"^data\.loader: .*ended by SIGKILL.*data\.loader=threads$"):
                fetch.result()
        assert time.monotonic() - began < SOON_S


def test_a_bug_in_it_is_no_hang(plain: ImageSource, capfd: pytest.CaptureFixture[str]) -> None:
    """It prints its traceback and ends, and the trainer says so."""
    with (
        LoaderProcess({"train": plain}, 2) as helper,
        pytest.raises(LoaderError, match="ended with code 1"),
    ):
        replace(plain, helper=helper).fetch(np.array([10**9]), 0)
    assert "IndexError" in capfd.readouterr().err


def test_nobody_needs_to_close_it(plain: ImageSource) -> None:
    """With the last reference go the process and its descriptors."""
    # What earlier tests left to the collector would be closed meanwhile.
    gc.collect()
    before = len(list(Path("/proc/self/fd").iterdir()))
    helper = LoaderProcess({"train": plain}, 2)
    replace(plain, helper=helper).fetch(np.arange(2), 0)
    pid = helper.pid
    assert pid is not None
    del helper
    assert gone(pid)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


def killed_trainer(_rank: int, plain: ImageSource, note: str) -> None:
    """A trainer that is killed while its process works."""
    helper = LoaderProcess({"train": plain}, 1)
    helped = replace(plain, helper=helper)
    helped.fetch(np.arange(2), 0)
    ThreadPoolExecutor(1).submit(helped.fetch, np.arange(1000).repeat(1000), 0)
    time.sleep(0.3)
    Path(note).write_text(str(helper.pid))
    os.kill(os.getpid(), signal.SIGKILL)


def test_it_ends_with_its_trainer(plain: ImageSource, run_ranks: RunRanks, tmp_path: Path) -> None:
    """Within seconds, amid a batch that would take minutes, and without a trace in /dev/shm."""
    note = tmp_path / "pid"
    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        run_ranks(killed_trainer, 1, replace(plain, quarantine=None), str(note))
    assert gone(int(note.read_text()))
    assert list(Path("/dev/shm").glob("*epoch14*")) == []  # noqa: S108 - where a named segment would lie
