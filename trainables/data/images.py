"""Samples to pixels: decode, augment, resize. A sample's pixels are a function of (seed, epoch, sample id) only."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torchvision.transforms.v2 import functional

from trainables.data.decode import decode_rgb
from trainables.data.index import Split
from trainables.rng import generator

Augment = Literal["none", "flip", "crop", "crop_flip"]

CROP_AREA = (0.5, 1.0)
"""Share of the image that a random crop covers."""
CROP_RATIO = (3 / 4, 4 / 3)
"""Width / height of a random crop."""


class ImageSource:
    """Random access to the pixels of a split; safe to call from several threads at once.

    Args:
        split: the samples.
        image_size: side of the square that comes out, in pixels.
        augment: none (as in evaluation), flip, crop (random resized crop) or crop_flip.
        seed: keys the augmentation, with epoch and sample id.

    """

    def __init__(self, split: Split, image_size: int, augment: Augment, seed: int) -> None:
        self.split = split
        self.image_size = image_size
        self.augment = augment
        self.seed = seed

    def fetch(self, ids: np.ndarray, epoch: int | np.ndarray | None) -> torch.Tensor:
        """Decode and augment samples, each independent of its neighbours in the batch.

        Args:
            ids: places in the split, int64 [n].
            epoch: keys the augmentation: one for all, or int64 [n] where a batch runs across an epoch border.
                None: the evaluation transform (short side resized to image_size, centre crop).

        Returns:
            uint8 [n, image_size, image_size, 3], RGB.

        Raises:
            DataError: an image doesn't decode; the line names the file.

        """
        batch = torch.empty((len(ids), self.image_size, self.image_size, 3), dtype=torch.uint8)
        epochs = [None] * len(ids) if epoch is None else np.broadcast_to(epoch, len(ids)).tolist()
        for row, (sample_id, sample_epoch) in enumerate(zip(ids.tolist(), epochs, strict=True)):
            batch[row] = self._sample(sample_id, sample_epoch).permute(1, 2, 0)
        return batch

    def _sample(self, sample_id: int, epoch: int | None) -> torch.Tensor:
        pixels = decode_rgb(self.split.paths[sample_id])
        if epoch is None or self.augment == "none":
            return centre_square(pixels, self.image_size)
        rng = generator(self.seed, "augment", epoch, sample_id)
        # Drawn first whether used or not: `crop` and `crop_flip` then share their crops.
        flip = rng.random() < 0.5
        if "crop" in self.augment:
            top, left, height, width = draw_crop(rng, pixels.shape[-2], pixels.shape[-1])
            size = [self.image_size, self.image_size]
            pixels = functional.resized_crop(pixels, top, left, height, width, size, antialias=True)
        else:
            pixels = centre_square(pixels, self.image_size)
        return functional.horizontal_flip(pixels) if flip and "flip" in self.augment else pixels


def centre_square(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """Resize the short side to `size` (antialiased) and cut the middle: uint8 [3, h, w] -> uint8 [3, size, size]."""
    square: torch.Tensor = functional.center_crop(functional.resize(pixels, [size], antialias=True), [size, size])
    return square


def draw_crop(rng: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int]:
    """Draw the rectangle of a random resized crop, in pixels.

    Returns:
        top, left, height, width.

    Source: torchvision's `RandomResizedCrop.make_params` (Szegedy et al. 2014): ten tries of a uniform area and a
    log-uniform ratio, then the largest centre crop whose ratio is allowed.

    """
    log_ratio = (math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1]))
    for _ in range(10):
        area = height * width * rng.uniform(*CROP_AREA)
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
