"""Mean and standard deviation of each channel."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainables.data import channels
from trainables.data.channels import channel_statistics
from trainables.data.store import FileStore
from trainables.errors import DataError

TinyImages = Callable[..., Path]

REPOSITORY = Path(__file__).resolve().parents[3]


def train_files(root: Path) -> FileStore:
    """Training images of a folder, sorted."""
    return FileStore(str(root), tuple(sorted(str(path.relative_to(root)) for path in root.glob("train/*/*"))))


def test_they_are_the_moments_of_all_pixels(tiny_images: TinyImages, tmp_path: Path) -> None:
    """Every pixel counts once, so large images count more than small ones."""
    root = tiny_images(size=(40, 32))
    shutil.move(tiny_images(size=(9, 11), name="more") / "train" / "cat", root / "train" / "cow")
    files = train_files(root)
    mean, std = channel_statistics(files, tmp_path / "cache")
    pixels = np.concatenate([np.asarray(Image.open(root / name)).reshape(-1, 3) for name in files.names]) / 255.0
    np.testing.assert_allclose(mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(std, pixels.std(0), rtol=1e-12)


def test_a_large_set_is_read_at_even_distances(
    tiny_images: TinyImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the limit, images from every class are read, not the first ones."""
    root = tiny_images(train=5)
    files = train_files(root)
    monkeypatch.setattr(channels, "MAX_IMAGES", 4)
    found = channel_statistics(files, tmp_path / "some")
    fewer = FileStore(files.root, tuple(files.names[i] for i in (0, 2, 5, 7)))
    assert found == channel_statistics(fewer, tmp_path / "other")


def test_they_are_kept_and_need_no_torch_the_second_time(tiny_images: TinyImages, tmp_path: Path) -> None:
    """A warm cache answers without decoding, bit for bit, even in a process that never imports torch."""
    root = tiny_images()
    cache = tmp_path / "cache"
    mean, std = channel_statistics(train_files(root), cache)
    code = (
        "import sys; from pathlib import Path; from trainables.data.index import open_index\n"
        f"index = open_index({str(root)!r}, cache_dir=Path({str(cache)!r}))\n"
        "print(index.channel_mean, index.channel_std, 'torch' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == f"{mean} {std} False"


def test_changed_pixels_are_noticed(tiny_images: TinyImages, tmp_path: Path) -> None:
    """An image that is written anew, even of equal size, is counted anew."""
    root = tiny_images()
    before = channel_statistics(train_files(root), tmp_path / "cache")
    path = train_files(root).locate(0)
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    assert channel_statistics(train_files(root), tmp_path / "cache") != before


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"mean": [1, 2], "std": [1, 2]}', '{"mean": 1, "std": 2}'])
def test_a_damaged_cache_is_counted_anew(content: str, tiny_images: TinyImages, tmp_path: Path) -> None:
    """A kept result that can't be read costs time, not the run."""
    root = tiny_images()
    expected = channel_statistics(train_files(root), tmp_path / "cache")
    (kept,) = (tmp_path / "cache" / "channels").iterdir()
    kept.write_text(content)
    assert channel_statistics(train_files(root), tmp_path / "cache") == expected


def test_a_cache_that_cannot_be_written_costs_only_time(tiny_images: TinyImages, tmp_path: Path) -> None:
    """Somebody else's read-only cache is no error."""
    root = tiny_images()
    blocked = tmp_path / "file"
    blocked.write_text("")
    expected = channel_statistics(train_files(root), tmp_path / "cache")
    assert channel_statistics(train_files(root), blocked) == expected


def test_a_constant_channel_is_an_error(tmp_path: Path) -> None:
    """Its standard deviation is 0, and no normalisation can divide by that."""
    Image.new("RGB", (8, 8), (10, 20, 30)).save(tmp_path / "x.png")
    with pytest.raises(DataError, match="every colour channel"):
        channel_statistics(FileStore(str(tmp_path), ("x.png",)), tmp_path / "cache")
