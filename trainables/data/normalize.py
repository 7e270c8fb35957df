"""How uint8 pixels become the floats that the model sees, the discrepancies that people really make included."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, get_args

import torch

from trainables.errors import ConfigError, complaint

if TYPE_CHECKING:
    from trainables.data_config import NormalizationName

Channels = tuple[float, float, float]

IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)
"""Moments of ImageNet's training pixels / 255, as in torchvision's presets."""


@dataclass(frozen=True)
class Normalization:
    """(pixel * scale - mean) / std for each channel; runs on the device that the pixels lie on."""

    name: str
    mean: Channels
    std: Channels
    scale: float
    """Factor of the stored pixels: 1/255, or 1 where the division was forgotten."""
    reverse_channels: bool
    """True: the channels come as B, G, R, but mean and std stay those of R, G, B."""

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise a batch.

        Args:
            images: uint8 [n, height, width, 3], RGB.

        Returns:
            float32 [n, 3, height, width], on the same device, in channels_last layout.

        """
        factor, offset = _affine(self.mean, self.std, self.scale, images.device)
        if self.reverse_channels:
            images = images.flip(-1)
        return torch.addcmul(offset, images.to(torch.float32), factor).permute(0, 3, 1, 2)


def build_normalization(name: NormalizationName, channel_mean: Channels, channel_std: Channels) -> Normalization:
    """Build a normalisation by its name in the config.

    Args:
        name: per_channel, imagenet, one_scale, no_div255 or bgr; see `DataConfig.normalization`.
        channel_mean: mean of the training pixels / 255.
        channel_std: their standard deviation.

    Raises:
        ConfigError: `name` is none of these.

    """
    if name == "per_channel":
        return Normalization(name, channel_mean, channel_std, 1 / 255, reverse_channels=False)
    if name == "imagenet":
        return Normalization(name, IMAGENET_MEAN, IMAGENET_STD, 1 / 255, reverse_channels=False)
    if name == "one_scale":
        mean, std = _pool(channel_mean, channel_std)
        return Normalization(name, (mean, mean, mean), (std, std, std), 1 / 255, reverse_channels=False)
    if name == "no_div255":
        return Normalization(name, channel_mean, channel_std, 1.0, reverse_channels=False)
    if name == "bgr":
        return Normalization(name, channel_mean, channel_std, 1 / 255, reverse_channels=True)
    raise ConfigError(complaint("data.normalization", name, ", ".join(_names()), "choose one of these"))


def _pool(means: Channels, stds: Channels) -> tuple[float, float]:
    """Moments of all pixels of the three channels taken together."""
    mean = sum(means) / 3
    return mean, math.sqrt(sum(s**2 + m**2 for m, s in zip(means, stds, strict=True)) / 3 - mean**2)


def _names() -> tuple[str, ...]:
    from trainables.data_config import NormalizationName

    return get_args(NormalizationName)


# Kept because a copy of constants to a GPU at every step would wait for the device and break CUDA graphs.
@lru_cache(maxsize=64)
def _affine(mean: Channels, std: Channels, scale: float, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    factor = [scale / s for s in std]
    offset = [-m / s for m, s in zip(mean, std, strict=True)]
    return torch.tensor(factor, device=device), torch.tensor(offset, device=device)
