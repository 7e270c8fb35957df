"""torchvision's ResNets with any normalisation layer, and a stem that fits small images."""

from __future__ import annotations

import torch
import torchvision
from torch import nn

from trainables.config import ModelConfig
from trainables.norms import build_norm_layer

SMALL_IMAGE = 64
"""Below this side, in pixels, the stem is a 3x3 convolution of stride 2 without max-pooling: with ImageNet's stem the
last stage would be a single pixel, and batch norm at a small batch would see almost no values."""


def build_model(config: ModelConfig, *, num_classes: int, image_size: int, seed: int) -> nn.Module:
    """A ResNet whose initial weights depend on `seed` alone; the global RNG is left as it was."""
    norm_layer = build_norm_layer(config.norm, config.ghost_batch_size)
    constructor = getattr(torchvision.models, config.name)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model: nn.Module = constructor(
            num_classes=num_classes,
            norm_layer=norm_layer,
            zero_init_residual=config.zero_init_last_gamma and config.norm != "frozen_bn",
        )
        if image_size < SMALL_IMAGE:
            model.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=2, padding=1, bias=False)
            nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
            model.maxpool = nn.Identity()
    if config.zero_init_last_gamma and config.norm == "gn":
        _zero_last_gamma(model)
    return model


def _zero_last_gamma(model: nn.Module) -> None:
    """What torchvision's zero_init_residual does for batch norm only (Goyal et al. 2017, section 5.1)."""
    for block in model.modules():
        last = getattr(block, "bn3", None) or (getattr(block, "bn2", None) if not hasattr(block, "bn3") else None)
        if isinstance(last, nn.GroupNorm):
            nn.init.zeros_(last.weight)
