"""Random crops and RandAugment: torchvision's rules with draws of our own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from trainables.data.augment import (
    CROP_RATIO,
    RAND_AUGMENT_NAMES,
    apply_operation,
    draw_crop,
    rand_augment,
    random_resized_crop,
)
from trainables.data.images import read_rgb
from trainables.data.index import open_index
from trainables.rng import generator

TinyImages = Callable[..., Path]


@pytest.fixture
def image(tiny_images: TinyImages, tmp_path: Path) -> torch.Tensor:
    """Coloured noise: uint8 [3, 32, 40]."""
    return read_rgb(open_index(str(tiny_images()), cache_dir=tmp_path / "cache").train, 3)


def crop_rule(min_area: float) -> Any:
    """RandomResizedCrop of torchvision with our ratios."""
    return v2.RandomResizedCrop(10, scale=(min_area, 1.0), ratio=CROP_RATIO)


def test_a_crop_is_torchvisions_resized_crop(image: torch.Tensor) -> None:
    """The rectangle drawn, cut and resized by torchvision, bit for bit."""
    top, left, height, width = draw_crop(generator("crop"), 32, 40, 0.08)
    expected = v2.functional.resized_crop(image, top, left, height, width, [24, 24], antialias=True)
    assert torch.equal(random_resized_crop(image, generator("crop"), 24, 0.08), expected)


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


class Recorder(v2.RandAugment):  # type: ignore[misc] # torchvision ships no annotations
    """RandAugment of torchvision, which keeps what it drew: (operation, signed magnitude)."""

    def __init__(self, num_ops: int, magnitude: int) -> None:
        super().__init__(num_ops, magnitude)
        self.drawn: list[tuple[str, float]] = []

    def _apply_image_or_video_transform(self, image: Any, transform_id: str, magnitude: float, **how: Any) -> Any:
        self.drawn.append((transform_id, magnitude))
        return super()._apply_image_or_video_transform(image, transform_id, magnitude, **how)


def replayed(pixels: torch.Tensor, drawn: Sequence[tuple[str, float]], magnitude: int) -> torch.Tensor:
    """What was drawn by torchvision, applied by us."""
    for name, strength in drawn:
        pixels = apply_operation(pixels, name, magnitude, negative=strength < 0)
    return pixels


@pytest.mark.parametrize("magnitude", [0, 6, 9, 30])
def test_equal_draws_give_torchvisions_pixels(image: torch.Tensor, magnitude: int) -> None:
    """60 runs of RandAugment by torchvision itself, replayed by us bit for bit; each operation occurs in them."""
    torch.manual_seed(magnitude)
    seen = set()
    for _ in range(60):
        reference = Recorder(2, magnitude)
        expected = reference(image)
        assert len(reference.drawn) == 2
        assert torch.equal(replayed(image, reference.drawn, magnitude), expected)
        seen |= {name for name, _ in reference.drawn}
    assert seen == set(RAND_AUGMENT_NAMES)


def test_operations_and_signs_are_drawn_alike(image: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over 2,800 draws each of the 14 comes 200 times and half of them the other way round, within five deviations."""
    drawn: list[tuple[str, bool]] = []

    def note(pixels: torch.Tensor, name: str, _magnitude: int, *, negative: bool) -> torch.Tensor:
        drawn.append((name, negative))
        return pixels

    monkeypatch.setattr("trainables.data.augment.apply_operation", note)
    for i in range(700):
        rand_augment(image, generator("ops", i), 4, 9)
    counts = [sum(name == other for name, _ in drawn) for other in RAND_AUGMENT_NAMES]
    assert sum(counts) == 2800
    assert all(abs(count - 200) < 5 * math.sqrt(200) for count in counts)
    assert abs(sum(negative for _, negative in drawn) - 1400) < 5 * math.sqrt(2800 / 4)


def test_the_global_generator_plays_no_part(image: torch.Tensor) -> None:
    """Neither read nor moved: other loader threads may use it meanwhile."""
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = rand_augment(image, generator("ops"), 8, 9)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(rand_augment(image, generator("ops"), 8, 9), first)


def test_no_operation_leaves_the_image(image: torch.Tensor) -> None:
    """Zero operations are the image itself, and eight are not."""
    assert torch.equal(rand_augment(image, generator("ops"), 0, 9), image)
    assert not torch.equal(rand_augment(image, generator("ops"), 8, 9), image)


@pytest.mark.parametrize("name", RAND_AUGMENT_NAMES)
def test_intra_op_threads_and_concurrency_change_no_bit(name: str) -> None:
    """Each operation on 224 px, with one torch thread or two, four at once or one after the other."""
    rng = generator("pixels")
    pixels = torch.from_numpy(rng.integers(0, 256, (224, 224, 3), dtype=np.uint8)).permute(2, 0, 1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = apply_operation(pixels, name, 9, negative=True)
        torch.set_num_threads(2)
        with ThreadPoolExecutor(4) as pool:
            for found in pool.map(lambda _: apply_operation(pixels, name, 9, negative=True), range(4)):
                assert torch.equal(found, expected)
    finally:
        torch.set_num_threads(before)
    assert (expected.shape, expected.dtype) == (pixels.shape, torch.uint8)
