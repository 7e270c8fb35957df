"""RandAugment and TrivialAugment: torchvision's operations with draws of our own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from trainables.data.auto_augment import (
    MAGNITUDES,
    RAND_AUGMENT_NAMES,
    TRIVIAL_AUGMENT_NAMES,
    apply_operation,
    apply_wide_operation,
    rand_augment,
    trivial_augment,
)
from trainables.rng import generator


@pytest.fixture
def image() -> torch.Tensor:
    """Noise: uint8 [3, 32, 40]."""
    return torch.from_numpy(generator("pixels").integers(0, 256, (3, 32, 40), dtype=np.uint8))


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

    monkeypatch.setattr("trainables.data.auto_augment.apply_operation", note)
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


class WideRecorder(v2.TrivialAugmentWide):  # type: ignore[misc] # torchvision ships no annotations
    """TrivialAugment of torchvision, which keeps what it drew: (operation, signed magnitude)."""

    drawn: tuple[str, float]

    def _apply_image_or_video_transform(self, image: Any, transform_id: str, magnitude: float, **how: Any) -> Any:
        self.drawn = (transform_id, magnitude)
        return super()._apply_image_or_video_transform(image, transform_id, magnitude, **how)


def test_equal_draws_give_trivial_augments_pixels(image: torch.Tensor) -> None:
    """200 runs of TrivialAugment by torchvision itself, replayed by us bit for bit; each operation occurs in them."""
    torch.manual_seed(0)
    reference = WideRecorder()
    seen = set()
    for _ in range(200):
        expected = reference(image)
        name, strength = reference.drawn
        magnitudes = reference._AUGMENTATION_SPACE[name][0](MAGNITUDES, 32, 40)
        values = [0.0] if magnitudes is None else [float(value) for value in magnitudes]
        place = min(range(len(values)), key=lambda k: abs(values[k] - abs(strength)))
        assert torch.equal(apply_wide_operation(image, name, place, negative=strength < 0), expected)
        seen.add(name)
    assert seen == set(TRIVIAL_AUGMENT_NAMES)


def test_trivial_augment_draws_alike(image: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over 2,800 draws each of the 14 operations comes 200 times, and strengths and signs are even."""
    drawn: list[tuple[str, int, bool]] = []

    def note(pixels: torch.Tensor, name: str, magnitude: int, *, negative: bool) -> torch.Tensor:
        drawn.append((name, magnitude, negative))
        return pixels

    monkeypatch.setattr("trainables.data.auto_augment.apply_wide_operation", note)
    for i in range(2800):
        trivial_augment(image, generator("trivial", i))
    counts = [sum(name == other for name, _, _ in drawn) for other in TRIVIAL_AUGMENT_NAMES]
    assert all(abs(count - 200) < 5 * math.sqrt(200) for count in counts)
    strengths = np.bincount([magnitude for _, magnitude, _ in drawn], minlength=MAGNITUDES)
    assert (np.abs(strengths - 2800 / MAGNITUDES) < 5 * math.sqrt(2800 / MAGNITUDES)).all()
    assert abs(sum(negative for *_, negative in drawn) - 1400) < 5 * math.sqrt(2800 / 4)
