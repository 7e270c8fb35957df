"""RandAugment and TrivialAugment with torchvision's operations, drawn from the generator that is given."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torchvision.transforms import v2

# Torchvision's own draws come from torch's global generator, which the loader's threads share, so only its tables of
# operations and its way to apply one are used, as they stand.
_RAND_AUGMENT = v2.RandAugment()
_TRIVIAL_AUGMENT = v2.TrivialAugmentWide()
RAND_AUGMENT_NAMES: tuple[str, ...] = tuple(_RAND_AUGMENT._AUGMENTATION_SPACE)  # noqa: SLF001
TRIVIAL_AUGMENT_NAMES: tuple[str, ...] = tuple(_TRIVIAL_AUGMENT._AUGMENTATION_SPACE)  # noqa: SLF001
"""Operations of each, by torchvision's names."""
MAGNITUDES = _TRIVIAL_AUGMENT.num_magnitude_bins
"""Strengths of an operation are 0 to this, exclusive."""


def rand_augment(pixels: torch.Tensor, rng: np.random.Generator, num_ops: int, magnitude: int) -> torch.Tensor:
    """RandAugment (Cubuk et al. 2019): `num_ops` operations, each drawn anew, one after the other.

    Args:
        pixels: uint8 [3, h, w].
        rng: what the operations and their signs are drawn from.
        num_ops: 0 or more.
        magnitude: their strength, 0 to 30.

    Returns:
        uint8 [3, h, w].

    """
    for _ in range(num_ops):
        name = RAND_AUGMENT_NAMES[int(rng.integers(len(RAND_AUGMENT_NAMES)))]
        pixels = apply_operation(pixels, name, magnitude, negative=rng.random() < 0.5)
    return pixels


def trivial_augment(pixels: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """TrivialAugment Wide (Müller and Hutter 2021): one operation of random strength: uint8 [3, h, w] -> the same."""
    name = TRIVIAL_AUGMENT_NAMES[int(rng.integers(len(TRIVIAL_AUGMENT_NAMES)))]
    magnitude = int(rng.integers(MAGNITUDES))
    return apply_wide_operation(pixels, name, magnitude, negative=rng.random() < 0.5)


def apply_operation(pixels: torch.Tensor, name: str, magnitude: int, *, negative: bool) -> torch.Tensor:
    """One operation of torchvision's `v2.RandAugment`: uint8 [3, h, w] -> uint8 [3, h, w].

    Args:
        pixels: the image.
        name: one of RAND_AUGMENT_NAMES.
        magnitude: strength, 0 to 30; some operations have none.
        negative: the other direction (left for right, darker for brighter), where the operation has two.

    """
    return _apply(_RAND_AUGMENT, pixels, name, magnitude, negative=negative)


def apply_wide_operation(pixels: torch.Tensor, name: str, magnitude: int, *, negative: bool) -> torch.Tensor:
    """As `apply_operation`, of torchvision's `v2.TrivialAugmentWide`, whose strengths reach further."""
    return _apply(_TRIVIAL_AUGMENT, pixels, name, magnitude, negative=negative)


def _apply(transform: Any, pixels: torch.Tensor, name: str, magnitude: int, *, negative: bool) -> torch.Tensor:
    magnitudes_of, signed = transform._AUGMENTATION_SPACE[name]  # noqa: SLF001
    magnitudes = magnitudes_of(transform.num_magnitude_bins, pixels.shape[-2], pixels.shape[-1])
    strength = 0.0 if magnitudes is None else float(magnitudes[magnitude])
    strength = -strength if signed and negative else strength
    changed: torch.Tensor = transform._apply_image_or_video_transform(  # noqa: SLF001
        pixels,
        name,
        strength,
        interpolation=transform.interpolation,
        fill=transform._fill,  # noqa: SLF001
    )
    return changed
