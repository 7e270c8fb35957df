"""Random changes of one image, each drawn from the generator that is given, never from torch's global one."""

from __future__ import annotations

import math

import numpy as np
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

CROP_RATIO = (3 / 4, 4 / 3)
"""Width / height of a random crop."""

# What torchvision's RandAugment does to an image, as it stands: its own draws come from torch's global generator, which
# the loader's threads share, so only its table of operations and its way to apply one are used.
_RAND_AUGMENT = v2.RandAugment()
_OPERATIONS = _RAND_AUGMENT._AUGMENTATION_SPACE  # noqa: SLF001
RAND_AUGMENT_NAMES: tuple[str, ...] = tuple(_OPERATIONS)
"""Operations of RandAugment, by torchvision's names."""


def random_resized_crop(pixels: torch.Tensor, rng: np.random.Generator, size: int, min_area: float) -> torch.Tensor:
    """Cut a random rectangle and resize it (antialiased): uint8 [3, h, w] -> uint8 [3, size, size]."""
    top, left, height, width = draw_crop(rng, pixels.shape[-2], pixels.shape[-1], min_area)
    crop: torch.Tensor = functional.resized_crop(pixels, top, left, height, width, [size, size], antialias=True)
    return crop


def draw_crop(rng: np.random.Generator, height: int, width: int, min_area: float) -> tuple[int, int, int, int]:
    """Draw the rectangle of a random resized crop, in pixels.

    Args:
        rng: what it is drawn from.
        height: of the image.
        width: of the image.
        min_area: least share of the image that the rectangle covers, above 0 and up to 1.

    Returns:
        top, left, height, width.

    Source: torchvision's `RandomResizedCrop.make_params` (Szegedy et al. 2014): ten tries of a uniform area and a
    log-uniform ratio, then the largest centre crop whose ratio is allowed.

    """
    log_ratio = (math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1]))
    for _ in range(10):
        area = height * width * rng.uniform(min_area, 1.0)
        ratio = math.exp(rng.uniform(*log_ratio))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(rng.integers(0, height - crop_height + 1))
            left = int(rng.integers(0, width - crop_width + 1))
            return top, left, crop_height, crop_width
    crop_width, crop_height = width, height
    if width / height < CROP_RATIO[0]:
        crop_height = min(height, round(width / CROP_RATIO[0]))
    elif width / height > CROP_RATIO[1]:
        crop_width = min(width, round(height * CROP_RATIO[1]))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


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


def apply_operation(pixels: torch.Tensor, name: str, magnitude: int, *, negative: bool) -> torch.Tensor:
    """One operation of torchvision's `v2.RandAugment`: uint8 [3, h, w] -> uint8 [3, h, w].

    Args:
        pixels: the image.
        name: one of RAND_AUGMENT_NAMES.
        magnitude: strength, 0 to 30; some operations have none.
        negative: the other direction (left for right, darker for brighter), where the operation has two.

    """
    magnitudes_of, signed = _OPERATIONS[name]
    magnitudes = magnitudes_of(_RAND_AUGMENT.num_magnitude_bins, pixels.shape[-2], pixels.shape[-1])
    strength = 0.0 if magnitudes is None else float(magnitudes[magnitude])
    strength = -strength if signed and negative else strength
    changed: torch.Tensor = _RAND_AUGMENT._apply_image_or_video_transform(  # noqa: SLF001
        pixels,
        name,
        strength,
        interpolation=_RAND_AUGMENT.interpolation,
        fill=_RAND_AUGMENT._fill,  # noqa: SLF001
    )
    return changed
