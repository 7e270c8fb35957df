"""How uint8 pixels become floats."""

from __future__ import annotations

import pickle
from typing import get_args

import numpy as np
import pytest
import torch

from trainables.data.images import ImageSource
from trainables.data.index import ImageIndex
from trainables.data.normalize import IMAGENET_MEAN, IMAGENET_STD, build_normalization
from trainables.data_config import NormalizationName
from trainables.errors import ConfigError

MEAN = (0.5, 0.4, 0.3)
STD = (0.25, 0.2, 0.1)


@pytest.fixture
def pixels() -> torch.Tensor:
    """A batch of uint8 noise, not square."""
    return torch.randint(0, 256, (4, 9, 7, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def by_the_book(pixels: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """(x / 255 - mean) / std in float64, as NCHW."""
    return ((pixels.double() / 255 - torch.tensor(mean).double()) / torch.tensor(std).double()).permute(0, 3, 1, 2)


def test_train_pixels_have_mean_0_and_std_1_in_each_channel(digits_index: ImageIndex) -> None:
    """The data set's own statistics whiten its stored pixels exactly."""
    train = ImageSource(digits_index.train, 32, "none", 0).fetch(np.arange(len(digits_index.train)), None)
    found = build_normalization("per_channel", digits_index.channel_mean, digits_index.channel_std)(train).double()
    torch.testing.assert_close(found.mean((0, 2, 3)), torch.zeros(3).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.std((0, 2, 3)), torch.ones(3).double(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", get_args(NormalizationName))
def test_shape_type_and_layout(name: NormalizationName, pixels: torch.Tensor) -> None:
    """Each gives float32 NCHW in channels_last and leaves its argument alone."""
    before = pixels.clone()
    found = build_normalization(name, MEAN, STD)(pixels)
    assert found.shape == (4, 3, 9, 7)
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(pixels, before)


def test_per_channel_and_imagenet_are_the_formula(pixels: torch.Tensor) -> None:
    """(x / 255 - mean) / std, with the data set's or ImageNet's moments."""
    for name, mean, std in (("per_channel", MEAN, STD), ("imagenet", IMAGENET_MEAN, IMAGENET_STD)):
        found = build_normalization(name, MEAN, STD)(pixels).double()  # type: ignore[arg-type]
        torch.testing.assert_close(found, by_the_book(pixels, mean, std), atol=1e-5, rtol=0)


def test_no_div255_has_255_times_the_scale(pixels: torch.Tensor) -> None:
    """The missing division multiplies the spread by 255 and nothing else."""
    right = build_normalization("per_channel", MEAN, STD)(pixels)
    wrong = build_normalization("no_div255", MEAN, STD)(pixels)
    torch.testing.assert_close(wrong.std((0, 2, 3)), 255 * right.std((0, 2, 3)), rtol=1e-4, atol=0)


def test_bgr_is_reversed_channels_with_the_statistics_of_rgb(pixels: torch.Tensor) -> None:
    """As when OpenCV decodes and the transform expects RGB."""
    found = build_normalization("bgr", MEAN, STD)(pixels)
    expected = build_normalization("per_channel", MEAN, STD)(pixels.flip(-1))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_one_scale_is_right_over_all_channels_and_wrong_in_each(digits_index: ImageIndex) -> None:
    """One mean and std whiten the pixels as a whole, and leave the channels apart."""
    train = ImageSource(digits_index.train, 32, "none", 0).fetch(np.arange(len(digits_index.train)), None)
    found = build_normalization("one_scale", digits_index.channel_mean, digits_index.channel_std)(train).double()
    assert found.mean().item() == pytest.approx(0, abs=1e-5)
    assert found.std().item() == pytest.approx(1, abs=1e-5)
    means = found.mean((0, 2, 3))
    assert means[0] > 0.2
    assert means[2] < -0.2


def test_an_unknown_name_is_an_error() -> None:
    """One line that lists the names."""
    with pytest.raises(ConfigError, match=r"^data.normalization: 'z_score' is not allowed; allowed: per_channel, "):
        build_normalization("z_score", MEAN, STD)  # type: ignore[arg-type]


def test_it_survives_pickling(pixels: torch.Tensor) -> None:
    """A normalisation may travel to another process."""
    normalization = build_normalization("bgr", MEAN, STD)
    again = pickle.loads(pickle.dumps(normalization))  # noqa: S301
    assert again == normalization
    assert torch.equal(again(pixels), normalization(pixels))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_what_the_cpu_gives(pixels: torch.Tensor) -> None:
    """Bytes may be sent and normalised on the device."""
    normalization = build_normalization("per_channel", MEAN, STD)
    torch.testing.assert_close(normalization(pixels.cuda()).cpu(), normalization(pixels), atol=1e-5, rtol=0)
