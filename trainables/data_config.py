"""DataConfig: which images, and what is done to them on their way to the model."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from trainables.errors import complaint
from trainables.section import NonNegative, PositiveInt, Section, Step

NormalizationName = Literal["per_channel", "imagenet", "one_scale", "no_div255", "bgr"]
ImageSide = Annotated[int, Field(ge=8, le=1024)]
Share = Annotated[float, Field(gt=0, le=1)]


class DataConfig(Section):
    """Which images, and how they become the model's input."""

    path: str = "digits"
    """`digits` (scikit-learn's handwritten digits, embedded); a folder with train/ and val/, each of class folders; or
    what `epoch14 shard` made: a folder of Arrow shards, or their URI (s3://bucket/prefix), which each node copies once
    to $EPOCH14_CACHE on its disk. No disk has room for it: stream+s3://bucket/prefix fetches each image when it is
    read."""
    train_samples: PositiveInt | None = None
    """Images of train/, where lengths are given in epochs (`90ep`); checked against the folder."""
    image_size: ImageSide = 32
    """Side of the square that the model is trained on, in pixels."""
    start_size: ImageSide | None = None
    """Progressive resizing: the side at first, which then grows to image_size; null: image_size throughout."""
    grow_steps: tuple[Step, Step] = (0, 0)
    """Progressive resizing: first and last step of the linear growth."""
    size_multiple: PositiveInt = 32
    """Progressive resizing: the side is rounded to a multiple of this, in pixels."""
    eval_size: ImageSide | None = None
    """Side of the square in evaluation; null: image_size."""
    eval_crop_ratio: Share = 1.0
    """Evaluation cuts the middle: the side of the cut over the short side of the image (ImageNet's practice: 0.875)."""
    normalization: NormalizationName = "per_channel"
    """How uint8 pixels become floats: per_channel (the data set's own mean and std), imagenet, or a discrepancy that
    people really make: one_scale (one mean and std for all channels), no_div255 (missing /255), bgr (channels
    reversed)."""
    augment: Literal["none", "flip", "crop", "crop_flip"] = "crop"
    """Random resized crop and horizontal flip, drawn per (seed, epoch, sample id)."""
    crop_min_area: Share = 0.5
    """Least share of the image that a random crop covers (ImageNet's practice: 0.08)."""
    color_jitter: NonNegative = 0.0
    """Brightness, contrast and saturation of each image times a factor of 1 - this to 1 + this; 0: none."""
    hue_jitter: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Share of the colour circle that the hue of each image is turned by at most; 0: none."""
    rand_augment_ops: Annotated[int, Field(ge=0, le=8)] = 0
    """Operations of RandAugment on each image, drawn per (seed, epoch, sample id); 0: none."""
    rand_augment_magnitude: Annotated[int, Field(ge=0, le=30)] = 6
    """Strength of RandAugment, of 30."""
    trivial_augment: bool = False
    """One operation of TrivialAugment Wide on each image, of random strength."""
    mixup_alpha: NonNegative = 0.0
    """Mixup's Beta parameter; 0: none. With cutmix_alpha too, each step draws one of the two."""
    cutmix_alpha: NonNegative = 0.0
    """CutMix's Beta parameter; 0: none."""
    decoder: Literal["torchvision", "turbojpeg", "nvimgcodec"] = "torchvision"
    """The last two (extra `fast`) decode a random crop alone: the same pixels, faster, by turbojpeg the fastest."""
    max_quarantined: Annotated[int, Field(ge=0)] = 16
    """Images that may fail to decode. Each is named and counted; in training the next one of its class that decodes
    takes its place, in evaluation it is left out. One more stops the run."""
    loader_threads: Annotated[int, Field(ge=0, le=64)] = 1
    """Threads that decode ahead; 0 decodes in the step. Changes nothing but speed."""
    loader: Literal["auto", "threads", "process"] = "auto"
    """Where these threads run: threads, in the process that trains; process, in one beside it, so that they never hold
    up the launch of a kernel (Linux); auto, process where a GPU trains, else threads. Changes nothing but speed."""

    @property
    def recolors(self) -> bool:
        """Whether the augmentation moves the channels' moments from those of the stored images."""
        return bool(self.color_jitter or self.hue_jitter or self.rand_augment_ops or self.trivial_augment)

    @model_validator(mode="after")
    def _sizes_grow(self) -> Self:
        if self.start_size is not None and self.start_size > self.image_size:
            allowed = f"up to data.image_size ({self.image_size})"
            raise ValueError(complaint("data.start_size", self.start_size, allowed, "lower it"))
        first, last = self.grow_steps
        if self.start_size is None and last > 0:
            allowed = "[0, 0] without data.start_size"
            raise ValueError(complaint("data.grow_steps", [first, last], allowed, "set data.start_size"))
        if first > last or (self.start_size is not None and first == last):
            allowed = "the first step of the growth, then its last one" + (" (a later one)" if first == last else "")
            raise ValueError(complaint("data.grow_steps", [first, last], allowed, "correct data.grow_steps"))
        return self
