"""Samples to pixels: decode, augment, resize. A sample's pixels are a function of (seed, epoch, sample id) only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torchvision.transforms.v2 import functional

from trainables.data.augment import color_jitter, random_resized_crop
from trainables.data.auto_augment import rand_augment, trivial_augment
from trainables.data.decode import Decoder, Picture, open_whole
from trainables.data.index import Split
from trainables.data.quarantine import Quarantine
from trainables.errors import DecodeError
from trainables.rng import generator

Augment = Literal["none", "flip", "crop", "crop_flip"]


class Helper(Protocol):
    """Another process that does a source's work."""

    def serves(self, source: ImageSource) -> bool:
        """Whether it can do what this source asks for."""

    def fetch(self, source: ImageSource, ids: np.ndarray, epoch: int | np.ndarray | None) -> torch.Tensor:
        """As `ImageSource.fetch`. Raises LoaderError besides, where the process has ended."""

    def fetch_sound(self, source: ImageSource, ids: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        """As `ImageSource.fetch_sound`. Raises LoaderError besides, where the process has ended."""


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
    color_jitter: float = 0.0
    """Brightness, contrast and saturation each times 1 - this to 1 + this, after crop and flip."""
    hue_jitter: float = 0.0
    """Share of the circle that the hue is turned by at most, either way."""
    rand_augment_ops: int = 0
    """Operations of RandAugment, after the colour jitter; 0: none."""
    rand_augment_magnitude: int = 6
    """Strength of RandAugment, 0 to 30."""
    trivial_augment: bool = False
    """One operation of TrivialAugment, last."""
    eval_crop_ratio: float = 1.0
    """Side of the middle that is cut over the short side of the image, wherever no random crop is drawn."""
    decoder: Decoder = open_whole
    """Encoded bytes to pixels."""
    quarantine: Quarantine | None = None
    """Takes the images that don't decode; None: one is an error."""
    helper: Helper | None = None
    """Does the work where it can; None: it is done here."""

    def fetch(
        self, ids: np.ndarray, epoch: int | np.ndarray | None, *, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Decode and augment samples, each independent of its neighbours in the batch.

        Args:
            ids: places in the split, int64 [n].
            epoch: keys the augmentation: one for all, or int64 [n] where a batch runs across an epoch border.
                None: the evaluation transform (short side resized to image_size / eval_crop_ratio, centre crop).
            out: what to write to, of the shape that is returned; None: fresh memory.

        Returns:
            uint8 [n, image_size, image_size, 3], RGB.

        Raises:
            DataError: an image can't be read, or doesn't decode and may not be quarantined; the line names the file.

        """
        if self.helper is not None and self.helper.serves(self):
            return self.helper.fetch(self, ids, epoch)
        batch = self._empty(len(ids)) if out is None else out
        epochs = [None] * len(ids) if epoch is None else np.broadcast_to(epoch, len(ids)).tolist()
        for row, (sample_id, sample_epoch) in enumerate(zip(ids.tolist(), epochs, strict=True)):
            batch[row] = self._sample(sample_id, sample_epoch)
        return batch

    def fetch_sound(self, ids: np.ndarray, *, out: torch.Tensor | None = None) -> tuple[torch.Tensor, np.ndarray]:
        """The evaluation transform of those samples that decode, and their ids; the others are quarantined.

        Without a quarantine an image that doesn't decode is a DataError, as in `fetch`.
        """
        if self.helper is not None and self.helper.serves(self):
            return self.helper.fetch_sound(self, ids)
        batch = self._empty(len(ids)) if out is None else out
        kept: list[int] = []
        for sample_id in ids.tolist():
            try:
                batch[len(kept)] = self._transformed(sample_id, sample_id, None)
            except DecodeError as error:
                if self.quarantine is None:
                    raise
                self.quarantine.add(sample_id, error)
            else:
                kept.append(sample_id)
        return batch[: len(kept)], np.array(kept, dtype=np.int64)

    def _empty(self, n: int) -> torch.Tensor:
        return torch.empty((n, self.image_size, self.image_size, 3), dtype=torch.uint8)

    def _sample(self, sample_id: int, epoch: int | None) -> torch.Tensor:
        if self.quarantine is None:
            return self._transformed(sample_id, sample_id, epoch)
        return self.quarantine.decode(sample_id, lambda stored: self._transformed(stored, sample_id, epoch))

    def _transformed(self, stored: int, sample_id: int, epoch: int | None) -> torch.Tensor:
        """The image of `stored` with the augmentation of `sample_id`: uint8 [image_size, image_size, 3]."""
        picture = self.decoder(self.split.store.read(stored), self.split.store.locate(stored))
        return self._augmented(picture, sample_id, epoch).permute(1, 2, 0)

    def _augmented(self, picture: Picture, sample_id: int, epoch: int | None) -> torch.Tensor:
        if epoch is None:
            return centre_square(picture.whole(), self.image_size, self.eval_crop_ratio)
        # Each has a key of its own: trials that differ in one of them still share the others' draws.
        pixels = self._crop_and_flip(picture, generator(self.seed, "augment", epoch, sample_id))
        if self.color_jitter or self.hue_jitter:
            rng = generator(self.seed, "color_jitter", epoch, sample_id)
            pixels = color_jitter(pixels, rng, self.color_jitter, self.hue_jitter)
        if self.rand_augment_ops:
            rng = generator(self.seed, "rand_augment", epoch, sample_id)
            pixels = rand_augment(pixels, rng, self.rand_augment_ops, self.rand_augment_magnitude)
        if self.trivial_augment:
            pixels = trivial_augment(pixels, generator(self.seed, "trivial_augment", epoch, sample_id))
        return pixels

    def _crop_and_flip(self, picture: Picture, rng: np.random.Generator) -> torch.Tensor:
        # Drawn first whether used or not: `crop` and `crop_flip` then share their crops.
        flip = rng.random() < 0.5
        if "crop" in self.augment:
            pixels = random_resized_crop(picture, rng, self.image_size, self.crop_min_area)
        else:
            pixels = centre_square(picture.whole(), self.image_size, self.eval_crop_ratio)
        return functional.horizontal_flip(pixels) if flip and "flip" in self.augment else pixels


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
