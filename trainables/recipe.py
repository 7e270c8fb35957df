"""The recipe of a trial: what step k is made of when nothing interferes.

It is a function of (config, data index) alone. Faults are swaps put on top of it; the diagnosis takes its reference
values from it, so no reference ever comes from an injector.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainables.config import TrialConfig
from trainables.data.images import ImageSource
from trainables.data.index import ImageIndex
from trainables.data.normalize import Normalization, build_normalization
from trainables.data.sampler import EpochSampler
from trainables.ingredients import Ingredients
from trainables.optim import peak_learning_rate
from trainables.schedules import RateAt, build_schedule

SOUND_NORMALIZATIONS = ("per_channel", "imagenet")
"""Declared normalisations that are practice, not discrepancies; any other is compared with per_channel."""


@dataclass(frozen=True)
class Recipe:
    """Reference values of every ingredient, by step."""

    config: TrialConfig
    index: ImageIndex
    train: ImageSource
    val: ImageSource
    sampler: EpochSampler
    rate_at: RateAt
    declared_normalization: Normalization
    reference_normalization: Normalization

    @classmethod
    def build(cls, config: TrialConfig, index: ImageIndex) -> Recipe:
        """Raises DataError where the batch is larger than the data set."""
        data = config.data
        declared = build_normalization(data.normalization, index.channel_mean, index.channel_std)
        sound = data.normalization if data.normalization in SOUND_NORMALIZATIONS else "per_channel"
        return cls(
            config=config,
            index=index,
            train=ImageSource(index.train, data.image_size, data.augment, config.seed),
            val=ImageSource(index.val, data.image_size, "none", config.seed),
            sampler=EpochSampler(len(index.train), config.global_batch_size, config.seed),
            rate_at=build_schedule(
                config.schedule, peak_learning_rate(config.optim, config.global_batch_size), config.max_steps
            ),
            declared_normalization=declared,
            reference_normalization=build_normalization(sound, index.channel_mean, index.channel_std),
        )

    def ingredients(self, step: int) -> Ingredients:
        """What `step` is made of."""
        return Ingredients(
            step=step,
            learning_rate=self.rate_at(step),
            momentum=self.config.optim.momentum,
            clip_grad_norm=self.config.optim.clip_grad_norm,
            sample_ids=self.sampler.sample_ids(step),
            epochs=self.sampler.epochs(step),
            decode=self.train.fetch,
            normalize=self.declared_normalization,
            label=self.true_labels,
            companions=None,
            amp=self.config.precision.amp,
        )

    def true_labels(self, ids: np.ndarray, _epochs: np.ndarray) -> np.ndarray:
        """Labels of the index, int64 [n]."""
        labels: np.ndarray = self.index.train.labels[ids]
        return labels

    def expected_input_moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Per-channel mean and std that the reference normalisation gives over the training set."""
        normalization = self.reference_normalization
        stats = zip(self.index.channel_mean, self.index.channel_std, normalization.mean, normalization.std, strict=True)
        moments = [((mean - shift) / scale, std / scale) for mean, std, shift, scale in stats]
        return tuple(m for m, _ in moments), tuple(s for _, s in moments)
