"""Random crops and colour jitter: torchvision's rules with draws of our own."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from trainables.data.augment import CROP_RATIO, adjust_colors, color_jitter, draw_crop, resized_crop
from trainables.data.decode import DecodedPicture, read_rgb
from trainables.data.index import open_index
from trainables.rng import generator

TinyImages = Callable[..., Path]


@pytest.fixture
def image(tiny_images: TinyImages, tmp_path: Path) -> torch.Tensor:
    """Coloured noise: uint8 [3, 32, 40]."""
    return read_rgb(open_index(str(tiny_images()), cache_dir=tmp_path / "cache").train.store, 3)


def crop_rule(min_area: float) -> Any:
    """RandomResizedCrop of torchvision with our ratios."""
    return v2.RandomResizedCrop(10, scale=(min_area, 1.0), ratio=CROP_RATIO)


def test_a_crop_is_torchvisions_resized_crop(image: torch.Tensor) -> None:
    """The rectangle drawn, cut and resized by torchvision, bit for bit."""
    rectangle = draw_crop(generator("crop"), 32, 40, 0.08)
    expected = v2.functional.resized_crop(image, *rectangle, [24, 24], antialias=True)
    assert torch.equal(resized_crop(DecodedPicture(image), rectangle, 24), expected)


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 300), (24, 24), (90, 120), (375, 500)])
def test_layout_and_size_of_an_image_change_no_bit(height: int, width: int, *, channels_last: bool) -> None:
    """Enlarged, shrunk or as large as it is: torchvision's pixels; those of a decoder go into a batch in one move."""
    pixels = torch.from_numpy(generator("pixels").integers(0, 256, (3, height, width), dtype=np.uint8))
    image = pixels.permute(1, 2, 0).contiguous().permute(2, 0, 1) if channels_last else pixels
    for i in range(20):
        rectangle = draw_crop(generator("crop", i), height, width, 0.08)
        expected = v2.functional.resized_crop(pixels, *rectangle, [24, 24], antialias=True)
        found = resized_crop(DecodedPicture(image), rectangle, 24)
        assert torch.equal(found, expected)
        if channels_last and height > 1:
            assert found.permute(1, 2, 0).is_contiguous()


@pytest.mark.parametrize("min_area", [0.08, 0.5])
@pytest.mark.parametrize(("height", "width"), [(100, 100), (375, 500), (120, 90)])
def test_crops_are_distributed_as_torchvisions(height: int, width: int, min_area: float) -> None:
    """Mean and spread of all four numbers agree with RandomResizedCrop's over 3,000 draws, within five errors."""
    ours = np.array([draw_crop(generator("crop", i), height, width, min_area) for i in range(3000)])
    reference = crop_rule(min_area)
    torch.manual_seed(0)
    pixels = torch.empty(3, height, width, dtype=torch.uint8)
    drawn = [reference.make_params([pixels]) for _ in range(3000)]
    theirs = np.array([[params[key] for key in ("top", "left", "height", "width")] for params in drawn])
    error = np.sqrt((ours.var(0) + theirs.var(0)) / 3000)
    assert (np.abs(ours.mean(0) - theirs.mean(0)) < 5 * error).all()
    np.testing.assert_allclose(ours.std(0), theirs.std(0), rtol=0.1)


@pytest.mark.parametrize("min_area", [0.08, 0.5, 1.0])
def test_a_crop_covers_the_least_area(min_area: float) -> None:
    """No crop of a square is smaller than asked for, by more than the rounding to pixels, and some come near."""
    shares = [math.prod(draw_crop(generator("crop", i), 200, 200, min_area)[2:]) / 200**2 for i in range(500)]
    assert min_area - 0.01 < min(shares) < min_area + 0.06


@pytest.mark.parametrize(("height", "width"), [(10, 400), (400, 10), (1, 1), (1, 7)])
def test_a_crop_always_lies_inside_the_image(height: int, width: int) -> None:
    """Where no allowed rectangle fits, the centre is cut, as torchvision does; nothing is empty."""
    fallback = crop_rule(0.5).make_params([torch.empty(3, height, width, dtype=torch.uint8)])
    for i in range(200):
        top, left, crop_height, crop_width = draw_crop(generator("crop", i), height, width, 0.5)
        assert 0 <= top < top + crop_height <= height
        assert 0 <= left < left + crop_width <= width
        if max(height, width) >= 400:
            assert (top, left) == (fallback["top"], fallback["left"])
            assert (crop_height, crop_width) == (fallback["height"], fallback["width"])


@pytest.mark.parametrize(("strength", "hue"), [(0.4, 0.1), (0.4, 0.0), (0.0, 0.5), (1.5, 0.0)])
def test_equal_factors_give_torchvisions_colours(image: torch.Tensor, strength: float, hue: float) -> None:
    """40 draws of ColorJitter by torchvision itself, applied by us bit for bit."""
    reference = v2.ColorJitter(strength, strength, strength, hue)
    torch.manual_seed(0)
    for _ in range(40):
        params = reference.make_params([image])
        names = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")
        factors = [params[name] if params[name] is not None else float(name != "hue_factor") for name in names]
        expected = reference.transform(image, params)
        assert torch.equal(adjust_colors(image, params["fn_idx"].tolist(), factors), expected)


def test_jitter_is_drawn_as_torchvisions(image: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uniform factors in torchvision's ranges, each adjustment first in a quarter of the draws."""
    drawn: list[tuple[list[int], list[float]]] = []

    def note(pixels: torch.Tensor, order: list[int], factors: list[float]) -> torch.Tensor:
        drawn.append((order, factors))
        return pixels

    monkeypatch.setattr("trainables.data.augment.adjust_colors", note)
    for i in range(2000):
        color_jitter(image, generator("jitter", i), 1.2, 0.25)
    factors = np.array([factors for _, factors in drawn])
    low, high = np.array([0.0, 0.0, 0.0, -0.25]), np.array([2.2, 2.2, 2.2, 0.25])
    assert ((low <= factors) & (factors <= high)).all()
    error = (high - low) / np.sqrt(12 * len(drawn))
    assert (np.abs(factors.mean(0) - (low + high) / 2) < 5 * error).all()
    first = np.bincount([order[0] for order, _ in drawn], minlength=4)
    assert (np.abs(first - 500) < 5 * math.sqrt(500)).all()


def test_no_jitter_leaves_the_image(image: torch.Tensor) -> None:
    """With both at zero nothing is touched."""
    assert torch.equal(color_jitter(image, generator("jitter"), 0.0, 0.0), image)
    assert not torch.equal(color_jitter(image, generator("jitter"), 0.4, 0.1), image)
