"""Samples to pixels: decode, augment, resize. A sample's pixels are a function of (seed, epoch, sample id) only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torchvision.transforms.v2 import functional

from trainables.data.augment import rand_augment, random_resized_crop
from trainables.data.decode import decode_rgb
from trainables.data.index import Split
from trainables.rng import generator

Augment = Literal["none", "flip", "crop", "crop_flip"]


@dataclass(frozen=True, eq=False)
class ImageSource:
    """Random access to the pixels of a split; safe to call from several threads at once."""

    split: Split
    """The samples."""
    image_size: int
    """Side of the square that comes out, in pixels."""
    augment: Augment
    """none (the middle of the image, as in evaluation), flip, crop (random resized crop) or crop_flip."""
    seed: int
    """Keys the augmentation, with epoch and sample id."""
    crop_min_area: float = 0.5
    """Least share of the image that a random crop covers."""
    rand_augment_ops: int = 0
    """Operations of RandAugment, after crop and flip; 0: none."""
    rand_augment_magnitude: int = 6
    """Strength of RandAugment, 0 to 30."""
    eval_crop_ratio: float = 1.0
    """Side of the middle that is cut over the short side of the image, wherever no random crop is drawn."""

    def fetch(self, ids: np.ndarray, epoch: int | np.ndarray | None) -> torch.Tensor:
        """Decode and augment samples, each independent of its neighbours in the batch.

        Args:
            ids: places in the split, int64 [n].
            epoch: keys the augmentation: one for all, or int64 [n] where a batch runs across an epoch border.
                None: the evaluation transform (short side resized to image_size / eval_crop_ratio, centre crop).

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
        pixels = read_rgb(self.split, sample_id)
        if epoch is None:
            return centre_square(pixels, self.image_size, self.eval_crop_ratio)
        pixels = self._crop_and_flip(pixels, generator(self.seed, "augment", epoch, sample_id))
        if self.rand_augment_ops == 0:
            return pixels
        # A key of its own: trials that differ in crop or flip still share their operations.
        rng = generator(self.seed, "rand_augment", epoch, sample_id)
        return rand_augment(pixels, rng, self.rand_augment_ops, self.rand_augment_magnitude)

    def _crop_and_flip(self, pixels: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        # Drawn first whether used or not: `crop` and `crop_flip` then share their crops.
        flip = rng.random() < 0.5
        if "crop" in self.augment:
            pixels = random_resized_crop(pixels, rng, self.image_size, self.crop_min_area)
        else:
            pixels = centre_square(pixels, self.image_size, self.eval_crop_ratio)
        return functional.horizontal_flip(pixels) if flip and "flip" in self.augment else pixels


def read_rgb(split: Split, sample_id: int) -> torch.Tensor:
    """The stored pixels of a sample: uint8 [3, height, width]. Raises DataError, which names the file."""
    return decode_rgb(split.store.read(sample_id), split.store.locate(sample_id))


def centre_square(pixels: torch.Tensor, size: int, ratio: float) -> torch.Tensor:
    """Resize the short side to `size / ratio`, rounded (antialiased), and cut the middle.

    Args:
        pixels: uint8 [3, h, w].
        size: side of the square, in pixels.
        ratio: side of the square over the short side, above 0 and up to 1; torchvision's 256 and 224 are 0.875.

    Returns:
        uint8 [3, size, size].

    """
    resized = functional.resize(pixels, [round(size / ratio)], antialias=True)
    square: torch.Tensor = functional.center_crop(resized, [size, size])
    return square
