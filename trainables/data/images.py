"""Samples to pixels: decode, augment, resize. A sample's pixels are a function of (seed, epoch, sample id) only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from torchvision.transforms.v2 import functional

from trainables.data.augment import Rectangle, color_jitter, draw_crop, resized_crop
from trainables.data.auto_augment import rand_augment, trivial_augment
from trainables.data.decode import Decoder, Picture, open_whole
from trainables.data.index import Split
from trainables.data.quarantine import Quarantine
from trainables.errors import DecodeError
from trainables.rng import generator

Augment = Literal["none", "flip", "crop", "crop_flip"]
TOGETHER = 16
"""Samples that are read and drawn before the first of them is decoded, which bounds the memory.

After an image has been decoded, the caches of the processor hold neither the code that draws nor its data. Drawn one by
one between two decodes it took four times as long.
"""


class Helper(Protocol):
    """Another process that does a source's work."""

    def serves(self, source: ImageSource) -> bool:
        """Whether it can do what this source asks for."""

    def fetch(self, source: ImageSource, ids: np.ndarray, epoch: int | np.ndarray | None) -> torch.Tensor:
        """As `ImageSource.fetch`. Raises LoaderError besides, where the process has ended."""

    def fetch_sound(self, source: ImageSource, ids: np.ndarray) -> tuple[torch.Tensor, np.ndarray]:
        """As `ImageSource.fetch_sound`. Raises LoaderError besides, where the process has ended."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What is to be made of a picture: all that crop and flip draw, before anything is decoded."""

    picture: Picture
    crop: Rectangle | None = None
    """None: the middle."""
    flip: bool = False


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
        samples = list(zip(ids.tolist(), epochs, strict=True))
        for first in range(0, len(samples), TOGETHER):
            few = samples[first : first + TOGETHER]
            plans = [self._plan_sound(*sample) for sample in few]
            for row, (sample, plan) in enumerate(zip(few, plans, strict=True), first):
                batch[row] = self._sample(*sample, plan)
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
                batch[len(kept)] = self._carry_out(self._plan(sample_id, sample_id, None), sample_id, None)
            except DecodeError as error:
                if self.quarantine is None:
                    raise
                self.quarantine.add(sample_id, error)
            else:
                kept.append(sample_id)
        return batch[: len(kept)], np.array(kept, dtype=np.int64)

    def _empty(self, n: int) -> torch.Tensor:
        return torch.empty((n, self.image_size, self.image_size, 3), dtype=torch.uint8)

    def _sample(self, sample_id: int, epoch: int | None, plan: Plan | None) -> torch.Tensor:
        """The sample, or its stand-in, as planned, or where there is no plan yet: uint8 [image_size, image_size, 3]."""

        def pixels(stored: int) -> torch.Tensor:
            planned = plan if stored == sample_id else None
            return self._carry_out(planned or self._plan(stored, sample_id, epoch), sample_id, epoch)

        return pixels(sample_id) if self.quarantine is None else self.quarantine.decode(sample_id, pixels)

    def _plan_sound(self, sample_id: int, epoch: int | None) -> Plan | None:
        """The plan of a sample; None where it can't be opened, an error that belongs to its turn."""
        try:
            return self._plan(sample_id, sample_id, epoch)
        except DecodeError:
            return None

    def _plan(self, stored: int, sample_id: int, epoch: int | None) -> Plan:
        """What becomes of the image of `stored` by the draws of `sample_id`."""
        picture = self.decoder(self.split.store.read(stored), self.split.store.locate(stored))
        if epoch is None:
            return Plan(picture)
        # Each augmentation has a key of its own: trials that differ in one of them still share the others' draws.
        rng = generator(self.seed, "augment", epoch, sample_id)
        # Drawn first whether used or not: `crop` and `crop_flip` then share their crops.
        flip = rng.random() < 0.5 and "flip" in self.augment
        if "crop" not in self.augment:
            return Plan(picture, flip=flip)
        return Plan(picture, draw_crop(rng, picture.height, picture.width, self.crop_min_area), flip)

    def _carry_out(self, plan: Plan, sample_id: int, epoch: int | None) -> torch.Tensor:
        """Decode, crop, resize, flip and recolour: uint8 [image_size, image_size, 3]."""
        if plan.crop is None:
            pixels = centre_square(plan.picture.whole(), self.image_size, self.eval_crop_ratio)
        else:
            pixels = resized_crop(plan.picture, plan.crop, self.image_size)
        if plan.flip:
            pixels = pixels.flip(-1)
        if epoch is not None:
            pixels = self._recolour(pixels, sample_id, epoch)
        return pixels.permute(1, 2, 0)

    def _recolour(self, pixels: torch.Tensor, sample_id: int, epoch: int) -> torch.Tensor:
        if self.color_jitter or self.hue_jitter:
            rng = generator(self.seed, "color_jitter", epoch, sample_id)
            pixels = color_jitter(pixels, rng, self.color_jitter, self.hue_jitter)
        if self.rand_augment_ops:
            rng = generator(self.seed, "rand_augment", epoch, sample_id)
            pixels = rand_augment(pixels, rng, self.rand_augment_ops, self.rand_augment_magnitude)
        if self.trivial_augment:
            pixels = trivial_augment(pixels, generator(self.seed, "trivial_augment", epoch, sample_id))
        return pixels


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
