"""The embedded data set."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from trainables.data.decode import read_rgb
from trainables.data.digits import write_digits
from trainables.data.index import ImageIndex, Split, open_index
from trainables.errors import DataError


def load(split: Split) -> np.ndarray:
    """All images of a split: float [n, 32, 32, 3] in 0..1."""
    return np.stack([read_rgb(split.store, place).permute(1, 2, 0).numpy() for place in range(len(split))]) / 255.0


@pytest.fixture(scope="module")
def train(digits_index: ImageIndex) -> np.ndarray:
    """The training images."""
    return load(digits_index.train)


def test_size_and_split(digits_index: ImageIndex) -> None:
    """1,797 digits: 1,500 to train on and 297 to validate, none in both."""
    assert digits_index.classes == tuple("0123456789")
    assert (len(digits_index.train), len(digits_index.val)) == (1500, 297)
    names = [Path(path).name for path in (*digits_index.train.store.names, *digits_index.val.store.names)]
    assert len(set(names)) == 1797


def test_channels_differ_in_mean_and_spread(digits_index: ImageIndex) -> None:
    """R > G > B in both, by enough for a channel fault to show in the input's moments."""
    for moments in (digits_index.channel_mean, digits_index.channel_std):
        red, green, blue = moments
        assert red > 1.1 * green > 1.1 * 1.1 * blue


def test_light_varies_widely_and_continuously(train: np.ndarray) -> None:
    """Batches sorted by brightness move the input's mean by more than a standard deviation of the pixels."""
    brightness = np.sort(train.mean((1, 2, 3)))
    assert brightness[-64:].mean() - brightness[:64].mean() > train.std()
    assert len(np.unique(brightness.round(4))) > 900


def test_colour_tells_nothing_of_the_label(train: np.ndarray, digits_index: ImageIndex) -> None:
    """A classifier on the paper's colour and the light scores as chance does on the validation images."""

    def paper(images: np.ndarray) -> np.ndarray:
        return np.asarray(np.quantile(images.reshape(len(images), -1, 3), 0.98, axis=1))

    classifier = LogisticRegression(max_iter=2000).fit(paper(train) * 10, digits_index.train.labels)
    score = classifier.score(paper(load(digits_index.val)) * 10, digits_index.val.labels)
    assert score < 0.1 + 4 * np.sqrt(0.1 * 0.9 / 297)


def test_the_drawings_can_be_told_apart(train: np.ndarray, digits_index: ImageIndex) -> None:
    """A linear classifier on the shapes scores above 90 %: the labels belong to the images."""

    def shape(images: np.ndarray) -> np.ndarray:
        grey = images.mean(-1)[:, ::4, ::4].reshape(len(images), -1)
        return np.asarray((grey - grey.mean(1, keepdims=True)) / grey.std(1, keepdims=True))

    classifier = LogisticRegression(max_iter=2000).fit(shape(train), digits_index.train.labels)
    assert classifier.score(shape(load(digits_index.val)), digits_index.val.labels) > 0.9


def test_pixels_are_the_same_in_every_version(train: np.ndarray) -> None:
    """Golden value: other pixels need another folder name than digits-v1."""
    assert np.rint(train * 255).astype(np.int64).sum() == 497479419


def test_writers_that_start_at_once_agree(tmp_path: Path) -> None:
    """Trials may start together on an empty cache: each finds the whole set, and nothing half-written stays."""
    start = threading.Barrier(4)

    def open_together(_: int) -> ImageIndex:
        start.wait()
        return open_index("digits", cache_dir=tmp_path)

    with ThreadPoolExecutor(4) as pool:
        indices = list(pool.map(open_together, range(4)))
    assert {(len(index.train), len(index.val)) for index in indices} == {(1500, 297)}
    assert len({(index.channel_mean, index.channel_std) for index in indices}) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["channels", "digits-v1"]
    assert len(list((tmp_path / "channels").iterdir())) == 1


def test_a_killed_writer_does_no_harm(tmp_path: Path) -> None:
    """Half a data set under another name is not taken for the whole."""
    (tmp_path / "digits-v1.partial-dead" / "train" / "0").mkdir(parents=True)
    assert len(open_index("digits", cache_dir=tmp_path).train) == 1500


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """One line that names the variable and the remedy."""
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(DataError, match=r"^EPOCH14_CACHE: .*; remedy: set EPOCH14_CACHE to another folder$"):
        write_digits(blocked)
