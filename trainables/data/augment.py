"""Random crop and colour jitter of one image, drawn from the generator that is given, never from torch's global one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn import functional as F
from torchvision.transforms.v2 import functional

from trainables.data.decode import Picture

CROP_RATIO = (3 / 4, 4 / 3)
"""Width / height of a random crop."""


Rectangle = tuple[int, int, int, int]
"""top, left, height, width, in pixels."""


def resized_crop(picture: Picture, rectangle: Rectangle, size: int) -> torch.Tensor:
    """Decode a rectangle and resize it (antialiased): uint8 [3, size, size], as torchvision's v2 resizes it."""
    region = picture.region(*rectangle)
    # The decoders give channels_last, and so does interpolate where the stride of the batch dimension says so too,
    # which it doesn't after region[None]. Else the copy into a batch of NHWC takes as long as the resize.
    image = region.permute(1, 2, 0)[None].permute(0, 3, 1, 2)
    return F.interpolate(image, (size, size), mode="bilinear", antialias=True)[0]


def draw_crop(rng: np.random.Generator, height: int, width: int, min_area: float) -> Rectangle:
    """Draw the rectangle of a random resized crop.

    Args:
        rng: what it is drawn from.
        height: of the image.
        width: of the image.
        min_area: least share of the image that the rectangle covers, above 0 and up to 1.

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


def color_jitter(pixels: torch.Tensor, rng: np.random.Generator, strength: float, hue: float) -> torch.Tensor:
    """Change brightness, contrast, saturation and hue, in random order: uint8 [3, h, w] -> uint8 [3, h, w].

    Args:
        pixels: the image.
        rng: what the order and the four factors are drawn from.
        strength: the first three are multiplied by a uniform factor of 1 - strength to 1 + strength, at least 0.
        hue: the hue is turned by a uniform share of -hue to hue of the circle, up to 0.5.

    Source: torchvision's `v2.ColorJitter`.

    """
    order = rng.permutation(len(ADJUSTMENTS))
    factors = [*rng.uniform(max(0.0, 1.0 - strength), 1.0 + strength, size=3), rng.uniform(-hue, hue)]
    return adjust_colors(pixels, order.tolist(), [float(factor) for factor in factors])


ADJUSTMENTS: tuple[Callable[[torch.Tensor, float], torch.Tensor], ...] = (
    functional.adjust_brightness,
    functional.adjust_contrast,
    functional.adjust_saturation,
    functional.adjust_hue,
)
NEUTRAL = (1.0, 1.0, 1.0, 0.0)
"""Factors of ADJUSTMENTS that change nothing."""


def adjust_colors(pixels: torch.Tensor, order: Sequence[int], factors: Sequence[float]) -> torch.Tensor:
    """Apply ADJUSTMENTS in `order`, each by its factor: uint8 [3, h, w] -> uint8 [3, h, w]."""
    for place in order:
        if factors[place] != NEUTRAL[place]:
            pixels = ADJUSTMENTS[place](pixels, factors[place])
    return pixels
