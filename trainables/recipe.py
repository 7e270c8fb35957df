"""The recipe of a trial: what step k is made of when nothing interferes.

It is a function of (config, data index) alone. Faults are swaps put on top of it; the diagnosis takes its reference
values from it, so no reference ever comes from an injector.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from trainables.config import TrialConfig
from trainables.data.decode_region import open_decoder
from trainables.data.images import Helper, ImageSource
from trainables.data.index import ImageIndex
from trainables.data.mixing import draw_mix
from trainables.data.normalize import Normalization, build_normalization
from trainables.data.quarantine import Quarantine
from trainables.data.sampler import EpochSampler
from trainables.errors import DataError, complaint
from trainables.ingredients import EvaluationIngredients, Ingredients
from trainables.loop import train_step
from trainables.losses import Loss, build_loss, count_right
from trainables.optim import Hyperparameters, peak_learning_rate
from trainables.schedules import RateAt, build_schedule

SOUND_NORMALIZATIONS = ("per_channel", "imagenet")
"""Declared normalisations that are practice, not discrepancies; any other is compared with per_channel."""


@dataclass(frozen=True)
class Recipe:
    """Reference values of every ingredient, by step."""

    config: TrialConfig
    index: ImageIndex
    train: ImageSource
    """Training images at their last side, data.image_size."""
    val: ImageSource
    sampler: EpochSampler
    rate_at: RateAt
    declared_normalization: Normalization
    reference_normalization: Normalization
    loss: Loss

    @classmethod
    def build(cls, config: TrialConfig, index: ImageIndex) -> Recipe:
        """Take the parts together.

        Raises DataError where the batch is larger than the data set, or data.train_samples is not its size, and
        ConfigError where the decoder isn't installed.
        """
        data = config.data
        if data.train_samples not in (None, len(index.train)):
            allowed = f"{len(index.train)}, the images of train/"
            raise DataError(complaint("data.train_samples", data.train_samples, allowed, "correct it"))
        decoder = open_decoder(data.decoder)
        declared = build_normalization(data.normalization, index.channel_mean, index.channel_std)
        sound = data.normalization if data.normalization in SOUND_NORMALIZATIONS else "per_channel"
        return cls(
            config=config,
            index=index,
            train=ImageSource(
                index.train,
                data.image_size,
                data.augment,
                config.seed,
                crop_min_area=data.crop_min_area,
                color_jitter=data.color_jitter,
                hue_jitter=data.hue_jitter,
                rand_augment_ops=data.rand_augment_ops,
                rand_augment_magnitude=data.rand_augment_magnitude,
                trivial_augment=data.trivial_augment,
                eval_crop_ratio=data.eval_crop_ratio,
                decoder=decoder,
                quarantine=Quarantine(index.train, data.max_quarantined),
            ),
            val=ImageSource(
                index.val,
                data.eval_size or data.image_size,
                "none",
                config.seed,
                eval_crop_ratio=data.eval_crop_ratio,
                decoder=decoder,
                quarantine=Quarantine(index.val, data.max_quarantined),
            ),
            sampler=EpochSampler(len(index.train), config.global_batch_size, config.seed),
            rate_at=build_schedule(
                config.schedule, peak_learning_rate(config.optim, config.global_batch_size), config.max_steps
            ),
            declared_normalization=declared,
            reference_normalization=build_normalization(sound, index.channel_mean, index.channel_std),
            loss=build_loss(config.optim.loss, config.optim.label_smoothing),
        )

    def helped_by(self, helper: Helper) -> Recipe:
        """The same recipe, whose images another process makes."""
        train, val = (replace(source, helper=helper) for source in (self.train, self.val))
        return replace(self, train=train, val=val)

    def ingredients(self, step: int) -> Ingredients:
        """What `step` is made of."""
        data = self.config.data
        return Ingredients(
            step=step,
            optim=Hyperparameters.of(self.config.optim, self.rate_at(step)),
            clip_grad_norm=self.config.optim.clip_grad_norm,
            agc=self.config.optim.agc,
            sample_ids=self.sampler.sample_ids(step),
            epochs=self.sampler.epochs(step),
            decode=self.source(step).fetch,
            normalize=self.declared_normalization,
            label=self.true_labels,
            companions=None,
            norm=None,
            loss=self.loss,
            mix=draw_mix(self.config.seed, step, data.mixup_alpha, data.cutmix_alpha, self.side(step)),
            amp=self.config.precision.amp,
            loss_scale=self.config.precision.loss_scale,
            code=train_step,
        )

    def evaluation(self, step: int) -> EvaluationIngredients:
        """What an evaluation on val/ after `step` steps is made of."""
        return EvaluationIngredients(
            step=step,
            sample_ids=np.arange(len(self.index.val)),
            decode=self.val.fetch_sound,
            normalize=self.declared_normalization,
            label=self.index.val.labels.__getitem__,
            metric=count_right,
            amp=self.config.precision.amp,
        )

    def side(self, step: int) -> int:
        """Side of the training images at `step`, in pixels: it grows linearly over data.grow_steps.

        A multiple of data.size_multiple until the last of these steps, from where on it is data.image_size.
        Source: progressive resizing as FFCV's ImageNet example does it (Leclerc et al. 2023).

        """
        data = self.config.data
        if data.start_size is None or step >= data.grow_steps[1]:
            return data.image_size
        exact = float(np.interp(step, data.grow_steps, (data.start_size, data.image_size)))
        return min(max(1, round(exact / data.size_multiple)) * data.size_multiple, data.image_size)

    def size_changes(self) -> tuple[int, ...]:
        """Steps at which the side of the training images changes: what the loss was before is no measure for it."""
        data = self.config.data
        if data.start_size is None:
            return ()
        steps = range(data.grow_steps[0], data.grow_steps[1] + 1)
        sides = pairwise(map(self.side, steps))
        return tuple(step for step, (before, now) in zip(steps[1:], sides, strict=True) if now != before)

    def quarantined(self) -> list[str]:
        """Where the images are that this process found not to decode."""
        sources = (self.train, self.val)
        return [file for source in sources if source.quarantine is not None for file in source.quarantine.files()]

    def source(self, step: int) -> ImageSource:
        """The training images at the side of `step`: `train`, but for progressive resizing."""
        side = self.side(step)
        return self.train if side == self.train.image_size else replace(self.train, image_size=side)

    def true_labels(self, ids: np.ndarray, _epochs: np.ndarray) -> np.ndarray:
        """Labels of the index, int64 [n]."""
        labels: np.ndarray = self.index.train.labels[ids]
        return labels

    def guess_top1(self) -> float:
        """Top-1 of the best constant guess over the training set: the share of its largest class."""
        labels = self.index.train.labels
        return float(np.bincount(labels).max() / len(labels))

    def expected_input_moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Per-channel mean and std that the reference normalisation gives over the training set.

        Empty where the augmentation changes colours: RandAugment moves them by up to a standard deviation of what the
        index holds.
        """
        if self.config.data.recolors:
            return (), ()
        normalization = self.reference_normalization
        stats = zip(self.index.channel_mean, self.index.channel_std, normalization.mean, normalization.std, strict=True)
        moments = [((mean - shift) / scale, std / scale) for mean, std, shift, scale in stats]
        return tuple(m for m, _ in moments), tuple(s for _, s in moments)
